from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from meter_fakes import make_run
from scipy import stats

from clisonix.errors import ClisonixError
from clisonix.meter import gate, gate_markdown, read_record, write_record
from clisonix.meter.comparing.gate import LEVEL, Gate, judge
from clisonix.meter.comparing.gate_text import append_summary
from clisonix.meter.comparing.group_difference import contrast
from clisonix.meter.comparing.margins import parse_margins
from clisonix.meter.comparing.metrics import Measured


def sides(
    root: Path, change: dict[str, Any], seeds: range = range(5), changed_seeds: range | None = None
) -> list[Path]:
    """Two groups of runs; one dictionary of `make_run`'s options for the second."""
    for name, options, chosen in (("a", {}, seeds), ("b", change, changed_seeds or seeds)):
        for seed in chosen:
            make_run(root / name / str(seed), seed=seed, epochs=2, gpu=False, **options)
    return [root / "a", root / "b"]


def energies(a: list[float], b: list[float], paired: bool = True, **options: Any) -> Any:
    """The gate's word on two groups of energies in joules."""
    seeds_b = list(range(len(b))) if paired else list(range(100, 100 + len(b)))
    logs = [[math.log(x) for x in side] for side in (a, b)]
    found = contrast(logs[0], logs[1], list(range(len(a))), seeds_b)
    measured = Measured("energy", "J", True, list(a), list(b), found, None, "", "", "")
    return judge(measured, **{"margin": 0.02, **options})


def test_the_same_program_passes_and_a_slower_one_fails(tmp_path: Path) -> None:
    a, b = sides(tmp_path, {"slow": 1.5})
    found = gate([a], [b], {"energy": 0.02, "time": 0.05})
    assert (found.verdict, found.exit_code) == ("regress", 1)
    assert [judgement.verdict for judgement in found.judgements] == ["regress", "regress"]
    assert found.judgements[0].low > 0.02
    same = gate([a], [a], {"energy": 0.02, "time": 0.05, "size": 0.0, "quality": 0.5})
    assert (same.verdict, same.exit_code) == ("pass", 0)


def test_the_lower_bound_is_the_one_sided_t_interval_and_decides() -> None:
    rng = np.random.default_rng(0)
    for shift in (0.0, 0.01, 0.02, 0.03, 0.05):
        steps = rng.normal(math.log1p(shift), 0.01, 6)
        found = energies([100.0] * 6, list(100 * np.exp(steps)))
        theirs = stats.ttest_1samp(steps, math.log1p(0.02), alternative="greater")
        assert found.p == pytest.approx(theirs.pvalue, abs=1e-12)
        assert found.low == pytest.approx(math.expm1(theirs.confidence_interval(1 - LEVEL).low))
        assert (found.verdict == "regress") == (found.low > 0.02) == (theirs.pvalue < LEVEL)


def test_more_metrics_need_more_evidence() -> None:
    b = [100.0 * math.exp(x) for x in (0.035, 0.03, 0.04, 0.033, 0.05)]
    alone = energies([100.0] * 5, b)
    assert alone.verdict == "regress"
    assert energies([100.0] * 5, b, level=alone.p / 2).verdict == "pass"


def test_proof_passes_only_what_is_shown_and_else_cannot_tell() -> None:
    rng = np.random.default_rng(1)
    quiet = energies([100.0] * 8, list(100 * np.exp(rng.normal(0, 0.002, 8))), prove=True)
    assert quiet.verdict == "pass"
    assert quiet.high < 0.02
    noisy = energies([100.0] * 3, list(100 * np.exp(rng.normal(0, 0.05, 3))), prove=True)
    assert noisy.verdict == "cannot tell"
    assert energies([100.0] * 3, [100.0 * math.exp(x) for x in (0.0, 0.05, -0.04)]).verdict == "pass"


def test_one_run_on_each_side_cannot_tell_unless_asked_to_look_inside(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", seed=0, epochs=12, gpu=False)
    b = make_run(tmp_path / "b", seed=1, epochs=12, gpu=False, slow=2.0)
    found = gate([a], [b], {"energy": 0.02, "size": 0.02})
    assert [j.verdict for j in found.judgements] == ["cannot tell", "regress"]
    assert found.exit_code == 1  # the file is twice as large, whatever the chance between runs
    assert "--within-run" in found.judgements[0].reason
    assert gate([a], [b], {"energy": 0.02}).exit_code == 2
    inside = gate([a], [b], {"energy": 0.02}, within_run=True)
    assert inside.verdict == "regress"
    assert "own epochs" in inside.judgements[0].reason


def test_a_single_run_is_judged_by_its_rank_among_many_or_not_at_all() -> None:
    rng = np.random.default_rng(2)
    history = list(100 * np.exp(rng.normal(0, 0.01, 30)))
    assert energies(history, [max(history) * 1.03], paired=False).verdict == "regress"
    assert energies(history, [100.0], paired=False).verdict == "pass"
    assert energies(history, [min(history) * 0.9], paired=False, prove=True).verdict == "pass"
    few = energies(history[:10], [200.0], paired=False)
    assert few.verdict == "cannot tell"
    assert "25 against one" in few.reason


def test_losing_quality_regresses_and_gaining_it_does_not(tmp_path: Path) -> None:
    a, b = sides(tmp_path, {"accuracy": 0.6})
    assert gate([a], [b], {"quality": 5.0}).verdict == "regress"
    found = gate([b], [a], {"quality": 5.0})
    assert found.verdict == "pass"
    assert found.judgements[0].regression < 0
    for folder in sorted(tmp_path.glob("*/*")):
        record = read_record(folder)
        record.quality = {**(record.quality or {}), "higher_is_better": False, "metric": "loss"}
        write_record(folder, record)
    assert gate([b], [a], {"quality": 0.05}).verdict == "regress"  # a lower loss is the better one


def test_a_missing_value_cannot_be_judged(tmp_path: Path) -> None:
    a, b = sides(tmp_path, {}, range(2))
    record = read_record(b / "1")
    record.energy = {}
    write_record(b / "1", record)
    found = gate([a], [b], {"energy": 0.02, "time": 0.5})
    assert [j.verdict for j in found.judgements] == ["cannot tell", "pass"]
    assert found.exit_code == 2
    assert "missing" in found.judgements[0].reason


def test_unlike_runs_are_refused_and_a_forced_gate_says_so(tmp_path: Path) -> None:
    a, b = sides(tmp_path, {}, range(2))
    record = read_record(b / "0")
    record.hardware["cpu"] = "another CPU"
    write_record(b / "0", record)
    with pytest.raises(ClisonixError, match="the hardware differs"):
        gate([a], [b], {"time": 0.1})
    forced = gate([a], [b], {"time": 0.1}, force=True)
    assert any(note.startswith("Forced: the hardware differs") for note in forced.notes)
    assert "Forced: the hardware differs" in gate_markdown(forced)


def test_the_summary_is_markdown_and_appended(tmp_path: Path) -> None:
    a, b = sides(tmp_path, {"slow": 1.5}, range(3))
    found = gate([a], [b], {"energy": 0.02, "quality": 0.5})
    target = tmp_path / "summary.md"
    target.write_text("before\n")
    append_summary(target, found)
    append_summary(target, found)
    written = target.read_text()
    assert written.startswith("before\n### Gate: regress")
    assert written.count("| energy | regress | +5") == 2
    rows = [line for line in written.splitlines() if line.startswith("|")]
    assert len({row.count("|") for row in rows}) == 1
    with pytest.raises(ClisonixError, match="cannot write"):
        append_summary(tmp_path / "none" / "x.md", found)


def test_names_from_records_cannot_break_the_summary() -> None:
    evil = "a|b<script>\n## x"
    text = gate_markdown(Gate([evil], [evil], "pass", [], [evil], False))
    assert "<script>" not in text
    assert "\n## x" not in text


def test_the_json_says_everything(tmp_path: Path) -> None:
    a, b = sides(tmp_path, {}, range(2))
    content = json.loads(json.dumps(gate([a], [b], {"time": 0.1}).to_json(), allow_nan=False))
    assert content["schema"] == "clisonix.gate/1"
    assert content["exit_code"] == 0
    assert set(content["judgements"][0]) >= {"metric", "margin", "verdict", "regression", "low", "high", "p", "sees"}


def test_a_gate_without_a_margin_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClisonixError, match="needs a margin"):
        gate([tmp_path], [tmp_path], {})


def test_margins_are_read_as_written() -> None:
    assert parse_margins(["energy=2%", "time=5 %,quality=0.5"], "--m") == {
        "energy": 0.02,
        "time": 0.05,
        "quality": 0.5,
    }


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("energy", "METRIC=VALUE"), ("enrgy=2%", "did you mean 'energy'"), ("energy=2", "a percentage, like energy"),
        ("quality=2%", "without %"), ("energy=x%", "must be a number"), ("energy=-1%", "must be a number"),
        ("energy=nan%", "must be a number"), ("energy=inf%", "must be a number"), ("time=1%,time=2%", "twice"),
    ],
)  # fmt: skip
def test_a_margin_that_cannot_be_read_is_refused_in_one_sentence(text: str, match: str) -> None:
    with pytest.raises(ClisonixError, match=match) as caught:
        parse_margins([text], "--max-regress")
    assert "\n" not in str(caught.value)
