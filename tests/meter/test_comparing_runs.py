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
from clisonix.meter.compare import compare


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
    assert (found.row("quality").difference, found.row("quality").difference_low) == (0.0, 0.0)


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
    assert "Paired bootstrap over the same 200 test samples" in row.interval


def test_quality_on_other_test_samples_is_unpaired(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a", seed=1), make_run(tmp_path / "b", seed=2, labels_seed=6)
    assert "Unpaired" in compare([a], [b]).row("quality").interval


def test_a_table_and_json_come_of_it(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "[red]dense"), make_run(tmp_path / "small", slow=0.5)
    found = compare([a], [b])
    printed = text(comparison_table(found))
    for word in ("time", "energy", "size", "quality", "exact", "a: [red]dense; b: small", "modelled from CPU time"):
        assert word in printed
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["rows"][0]["metric"] == "time"


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClisonixError, match="holds no run"):
        compare([tmp_path], [tmp_path])
    with pytest.raises(ClisonixError, match="at least one"):
        compare([], [])
