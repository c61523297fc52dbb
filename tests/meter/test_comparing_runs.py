from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from meter_fakes import make_run
from rich.console import Console
from scipy import stats

from clisonix.errors import ClisonixError
from clisonix.meter import comparison_table, read_predictions, read_record, write_record
from clisonix.meter.comparing.compare import compare
from clisonix.meter.comparing.runs import two_sides


def edit(folder: Path, **fields: object) -> Path:
    record = read_record(folder)
    for name, value in fields.items():
        setattr(record, name, value)
    write_record(folder, record)
    return folder


def group(root: Path, seeds: list[int], **options: float) -> Path:
    for i, seed in enumerate(seeds):
        make_run(root / f"{i}", seed=seed, epochs=3, **options)
    return root


def text(renderable: object) -> str:
    file = io.StringIO()
    Console(width=200, file=file).print(renderable)
    return file.getvalue()


def test_one_run_each_is_bootstrapped_and_says_so(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a", seed=1), make_run(tmp_path / "b", seed=2, slow=0.5)
    found = compare([a], [b])
    for metric in ("time", "energy"):
        row = found.row(metric)
        assert row.ratio_low < 0.5 * 1.1
        assert row.ratio_high > 0.5 * 0.9
        assert row.ratio_low < row.ratio < row.ratio_high < 0.7
        assert "says nothing about other seeds" in row.interval
    size = found.row("size")
    assert (size.ratio, size.ratio_low, size.ratio_high) == (0.5, 0.5, 0.5)
    assert found.rows == compare([a], [b]).rows


def test_a_run_against_itself_has_ratio_one_inside_the_interval(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a")
    found = compare([a], [a])
    for metric in ("time", "energy", "size"):
        row = found.row(metric)
        assert row.ratio == 1.0
        assert row.ratio_low <= 1.0 <= row.ratio_high
    quality = found.row("quality")
    assert quality.difference == 0.0
    # 200 samples that both judge alike leave open a difference that would have shown in none of them.
    assert -2.0 < quality.difference_low < 0.0 < quality.difference_high < 2.0


def test_a_models_coefficient_cancels_in_a_ratio(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a", gpu=False, seed=1), make_run(tmp_path / "b", gpu=False, seed=2, slow=0.5)
    row = compare([a], [b]).row("energy")
    assert "ratio of CPU time" in row.interval
    assert row.ratio_high / row.ratio_low < 1.3  # the coefficient alone spans a factor of 7


def test_runs_with_different_models_keep_the_models_uncertainty(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a", gpu=False), make_run(tmp_path / "b", gpu=False)
    record = json.loads(json.dumps(read_record(b).energy).replace("3.1 W per", "4 W per"))
    row = compare([a], [edit(b, energy=record)]).row("energy")
    assert row.ratio_high / row.ratio_low > 20
    assert "both sides" in row.interval


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("hardware", {"cpu": "other", "cores": 2, "gpus": ["test GPU"]}, "hardware"),
        ("task", "sleep stages", "task"),
        ("quality", {"metric": "f1", "value": 0.5}, "measure of quality"),
    ],
)
def test_what_is_not_comparable_is_refused_unless_forced(
    tmp_path: Path, field: str, value: object, word: str
) -> None:
    a, b = make_run(tmp_path / "a"), edit(make_run(tmp_path / "b"), **{field: value})
    with pytest.raises(ClisonixError, match=word):
        compare([a], [b])
    assert any(word in note and "Forced" in note for note in compare([a], [b], force=True).notes)


def test_measured_against_modelled_is_refused(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", gpu=False)
    with pytest.raises(ClisonixError, match="the way the energy was obtained differs"):
        compare([a], [edit(b, hardware=read_record(a).hardware)])


def test_a_missing_energy_is_shown_as_unknown(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a"), edit(make_run(tmp_path / "b"), energy={})
    found = compare([a], [b])
    assert found.row("energy").ratio is None
    assert found.row("energy").b is None
    assert "unknown" in found.row("energy").how_b
    assert "unknown" in text(comparison_table(found))
    assert found.row("time").ratio is not None


def test_without_traces_there_is_a_ratio_but_no_interval(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    (b / "trace-1.npz").unlink()
    row = compare([a], [b]).row("time")
    assert row.ratio is not None
    assert row.ratio_low is None
    assert row.interval.startswith("No interval")


def test_groups_pair_by_seed_and_match_scipy(tmp_path: Path) -> None:
    a, b = group(tmp_path / "a", [1, 2, 3]), group(tmp_path / "b", [3, 1, 2], slow=0.7)
    row = compare([a], [b]).row("time")
    times = [{r.seed: r.time["train_s"] for r in map(read_record, sorted(side.iterdir()))} for side in (a, b)]
    logs = [math.log(times[1][seed] / times[0][seed]) for seed in (1, 2, 3)]
    theirs = stats.ttest_1samp(logs, 0).confidence_interval(0.95)
    assert (row.ratio_low, row.ratio_high) == pytest.approx((math.exp(theirs.low), math.exp(theirs.high)))
    assert "3 pairs of equal seed" in row.interval
    assert compare([a], [b]).row("size").interval.startswith("Exact")


def test_groups_of_other_seeds_use_welch_and_match_scipy(tmp_path: Path) -> None:
    a, b = group(tmp_path / "a", [1, 2, 3]), group(tmp_path / "b", [4, 5], accuracy=0.8)
    row = compare([a], [b]).row("quality")
    values = [[r.quality["value"] * 100 for r in map(read_record, sorted(side.iterdir()))] for side in (a, b)]
    theirs = stats.ttest_ind(values[1], values[0], equal_var=False).confidence_interval(0.95)
    assert (row.difference_low, row.difference_high) == pytest.approx((theirs.low, theirs.high))
    assert "Welch" in row.interval


def test_a_group_against_a_single_run_of_another_seed_has_no_interval(tmp_path: Path) -> None:
    a, b = group(tmp_path / "a", [1, 2]), make_run(tmp_path / "b", seed=9, epochs=3)
    row = compare([a], [b]).row("time")
    assert row.ratio is not None
    assert row.ratio_low is None
    assert "single run" in row.interval


def test_quality_is_paired_over_the_same_test_samples(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a", seed=1), make_run(tmp_path / "b", seed=2, accuracy=0.8)
    row = compare([a], [b]).row("quality")
    right = [read_predictions(side / "predictions.npz").correct.astype(float) for side in (a, b)]
    step = 100 * (right[1] - right[0])
    half = 1.96 * step.std(ddof=1) / np.sqrt(len(step))
    assert row.difference == pytest.approx(step.mean())
    assert (row.difference_low, row.difference_high) == pytest.approx(
        (step.mean() - half, step.mean() + half), abs=1.0
    )
    assert "Paired score interval over 200 test samples" in row.interval


def test_quality_on_other_test_samples_is_unpaired(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a", seed=1), make_run(tmp_path / "b", seed=2, labels_seed=6)
    assert "Unpaired" in compare([a], [b]).row("quality").interval


def test_predictions_say_nothing_of_another_measure_than_accuracy(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    for side, value in ((a, 0.4), (b, 0.5)):
        edit(side, quality={"metric": "loss", "value": value, "n": 200, "higher_is_better": False})
    row = compare([a], [b]).row("quality")
    assert (row.difference, row.difference_low, row.unit) == (pytest.approx(0.1), None, "loss")
    assert "only accuracies" in row.interval


def test_a_total_without_devices_is_compared_as_it_is(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", seed=1)
    for side in (a, b):
        edit(side, energy={"train": {**read_record(side).energy["train"], "devices": []}})
    assert compare([a], [b]).row("energy").ratio_low is not None


def test_a_table_and_json_come_of_it(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "[red]dense"), make_run(tmp_path / "small", slow=0.5)
    found = compare([a], [b])
    printed = text(comparison_table(found))
    for word in ("time", "energy", "size", "quality", "exact", "a: [red]dense; b: small", "modelled from CPU time"):
        assert word in printed
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["rows"][0]["metric"] == "time"


def test_too_few_epochs_give_no_interval_and_a_plain_reason(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a", epochs=4), make_run(tmp_path / "b", seed=1, epochs=4)
    row = compare([a], [b]).row("time")
    assert row.ratio is not None
    assert row.ratio_low is None
    assert "no phase with 5 metered epochs" in row.interval


def test_a_models_coefficient_stays_in_the_interval_of_unlike_groups(tmp_path: Path) -> None:
    a, b = group(tmp_path / "a", [1, 2, 3], gpu=False), group(tmp_path / "b", [1, 2, 3], gpu=False)
    alike = compare([a], [b]).row("energy")
    for folder in b.iterdir():
        edit(folder, energy=json.loads(json.dumps(read_record(folder).energy).replace("3.1 W per", "4 W per")))
    unlike = compare([a], [b]).row("energy")
    assert alike.ratio_high / alike.ratio_low < 1.5
    assert unlike.ratio_high / unlike.ratio_low > 20


def test_groups_say_how_many_more_runs_are_needed(tmp_path: Path) -> None:
    a, b = group(tmp_path / "a", [1, 2, 3]), group(tmp_path / "b", [1, 2, 3], slow=1.02, accuracy=0.9)
    found = compare([a], [b], margins={"quality": 3.0, "time": 0.5})
    assert found.row("time").equivalence is not None
    assert found.row("time").equivalence.verdict == "equivalent"
    assert found.row("time").needed.more == 0
    assert found.row("energy").equivalence is None
    assert "pairs until" in found.row("energy").needed.text or "enough" in found.row("energy").needed.text
    printed = text(comparison_table(found))
    assert "time: the sides are equivalent within 50 %" in printed
    single = compare([a / "0"], [b / "0"]).row("time").needed
    assert single.more is None
    assert "one run" in single.text


def snapshot(**gpu: object) -> dict:
    cpu = {"governor": "performance", "load_1min": 0.5}
    known = {"uuid": "GPU-1", "model": "H", "temperature_c": 40, "power_limit_w": 700.0, "throttling": []}
    return {"utc": "2026-01-01T00:00:00+00:00", "cpu": cpu, "gpus": [{**known, **gpu}]}


def with_conditions(folder: Path, start: dict, end: dict) -> Path:
    record = read_record(folder)
    return edit(folder, attempts=[{**record.attempts[0], "conditions": {"start": start, "end": end}}])


def test_conditions_are_matched_and_said(tmp_path: Path) -> None:
    a = with_conditions(make_run(tmp_path / "a"), snapshot(), snapshot(temperature_c=60))
    b = with_conditions(
        make_run(tmp_path / "b", seed=1), snapshot(temperature_c=55), snapshot(throttling=["hardware slowdown"])
    )
    edit(b, software={"python": "3.12"})
    found = {one.what: one for one in compare([a], [b]).conditions}
    assert found["GPU temperature at the start (°C)"].verdict == "differs"
    assert (found["GPU throttling"].a, found["GPU throttling"].b) == ("none", "hardware slowdown")
    assert found["GPU power limit (W)"].verdict == "alike"
    assert found["CPU governor"].verdict == "alike"
    assert found["GPU SM clock at the end (MHz)"].verdict == "not recorded"
    assert (found["software"].a, found["software"].b) == ("python 3.11", "python 3.12")
    (note,) = [note for note in compare([a], [b]).notes if note.startswith("Conditions that differ")]
    assert "GPU temperature at the start (°C): 40 / 55" in note
    assert "alike: " in note
    assert "not recorded: " in note


def test_another_power_limit_is_refused_like_other_hardware(tmp_path: Path) -> None:
    a = with_conditions(make_run(tmp_path / "a"), snapshot(), snapshot())
    b = with_conditions(make_run(tmp_path / "b"), snapshot(power_limit_w=500.0), snapshot(power_limit_w=500.0))
    with pytest.raises(ClisonixError, match=r"power limit differs \(700 W / 500 W\)"):
        compare([a], [b])
    assert compare([a], [b], force=True).row("energy").ratio is not None


def test_what_is_the_same_is_said_when_nothing_is_forced(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a")
    assert any("are the same on both sides" in note for note in compare([a], [a]).notes)


def test_runs_in_blocks_are_warned_of(tmp_path: Path) -> None:
    a, b = group(tmp_path / "a", [1, 2]), group(tmp_path / "b", [1, 2])
    for i, folder in enumerate([a / "0", b / "0", a / "1", b / "1"]):
        edit(folder, created_utc=f"2026-01-01T00:0{i}:00+00:00")
    assert not any("alternately" in note for note in compare([a], [b]).notes)
    for i, folder in enumerate([b / "0", b / "1", a / "0", a / "1"]):
        edit(folder, created_utc=f"2026-01-01T00:0{i}:00+00:00")
    assert any("All runs of b were made before those of a" in note for note in compare([a], [b]).notes)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["a", "b"], (["a"], ["b"])),
        (["a1", "a2", "vs", "b1"], (["a1", "a2"], ["b1"])),
        (["a", "vs", "b1", "b2", "b3"], (["a"], ["b1", "b2", "b3"])),
        (["./vs", "b"], (["vs"], ["b"])),
    ],
)
def test_two_sides_are_told_apart(words: list[str], expected: tuple[list[str], list[str]]) -> None:
    assert two_sides(words) == tuple([Path(word) for word in side] for side in expected)


@pytest.mark.parametrize("words", [["a"], ["a", "b", "c"], ["vs", "b"], ["a", "vs"], ["a", "vs", "b", "vs", "c"]])
def test_sides_that_cannot_be_told_apart_are_refused(words: list[str]) -> None:
    with pytest.raises(ClisonixError, match="vs"):
        two_sides(words)


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClisonixError, match="holds no run"):
        compare([tmp_path], [tmp_path])
    with pytest.raises(ClisonixError, match="at least one"):
        compare([], [])
