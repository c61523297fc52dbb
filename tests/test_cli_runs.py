"""The commands that judge finished runs, with the exit codes that scripts rely on."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "meter"))

from meter_fakes import make_run
from rank_runs import make_rank

from clisonix.cli import main


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    for side, slow in (("a", 1.0), ("b", 1.5)):
        for seed in range(3):
            make_run(root / side / str(seed), seed=seed, epochs=2, gpu=False, slow=slow)
    return root


class Done:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def clisonix(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["clisonix", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        printed = capsys.readouterr()
        return Done(int(stopped.value.code or 0), printed.out, printed.err)

    return run


def test_compare_takes_two_folders_or_two_groups(runs: Path, clisonix) -> None:
    groups = clisonix("compare", runs / "a", runs / "b", "--json")
    assert groups.code == 0, groups.err
    spelt = clisonix("compare", *(runs / "a").iterdir(), "vs", *(runs / "b").iterdir(), "--json")
    ratio = [{row["metric"]: row["ratio"] for row in json.loads(done.out)["rows"]} for done in (groups, spelt)]
    assert ratio[0] == ratio[1]
    text = clisonix("compare", runs / "a", runs / "b", "--margin", "quality=5", "--margin", "time=2%")
    assert "time: the sides differ by more than 2 %" in text.out
    assert "enough runs: the interval excludes the margin" in text.out
    assert "a: a/0 and 2 more; b: b/0 and 2 more" in text.out
    unclear = clisonix("compare", runs / "a", runs / "b", runs / "a")
    assert unclear.code == 2
    assert len(unclear.err.strip().splitlines()) == 1


def test_gate_exit_codes(runs: Path, tmp_path: Path, clisonix) -> None:
    summary = tmp_path / "summary.md"
    regress = clisonix("gate", runs / "a", runs / "b", "--max-regress", "time=5%", "--summary", summary)
    assert regress.code == 1, regress.err
    assert "gate: regress" in regress.out
    assert summary.read_text().startswith("### Gate: regress")
    passed = clisonix("gate", runs / "b", runs / "a", "--max-regress", "energy=2%,time=5%", "--json")
    assert passed.code == 0
    assert json.loads(passed.out)["verdict"] == "pass"
    single = clisonix("gate", runs / "a/0", runs / "b/0", "--max-regress", "energy=2%")
    assert single.code == 2
    assert "cannot tell" in single.out
    for bad in ((), ("--max-regress", "energy=2"), ("--max-regress", "speed=2%")):
        done = clisonix("gate", runs / "a", runs / "b", *bad)
        assert done.code == 2
        assert done.out == ""
        assert len(done.err.strip().splitlines()) == 1


def test_merge_verify_and_report(tmp_path: Path, clisonix) -> None:
    ranks = [
        make_rank(tmp_path / str(i), rank=i, devices=("GPU-aaaa", "cpu"), train=(12.0, 20.0 + i)) for i in range(2)
    ]
    done = clisonix("merge", *ranks, "-o", tmp_path / "m")
    assert done.code == 0, done.err
    assert "2 parts" in done.out
    assert (tmp_path / "m/report.html").is_file()
    assert clisonix("verify", tmp_path / "m").code == 0
    (tmp_path / "m/record.json").write_text((tmp_path / "m/record.json").read_text().replace("digits", "signs", 1))
    broken = clisonix("verify", tmp_path / "m")
    assert broken.code == 1
    assert "the merged task differs" in broken.out
    assert clisonix("merge", tmp_path / "m", "-o", tmp_path / "n").code == 2
    assert clisonix("merge", *ranks, "-o", tmp_path / "0").code == 2


def test_the_bench_of_the_gate_runs() -> None:
    import subprocess

    script = Path(__file__).parent.parent / "scripts/bench/gate.py"
    done = subprocess.run(
        [sys.executable, script, "--pairs", "3", "--json"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {"paired", "unpaired"} <= {cell["design"] for cell in found["gate"]}
    assert all(0 <= cell["coverage"]["rate"] <= 1 for cell in found["coverage"])
