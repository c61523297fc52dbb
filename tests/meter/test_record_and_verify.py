from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from meter_fakes import make_run

from clisonix.errors import ClisonixError
from clisonix.meter import (
    Embodied,
    Pue,
    Record,
    Trace,
    carbon_block,
    combine,
    energy_block,
    file_entries,
    read_record,
    render_html,
    verify,
    write_record,
)
from clisonix.meter.recording.record import digest, inside


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


def failures(run: Path) -> list[str]:
    return [finding.what for finding in verify(run) if not finding.ok]


def change(run: Path, edit: dict) -> None:
    """Edit the record as a careful forger would: with a fresh digest."""
    content = json.loads((run / "record.json").read_text())
    content.update(edit)
    content["digest"] = digest(content)
    (run / "record.json").write_text(json.dumps(content))


def test_an_untouched_run_verifies(run: Path) -> None:
    assert failures(run) == []
    whats = " ".join(finding.what for finding in verify(run))
    for part in ("digest", "hash of trace-1.npz", "energy of train", "train_s", "size", "accuracy", "carbon"):
        assert part in whats


def test_a_record_reads_back_as_written(run: Path) -> None:
    record = read_record(run)
    write_record(run, record)
    assert read_record(run) == record


@pytest.mark.parametrize("name", ["trace-1.npz", "log.jsonl", "model.safetensors", "predictions.npz", "record.json"])
@pytest.mark.parametrize("where", [0.0, 0.31, 0.5, 0.77, 1.0])
def test_a_flipped_byte_is_found_in_every_file(run: Path, name: str, where: float) -> None:
    path = run / name
    content = bytearray(path.read_bytes())
    # The last byte of the record is its newline, which carries nothing.
    i = min(int(where * len(content)), len(content) - (2 if name == "record.json" else 1))
    content[i] ^= 0x04
    path.write_bytes(bytes(content))
    assert failures(run)


@pytest.mark.parametrize("name", ["trace-1.npz", "log.jsonl", "model.safetensors", "predictions.npz"])
def test_a_missing_file_is_found(run: Path, name: str) -> None:
    (run / name).unlink()
    assert any(name in what for what in failures(run))


def test_forged_figures_are_found_though_every_hash_is_right(run: Path) -> None:
    record = read_record(run)
    energy = json.loads(json.dumps(record.energy))
    energy["train"]["total"]["joules"] *= 1 - 1e-15
    for edit, word in (
        ({"energy": energy}, "energy of train"),
        ({"time": {"train_s": record.time["train_s"] * 0.5}}, "train_s"),
        ({"size": {**record.size, "bytes": 10}}, "size"),
        ({"quality": {**(record.quality or {}), "value": 0.99}}, "accuracy"),
        ({"quality": {**(record.quality or {}), "low": 0.98}}, "accuracy"),
        ({"carbon": {**(record.carbon or {}), "grams": 0.0}}, "carbon"),
        ({"carbon": {**(record.carbon or {}), "high": 0.0}}, "carbon"),
        ({"attempts": []}, "energy claimed cannot be checked"),
        ({"energy": {}}, "leaves out its energy"),
        ({"files": {k: v for k, v in record.files.items() if k != "trace-1.npz"}}, "no hash"),
    ):
        write_record(run, record)
        assert failures(run) == []
        change(run, edit)
        assert any(word in what for what in failures(run)), edit


def test_a_digest_catches_an_edit_of_what_nothing_else_checks(run: Path) -> None:
    content = json.loads((run / "record.json").read_text())
    content["notes"] = ["all is well"]
    (run / "record.json").write_text(json.dumps(content))
    assert any("digest" in what for what in failures(run))


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../secret", ".", "link"])
def test_a_name_that_leads_out_of_the_folder_is_refused(run: Path, name: str) -> None:
    (run.parent / "secret").write_text("x")
    (run / "link").symlink_to(run.parent / "secret")
    with pytest.raises(ClisonixError, match="outside its folder"):
        inside(run, name)
    record = read_record(run)
    change(run, {"files": {**record.files, name: {"sha256": "0", "bytes": 1}}})
    assert any("outside its folder" in what for what in failures(run))
    write_record(run, record)
    change(run, {"attempts": [{"trace": name}]})
    assert any("outside its folder" in what for what in failures(run))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("", "not valid JSON"),
        ("[]", "JSON object"),
        ('{"schema": "clisonix.record/3"}', "newer"),
        ('{"schema": "other/1"}', "expected"),
        ('{"schema": "clisonix.record/1"}', "missing"),
        ('{"schema": "clisonix.record/1", "name": "x", "created_utc": "t", "enrgy": {}}', "did you mean 'energy'"),
        ('{"schema": "clisonix.record/1", "name": "x", "created_utc": "t", "energy": 3}', "not a dict"),
    ],
)
def test_a_record_that_cannot_be_understood_is_refused(tmp_path: Path, content: str, match: str) -> None:
    (tmp_path / "record.json").write_text(content)
    with pytest.raises(ClisonixError, match=match):
        read_record(tmp_path)
    assert not verify(tmp_path)[0].ok


def test_a_folder_without_a_record_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(ClisonixError, match="not a run"):
        read_record(tmp_path)
    assert not verify(tmp_path)[0].ok


def test_figures_that_are_not_finite_become_null(tmp_path: Path) -> None:
    write_record(
        tmp_path,
        Record("x", "t", quality={"metric": "accuracy", "value": float("nan")}, config={"a": [float("inf")]}),
    )
    assert read_record(tmp_path).quality == {"metric": "accuracy", "value": None}
    assert read_record(tmp_path).config == {"a": [None]}


def test_a_damaged_part_is_a_finding_and_not_a_crash(run: Path) -> None:
    change(run, {"attempts": [{}], "files": {"log.jsonl": {}}, "quality": {"value": 1.0}, "carbon": {"grams": 1.0}})
    assert len(failures(run)) >= 3


def test_a_prediction_that_is_not_finite_is_wrong(run: Path) -> None:
    from clisonix.meter import read_predictions

    np.savez(run / "p.npz", label=np.array([0, 0]), logits=np.array([[np.nan, 0.0], [1.0, 0.0]], np.float32))
    assert read_predictions(run / "p.npz").accuracy()["value"] == 0.5


def test_a_resumed_run_is_the_sum_of_its_attempts(run: Path) -> None:
    record = read_record(run)
    once = record.total("train").joules
    shutil.copy(run / "trace-1.npz", run / "trace-2.npz")
    account = combine([Trace.load(run / "trace-1.npz"), Trace.load(run / "trace-2.npz")])
    record.attempts[0]["ended_cleanly"] = False
    record.attempts.append(
        {"trace": "trace-2.npz", "started_utc": "2026-01-01T00:02:00+00:00", "ended_cleanly": True}
    )
    record.energy, record.time = energy_block(account), {"train_s": account.seconds("train")}
    record.carbon = carbon_block(record.total("run"), "FRA", "run")
    record.files |= file_entries(run, ["trace-2.npz"])
    write_record(run, record)
    assert failures(run) == []
    assert record.total("train").joules == pytest.approx(2 * (once or 0))
    page = render_html(run)
    assert "attempt 1, started 2026-01-01T00:00:00+00:00, was cut off" in page
    assert "attempt 2" in page


def as_version_1(run: Path, **changes: object) -> dict:
    """Rewrite a record as the first version wrote it."""
    content = json.loads((run / "record.json").read_text())
    content.pop("parts", None)
    content["schema"] = "clisonix.record/1"
    energy = read_record(run).total("run")
    factor = content["carbon"]["factor_g_per_kwh"]
    grams = {key: (value or 0.0) / 3.6e6 * factor for key, value in (("low", energy.low), ("high", energy.high))}
    for key in ("factor_low", "factor_high", "range_how", "lines"):
        content["carbon"].pop(key, None)
    content["carbon"].update(grams)
    content.update(changes)
    content["digest"] = digest(content)
    (run / "record.json").write_text(json.dumps(content))
    return content


def test_a_record_of_the_first_version_is_read_verified_reported_and_written_anew(run: Path) -> None:
    as_version_1(run)
    record = read_record(run)
    assert record.schema == "clisonix.record/1"
    assert record.parts == []
    assert failures(run) == []
    assert "the factor&#39;s own range is unknown" in render_html(run)
    write_record(run, record)
    assert json.loads((run / "record.json").read_text())["schema"] == "clisonix.record/2"


def test_a_forged_record_of_the_first_version_is_found(run: Path) -> None:
    energy = read_record(run).energy
    energy["train"]["total"]["joules"] *= 1 - 1e-15
    as_version_1(run, energy=energy)
    assert any("energy of train" in what for what in failures(run))


def test_further_lines_of_carbon_are_recomputed(run: Path) -> None:
    record = read_record(run)
    seconds = Trace.load(run / "trace-1.npz").seconds("run")
    record.carbon = carbon_block(
        record.total("run"), "FRA", "run",
        pue=Pue(1.4, "operator"), embodied=[Embodied(100, 1e4, "maker")], seconds=seconds,
    )  # fmt: skip
    write_record(run, record)
    assert failures(run) == []
    assert record.carbon is not None
    for i, edit in ((0, {"grams": 0.0}), (0, {"pue": 1.0}), (1, {"kg": 1.0}), (1, {"seconds": 1.0, "grams": 0.0})):
        lines = json.loads(json.dumps(record.carbon["lines"]))
        lines[i].update(edit)
        write_record(run, record)
        change(run, {"carbon": {**record.carbon, "lines": lines}})
        assert any(f"{record.carbon['lines'][i]['what']!r}" in what for what in failures(run)), edit
