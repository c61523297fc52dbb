from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meter_fakes import make_run
from rank_runs import POWER_W, make_rank, series

from clisonix.errors import ClisonixError
from clisonix.meter import (
    Record,
    Span,
    Trace,
    compare,
    merge,
    read_record,
    render_html,
    render_markdown,
    verify,
    write_record,
)
from clisonix.meter.recording.merged_account import Merged
from clisonix.meter.recording.record import digest
from clisonix.meter.recording.shared_clocks import Source
from clisonix.meter.spans import seconds_of, union


def failures(folder: Path) -> list[str]:
    return [finding.what for finding in verify(folder) if not finding.ok]


def text(folder: Path) -> str:
    return (folder / "record.json").read_text()


def joules(record: Record, window: str, device: str) -> float | None:
    return sum(reading.joules or 0.0 for reading in record.devices(window) if reading.device.startswith(device))


def test_every_device_of_every_rank_is_there_once(tmp_path: Path) -> None:
    ranks = [
        make_rank(tmp_path / f"{i}", rank=i, devices=(gpu, "cpu")) for i, gpu in enumerate(["GPU-aaaa", "GPU-bbbb"])
    ]
    record = merge(ranks, tmp_path / "m")
    assert joules(record, "train", "gpu:GPU-aaaa") == pytest.approx(20 * POWER_W["GPU-aaaa"])
    assert joules(record, "train", "gpu:GPU-bbbb") == pytest.approx(20 * POWER_W["GPU-bbbb"])
    # What is modelled per process adds up: two processes, two shares.
    assert joules(record, "train", "cpu") == pytest.approx(2 * 20 * POWER_W["cpu"])
    assert record.total("train").joules == pytest.approx(20 * (300 + 200 + 6 + 6))
    assert record.hardware == {"cpu": "test CPU", "cores": 8, "gpus": ["test GPU", "test GPU"], "nodes": 1}
    assert failures(tmp_path / "m") == []


def test_a_device_that_two_ranks_watch_is_counted_once_over_the_union_of_their_time(tmp_path: Path) -> None:
    first = make_rank(tmp_path / "0", rank=0, devices=("GPU-aaaa",), train=(12.0, 32.0))
    second = make_rank(tmp_path / "1", rank=1, devices=("GPU-aaaa",), train=(20.0, 40.0))
    record = merge([first, second], tmp_path / "m")
    assert record.total("train").joules == pytest.approx(28 * POWER_W["GPU-aaaa"])
    assert record.total("train").reason is None
    assert record.time["train_s"] == 28.0
    assert len(record.devices("train")) == 1


def test_a_stretch_that_no_trace_watched_is_named_as_missing(tmp_path: Path) -> None:
    # Rank 1 trains long before its own sampling of the device begins, and rank 0 does not watch that either.
    first = make_rank(tmp_path / "0", rank=0, devices=("GPU-aaaa",), train=(12.0, 20.0))
    late = make_rank(tmp_path / "1", rank=1, devices=("GPU-aaaa",), train=(27.0, 40.0), start_s=28.0)
    record = merge([first, late], tmp_path / "m")
    assert record.total("train").joules == pytest.approx((8 + 12) * POWER_W["GPU-aaaa"])
    assert "no trace watched it" in (record.total("train").reason or "")


def test_a_package_counter_covers_all_processes_of_its_machine(tmp_path: Path) -> None:
    counted = make_rank(tmp_path / "0", rank=0, devices=("cpu:0",))
    modelled = make_rank(tmp_path / "1", rank=1, devices=("cpu",))
    record = merge([counted, modelled], tmp_path / "m")
    assert record.total("train").joules == pytest.approx(20 * POWER_W["cpu:0"])
    assert record.total("train").source == "rapl-counter"


def test_packages_of_two_machines_are_two_devices(tmp_path: Path) -> None:
    ranks = [
        make_rank(tmp_path / str(i), rank=i, devices=("cpu:0",), node=f"node-{i}", clock_s=i / 10) for i in range(2)
    ]
    record = merge(ranks, tmp_path / "m")
    assert record.total("train").joules == pytest.approx(2 * 20 * POWER_W["cpu:0"])
    assert {reading.device for reading in record.devices("train")} == {"cpu:0@node-0", "cpu:0@node-1"}
    assert (record.hardware["cores"], record.hardware["nodes"]) == (16, 2)


def test_time_on_several_machines_is_united_by_the_wall_clock(tmp_path: Path) -> None:
    first = make_rank(tmp_path / "0", rank=0, node="x", clock_s=0.0)
    # Its monotonic clock shows 1000 s more; on the wall it trains 15 s later than rank 0.
    second = make_rank(
        tmp_path / "1",
        rank=1,
        node="y",
        devices=("GPU-bbbb",),
        start_s=1020.0,
        train=(1027.0, 1047.0),
        clock_s=1000.0,
    )
    assert merge([first, second], tmp_path / "m").time["train_s"] == pytest.approx(35.0)


def test_records_without_a_node_are_told_apart_by_their_clocks(tmp_path: Path) -> None:
    same = [make_rank(tmp_path / f"s{i}", rank=i, devices=("cpu:0",), node=None) for i in range(2)]
    other = make_rank(tmp_path / "o", rank=2, devices=("cpu:0",), node=None, clock_s=500.0)
    record = merge([*same, other], tmp_path / "m")
    assert len(record.devices("train")) == 2


def test_a_record_without_a_node_joins_the_machine_that_has_its_gpu(tmp_path: Path) -> None:
    new = make_rank(tmp_path / "0", rank=0, devices=("GPU-aaaa",))
    old = make_rank(tmp_path / "1", rank=1, devices=("GPU-aaaa",), node=None)
    assert merge([new, old], tmp_path / "m").total("train").joules == pytest.approx(20 * POWER_W["GPU-aaaa"])


def test_a_restart_of_the_machine_adds_up(tmp_path: Path) -> None:
    before = make_rank(tmp_path / "0", rank=0, devices=("GPU-aaaa",), node="boot-1")
    after = make_rank(tmp_path / "1", rank=0, devices=("GPU-aaaa",), node="boot-2", utc="2026-01-01T01:00:00+00:00")
    record = merge([before, after], tmp_path / "m")
    assert record.total("train").joules == pytest.approx(40 * POWER_W["GPU-aaaa"])
    assert record.time["train_s"] == pytest.approx(40.0)


def test_traces_that_contradict_each_other_are_reported_and_widen_the_figure(tmp_path: Path) -> None:
    honest = make_rank(tmp_path / "0", rank=0, devices=("GPU-aaaa",))
    forged = make_rank(
        tmp_path / "1", rank=1, devices=("GPU-aaaa",), change=lambda one: replace(one, joules=one.joules * 0.5)
    )
    record = merge([honest, forged], tmp_path / "m")
    energy = record.total("train")
    assert any("contradict each other" in note for note in record.notes)
    assert "contradict each other" in (energy.reason or "")
    assert energy.low == pytest.approx(10 * POWER_W["GPU-aaaa"])
    assert energy.high == pytest.approx(20 * POWER_W["GPU-aaaa"])
    assert failures(tmp_path / "m") == []


def test_an_offset_between_two_views_of_one_counter_is_no_contradiction(tmp_path: Path) -> None:
    ranks = [
        make_rank(tmp_path / "0", rank=0, devices=("GPU-aaaa",)),
        make_rank(
            tmp_path / "1", rank=1, devices=("GPU-aaaa",), change=lambda one: replace(one, joules=one.joules + 7)
        ),
    ]
    assert merge(ranks, tmp_path / "m").total("train").reason is None


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("ranks")
    return [
        make_rank(root / "0", rank=0, devices=("GPU-aaaa", "cpu")),
        make_rank(root / "1", rank=1, devices=("GPU-aaaa", "GPU-bbbb", "cpu"), train=(14.0, 36.0)),
        make_rank(root / "2", rank=2, devices=("GPU-bbbb", "cpu:0"), train=(20.0, 30.0), node=None),
        make_rank(root / "3", rank=3, devices=("cpu:0", "cpu"), node="node-2", clock_s=77.0, seed=1),
    ]


def test_merging_is_commutative(ranks: list[Path], tmp_path: Path) -> None:
    texts = {
        text(tmp_path / f"{i}")
        for i, order in enumerate(permutations(ranks[:3]))
        if merge(list(order), tmp_path / f"{i}")
    }
    assert len(texts) == 1


def test_merging_is_associative_and_idempotent(ranks: list[Path], tmp_path: Path) -> None:
    a, b, c, d = ranks
    merge([a, b], tmp_path / "ab")
    merge([c, d], tmp_path / "cd")
    merge([tmp_path / "ab", c], tmp_path / "ab c")
    merge([tmp_path / "ab", tmp_path / "cd"], tmp_path / "left")
    merge([tmp_path / "ab c", d], tmp_path / "right")
    merge([tmp_path / "right", a, b, tmp_path / "left", d], tmp_path / "again")
    assert text(tmp_path / "left") == text(tmp_path / "right") == text(tmp_path / "again")
    merge([tmp_path / "again"], tmp_path / "again")
    assert text(tmp_path / "again") == text(tmp_path / "left")
    assert len(read_record(tmp_path / "again").parts) == 4
    assert failures(tmp_path / "again") == []


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=9))
def test_figures_are_a_function_of_the_set_of_traces(ranks: list[Path], picks: list[int]) -> None:
    def source(i: int) -> Source:
        record = read_record(ranks[i])
        attempt = record.attempts[0]
        trace = Trace.load(ranks[i] / "trace-0.npz")
        return Source(trace, record.files["trace-0.npz"]["sha256"], f"rank-{attempt['rank']}", attempt.get("node"))

    found, sorted_once = Merged(map(source, picks)), Merged(map(source, sorted(set(picks))))
    for name in ("run", "train", "train/dense", "nothing"):
        assert found.readings(name) == sorted_once.readings(name)
        assert found.energy(name) == sorted_once.energy(name)
        assert found.seconds(name) == sorted_once.seconds(name)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(12, 60), st.floats(0.6, 30), st.floats(0, 4)), min_size=1, max_size=5))
def test_a_device_seen_by_any_ranks_uses_its_power_times_the_union(spans: list[tuple[float, float, float]]) -> None:
    sources = []
    for i, (start, length, early) in enumerate(spans):
        watched = series("GPU-aaaa", start - early, start + length + 1)
        trace = Trace([watched], [Span("train", start, start + length)], [], "2026-01-01T00:00:00+00:00", 0.0)
        sources.append(Source(trace, f"{i:02}", "", "n"))
    found = Merged(sources)
    united = seconds_of(union(span for source in sources for span in source.trace.windows))
    assert found.seconds("train") == pytest.approx(united)
    energy = found.energy("train")
    assert energy.joules == pytest.approx(united * POWER_W["GPU-aaaa"])
    assert energy.reason is None
    assert found.conflicts == []


def test_what_the_parts_do_not_agree_on_is_left_out_and_said(ranks: list[Path], tmp_path: Path) -> None:
    record = merge([ranks[0], ranks[3]], tmp_path / "m")
    assert record.seed is None
    assert any("differ in seed" in note for note in record.notes)
    assert record.task == "digits"
    assert {"a note of rank 0", "a note of rank 3", "a note of every rank"} <= set(record.notes)


@pytest.mark.parametrize(
    ("field", "value"),
    [("energy", {}), ("time", {"train_s": 1.0}), ("hardware", {}), ("notes", []), ("name", "other"), ("seed", 9)],
)
def test_a_forged_merged_record_is_found(ranks: list[Path], tmp_path: Path, field: str, value: object) -> None:
    merge(ranks[:2], tmp_path / "m")
    content = json.loads(text(tmp_path / "m"))
    content[field] = value
    content["digest"] = digest(content)
    (tmp_path / "m" / "record.json").write_text(json.dumps(content))
    assert any(f"the merged {field}" in what for what in failures(tmp_path / "m"))


def test_a_part_that_was_changed_left_out_or_put_in_is_found(ranks: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "m"
    merge(ranks[:2], out)
    part = out / read_record(out).parts[0]["folder"]
    path = part / "trace-0.npz"
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert any("hash of trace-0.npz" in what for what in failures(out))
    merge(ranks[:2], out)
    shutil.rmtree(part)
    assert failures(out)
    merge(ranks[:2], out)
    record = read_record(out)
    record.parts = record.parts[:1]
    write_record(out, record)
    assert any("the merged energy" in what for what in failures(out))


@pytest.mark.parametrize("name", ["../elsewhere", "/etc"])
def test_a_part_outside_the_folder_is_refused(ranks: list[Path], tmp_path: Path, name: str) -> None:
    merge(ranks[:2], tmp_path / "m")
    content = json.loads(text(tmp_path / "m"))
    content["parts"][0].update(id=name, folder=name)
    content["digest"] = digest(content)
    (tmp_path / "m" / "record.json").write_text(json.dumps(content))
    assert any("outside its folder" in what for what in failures(tmp_path / "m"))


def test_the_same_model_of_every_rank_is_stored_once(ranks: list[Path], tmp_path: Path) -> None:
    merge(ranks[:2], tmp_path / "m")
    models = list((tmp_path / "m").glob("parts/*/model.safetensors"))
    assert len(models) == 2
    assert len({path.stat().st_ino for path in models}) == 1
    # The originals are not linked to: changing one cannot spoil the merged folder.
    assert (ranks[0] / "model.safetensors").stat().st_ino not in {path.stat().st_ino for path in models}


def test_a_damaged_run_is_not_merged(ranks: list[Path], tmp_path: Path) -> None:
    shutil.copytree(ranks[0], tmp_path / "bad")
    (tmp_path / "bad" / "trace-0.npz").write_bytes(b"")
    with pytest.raises(ClisonixError, match="cannot be merged"):
        merge([tmp_path / "bad"], tmp_path / "m")
    assert not (tmp_path / "m").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]


def test_nothing_but_a_merged_run_is_replaced(ranks: list[Path], tmp_path: Path) -> None:
    shutil.copytree(ranks[0], tmp_path / "run")
    with pytest.raises(ClisonixError, match="no merged run"):
        merge(ranks[:2], tmp_path / "run")
    with pytest.raises(ClisonixError, match="nothing to merge"):
        merge([], tmp_path / "m")
    with pytest.raises(ClisonixError, match="cannot be merged"):
        merge([tmp_path / "nowhere"], tmp_path / "m")


def test_carbon_is_the_merged_energy_times_the_common_factor(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a", seed=1), make_run(tmp_path / "b", seed=2)
    record = merge([a, b], tmp_path / "m")
    factor = (read_record(a).carbon or {})["factor_g_per_kwh"]
    assert record.carbon is not None
    assert record.carbon["grams"] == pytest.approx((record.total("run").joules or 0) / 3.6e6 * factor)
    assert record.carbon["place"] == "FRA"


def test_a_merged_run_is_compared_and_reported_like_any_other(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a", seed=1, labels_seed=3), make_run(tmp_path / "b", seed=1, labels_seed=3)
    merge([a], tmp_path / "m")
    found = compare([b], [tmp_path / "m"])
    assert found.row("energy").ratio == pytest.approx(1.0, rel=1e-9)
    assert found.row("time").ratio_low is not None
    assert found.row("quality").difference == 0.0
    page = render_html(tmp_path / "m")
    assert "Merged from" in page
    assert page.count("<svg") == 2
    assert "## Parts" in render_markdown(tmp_path / "m")
