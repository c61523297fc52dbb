"""The GPU benchmark, as far as a machine without a GPU can tell: arguments, refusals and arithmetic."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

BENCH = Path(__file__).parents[2] / "scripts" / "bench"
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="the package triton is not installed")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCH))
    import liam_gpu

    return liam_gpu


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCH / "liam_gpu.py"), *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so_and_exits_with_2() -> None:
    done = run("--json")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "No CUDA GPU is visible to torch; run this on a machine with one.\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--repeats", "0"], "'0' is not a whole number of 1 or more"),
        (["--sizes", "1000"], "1000 is not a multiple of 128"),
        (["--check", "some"], "invalid choice: 'some'"),
    ],
)
def test_wrong_arguments_are_refused(
    bench: ModuleType, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        bench.main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_arguments_have_their_defaults(bench: ModuleType) -> None:
    chosen = bench.parser().parse_args([])
    assert (chosen.json, chosen.repeats, chosen.sizes, chosen.check, chosen.tune) == (
        None,
        100,
        [16384, 4096],
        None,
        False,
    )
    assert bench.parser().parse_args(["--json"]).json == "-"
    assert bench.parser().parse_args(["--json", "a.json", "--sizes", "128", "256"]).sizes == [128, 256]


class FakeClock:
    """Gives each contender the times it is told, and keeps whom it was asked to time."""

    def __init__(self, seconds: dict[str, list[float]]) -> None:
        self.seconds = seconds
        self.flush = torch.zeros(64, dtype=torch.uint8)
        self.timed: list[str] = []

    def time(self, contenders: list[Any], mode: str, repeats: int) -> dict[str, list[float]]:
        self.timed = [contender.name for contender in contenders]
        return {name: self.seconds[name] for name in self.timed}


def claim(contenders: Any) -> Any:
    right = torch.ones(3)
    return contenders.Claim(
        "three ones",
        [
            contenders.Contender("cublas", [lambda: right]),
            contenders.Contender("good", [lambda: right.bfloat16()]),
            contenders.Contender("off", [lambda: 1.1 * right]),
            contenders.Contender("lost", [lambda: right * float("nan")]),
            contenders.Contender("broken", [lambda: 1 / 0]),
            contenders.Contender("unchecked", [lambda: right]),
        ],
        right,
        [contenders.Target(("good", "off"), "cublas", 9.0, 12.0), contenders.Target(("off",), "cublas", 1.0, 1.0)],
        {"unchecked": ("kernel a", "kernel b")},
        moved=6,
        bandwidth=0.65,
        modes=("flushed",),
    )


@needs_triton
def test_only_what_is_right_is_timed_and_ratios_are_within_repetitions(bench: ModuleType) -> None:
    import gpu_contenders

    clock = FakeClock({"cublas": [10.0, 20.0, 30.0], "good": [1.0, 2.0, 2.0], "copy": [8.0, 8.0, 8.0]})
    measured = bench.measure(claim(gpu_contenders), clock, 3, {"kernel b"})
    assert clock.timed == ["cublas", "good", "copy"]
    assert measured["refused"]["unchecked"] == "kernel b: wrong in the checks"
    assert "off by 0.1" in measured["refused"]["off"]
    assert "off by nan" in measured["refused"]["lost"]
    assert "ZeroDivisionError" in measured["refused"]["broken"]
    against, nothing, bandwidth = measured["targets"]
    assert (against["best"], against["ratio"], against["reached"]) == ("good", 10.0, True)
    assert (nothing["ratio"], nothing["reached"]) == (None, False)
    # 6 bytes in 1, 2 and 2 seconds against 64 copied (read and written) in 8.
    assert (bandwidth["ratio"], bandwidth["reached"]) == (pytest.approx(3 / 8), False)
    text = "\n".join(bench.table(measured))
    assert "reached flushed   against cublas: 10.00 (good), wanted 9.00, aim 12.00" in text
    assert "MISSED  flushed   against copy bandwidth: 0.38 (good)" in text
    assert "left out: broken" in text
