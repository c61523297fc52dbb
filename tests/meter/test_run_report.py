from __future__ import annotations

import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from meter_fakes import make_run

from clisonix.meter import (
    Embodied,
    Pue,
    Record,
    carbon_block,
    read_record,
    render_html,
    render_markdown,
    write_record,
)
from clisonix.meter.reporting.charts import Line, line_chart, ticks
from clisonix.meter.words import quantity, signed

VOID = {"meta", "line", "circle", "br", "path"}


class Balanced(HTMLParser):
    """Fails on a tag that is closed in the wrong order; collects what could make a request."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.requests: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.requests += [
            f"{tag} {k}={v}" for k, v in attrs if k in {"src", "href", "srcset", "action", "data", "poster"}
        ]
        if tag in {"script", "link", "iframe", "img", "object", "embed", "base"}:
            self.requests.append(tag)
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.stack.pop() == tag


def page(run: Path) -> str:
    html = render_html(run)
    parser = Balanced()
    parser.feed(html)
    assert parser.stack == []
    assert parser.requests == []
    assert not re.search(r"https?:|@import|url\(", html)
    return html


def test_the_page_tells_the_run_and_asks_the_network_for_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    html = page(run)
    quality = read_record(run).quality or {}
    for text in (
        "digits", f"{100 * quality['value']:.1f} %", "train/compressed", "measured by the NVML energy counter",
        "modelled from CPU time", "500 parameters", "FRA", "attempt 1", "a note", "Power over time", "model.dim",
        "prefers-color-scheme: dark", "@media print",
    ):  # fmt: skip
        assert text in html
    assert html.count("<svg") == 2
    assert html == render_html(run)


def test_every_figure_says_in_a_sentence_how_it_was_obtained(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    record = read_record(run)
    record.carbon = carbon_block(
        record.total("run"),
        "FRA",
        "run",
        pue=Pue(1.3, "operator's report"),
        embodied=[Embodied(9, 9, "maker's label")],
        seconds=1.0,
    )
    taken = {"cpu": {"load_1min": 0.4}, "gpus": [{"model": "H", "temperature_c": 41, "throttling": []}]}
    record.attempts[0]["conditions"] = {"start": taken, "end": taken}
    write_record(run, record)
    for shown in (unescape(page(run)), unescape(render_markdown(run)).replace("\\", "")):
        for part in (
            "share of 200 held-out windows", "monotonic clock", "length of the file model.safetensors",
            "the yearly average of the electricity of FRA", "the range is the energy's interval times the range over",
            "building: PUE 1.3", "operator's report", "embodied: 9 kg over 9 h", "maker's label",
            "at the start: load 0.4, H 41 °C, not throttled",
        ):  # fmt: skip
            assert part in shown, part


def test_many_devices_are_counted_and_not_listed(tmp_path: Path) -> None:
    one = {"joules": 5.0, "low": 4.0, "high": 6.0, "source": "nvml-counter", "scope": "GPU board"}
    devices = [{**one, "device": f"gpu:{i}"} for i in range(64)]
    total = {**one, "joules": 320.0, "low": 256.0, "high": 384.0, "device": "all"}
    write_record(tmp_path, Record("big", "t", energy={"train": {"total": total, "devices": devices}}))
    html = page(tmp_path)
    assert "64 devices: 64 measured" in html
    assert "gpu:0 and 63 more" in html
    assert "gpu:17" not in html


def test_text_is_escaped_everywhere(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    evil = "<script>alert('x')</script>"
    record = read_record(run)
    record.name = record.task = record.command = evil
    record.notes, record.config, record.software = [evil], {evil: evil}, {evil: evil}
    record.hardware["cpu"], record.data = evil, {evil: evil}
    record.energy[evil] = record.energy["train"]
    record.files[evil] = {"sha256": evil, "bytes": 1}
    write_record(run, record)
    (run / "log.jsonl").write_text(
        json.dumps({"event": "epoch", "epoch": 1, "phase": evil, "accuracy": 0.5, "joules": 1.0})
    )
    assert "<script" not in page(run)
    assert "<script" not in render_markdown(run)


def test_a_bare_record_still_gives_a_report(tmp_path: Path) -> None:
    write_record(tmp_path, Record("bare", "2026-01-01T00:00:00+00:00"))
    html = page(tmp_path)
    assert "not finished" in html
    assert "No energy was recorded" in html
    assert "unknown" in html
    assert "| training time | **unknown**" in render_markdown(tmp_path)


@pytest.mark.parametrize("epochs", [1, 2])
def test_one_epoch_is_enough(tmp_path: Path, epochs: int) -> None:
    page(make_run(tmp_path / "run", epochs=epochs))


def test_quality_that_is_no_number_is_unknown(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    record = read_record(run)
    record.quality = {"metric": "accuracy", "value": float("nan"), "low": None, "high": None, "n": 0}
    write_record(run, record)
    (run / "log.jsonl").write_text('{"event": "epoch", "epoch": 1, "accuracy": NaN, "loss": NaN}\n{"event": "ep')
    html = page(run)
    assert "nan" not in html.lower().replace("nand", "")
    assert "No chart: no epoch has a finite" in html


def test_missing_energy_shows_its_reason_and_never_a_zero(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    record = read_record(run)
    missing = {"joules": None, "source": "nvml-counter", "scope": "GPU", "device": "gpu:0", "reason": "GPU is lost"}
    record.energy = {"train": {"total": missing, "devices": [missing]}}
    record.carbon = {"grams": None, "reason": "no place given"}
    write_record(run, record)
    html = page(run)
    assert "GPU is lost" in html
    assert "no place given" in html
    assert "0 J" not in re.sub(r"<svg.*?</svg>", "", html, flags=re.S)


def test_epochs_without_energy_are_shown_by_number(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "log.jsonl").write_text('{"event": "epoch", "epoch": 1, "accuracy": 0.5, "joules": null}\n')
    assert "the axis counts epochs" in page(run)


def test_a_damaged_trace_leaves_a_reason_in_place_of_the_chart(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "trace-1.npz").write_bytes(b"broken")
    assert "No chart: the trace" in page(run)


def test_markdown_has_the_same_figures(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    markdown = render_markdown(run)
    assert "| train/compressed |" in markdown
    assert quantity(read_record(run).total("train").joules, "J") in markdown


def test_the_power_chart_shows_the_true_power(tmp_path: Path) -> None:
    from clisonix.meter.reporting.report_charts import power_chart

    run = make_run(tmp_path / "run")
    chart = power_chart(run, read_record(run))
    assert chart["legend"] == ["gpu:0 (measured)", "cpu (modelled)"]
    assert ">600<" in chart["svg"]  # the highest load is 500 W, and the axis is in steps of 200 W
    assert ">800<" not in chart["svg"]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (3, 3), (0, 0), (-5, 5), (0, 1e-9), (1e9, 3e9), (99.9, 100.1)])
def test_ticks_enclose_the_range(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 12
    assert found[0] <= low + 1e-6 * abs(low)
    assert found[-1] >= high - 1e-6 * abs(high)


def test_a_chart_of_nothing_is_nothing() -> None:
    assert line_chart([Line("a", [1.0], [None]), Line("b", [float("nan")], [1.0])], "x", "y", "t") == ""


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (None, "J", "unknown"), (float("nan"), "J", "unknown"), (0.0, "J", "0 J"), (15_600.0, "J", "15.6 kJ"),
        (0.0123, "J", "12.3 mJ"), (1.5e9, "bytes", "1.50 GB"), (12, "bytes", "12.0 bytes"), (90.0, "s", "1.50 min"),
    ],
)  # fmt: skip
def test_quantities_read_well(value: float | None, unit: str, expected: str) -> None:
    assert quantity(value, unit) == expected


def test_signed_numbers_carry_their_sign() -> None:
    assert (signed(1.5), signed(-1.5)) == ("+1.50", "−1.50")
