from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from clisonix.errors import ClisonixError
from clisonix.meter import Energy
from clisonix.meter.second_opinion import Opinion, Part, SecondOpinion

PROGRAM = """
import os, sys, time
events = []
sys.addaudithook(lambda event, args: events.append((event, str(args))) if event.startswith("socket.") else None)
from clisonix.meter.second_opinion import SecondOpinion
opinion = SecondOpinion("FRA", period_s=0.2)
assert "codecarbon" not in sys.modules
with opinion:
    end = time.perf_counter() + 0.6
    while time.perf_counter() < end:
        sum(range(1000))
    found = opinion.stop()
assert found.reason is None, found.reason
assert found.seconds > 0.5, found
parts = {part.device: part for part in found.parts}
assert parts["cpu"].joules > 0
assert parts["ram"].guessed
assert found.grams > 0
assert not {e for e, _ in events} - {"socket.__new__", "socket.bind"}, events
assert all("('::1', 0)" in args for event, args in events if event == "socket.bind"), events
assert os.listdir(".") == [], os.listdir(".")
print(*found.sentences([]), sep=chr(10))
"""


def test_the_real_tracker_runs_beside_and_talks_to_nobody(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "CodeCarbon says" in done.stdout
    assert "guessed" in done.stdout


class FakeTracker:
    """Behaves as CodeCarbon's does: it never raises."""

    starts, result = True, True

    def __init__(self, **options: Any) -> None:
        self.options = options
        self._start_time: float | None = None

    def start(self) -> None:
        if self.starts:
            self._start_time = 1.0

    def stop(self) -> None:
        if self.result:
            self.final_emissions_data = types.SimpleNamespace(
                gpu_energy=1e-3, cpu_energy=2e-3, ram_energy=3e-3, emissions=4e-3, duration=10.0
            )


class GPU: ...


class CPU:
    _mode, _tdp, _is_generic_tdp = "constant", 85, True


class RAM: ...


def install(monkeypatch: pytest.MonkeyPatch, tracker: type) -> None:
    module = types.ModuleType("codecarbon")
    module.OfflineEmissionsTracker = tracker  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "codecarbon", module)
    monkeypatch.setattr("clisonix.meter.second_opinion.importlib.util.find_spec", lambda name: object())


def test_measured_and_guessed_parts_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    class Tracker(FakeTracker):
        _hardware = (GPU(), CPU(), RAM())

    install(monkeypatch, Tracker)
    with SecondOpinion("FRA") as opinion:
        assert opinion._tracker.options["save_to_api"] is False
        assert opinion._tracker.options["country_iso_code"] == "FRA"
        found = opinion.stop()
    assert [(part.device, part.joules, part.guessed) for part in found.parts] == [
        ("gpu", pytest.approx(3600.0), False),
        ("cpu", pytest.approx(7200.0), True),
        ("ram", pytest.approx(10800.0), True),
    ]
    assert "one half of 85 W of nominal power, itself a default" in found.parts[1].how
    assert found.grams == pytest.approx(4.0)


def test_without_a_place_its_emissions_are_thrown_away(monkeypatch: pytest.MonkeyPatch) -> None:
    class Tracker(FakeTracker):
        _hardware = ()

    install(monkeypatch, Tracker)
    for place in (None, "USA-CA"):
        opinion = SecondOpinion(place)
        opinion.start()
        assert opinion.stop().grams is None


class Broken(FakeTracker):
    def __init__(self, **options: Any) -> None:
        raise RuntimeError("no such thing")


class Silent(FakeTracker):
    starts = False


class Empty(FakeTracker):
    result = False


@pytest.mark.parametrize(
    ("tracker", "reason"),
    [(Broken, "RuntimeError: no such thing"), (Silent, "did not start"), (Empty, "without a result")],
)
def test_a_tracker_that_fails_gives_a_reason_and_no_exception(
    monkeypatch: pytest.MonkeyPatch, tracker: type, reason: str
) -> None:
    install(monkeypatch, tracker)
    opinion = SecondOpinion()
    opinion.start()
    found = opinion.stop()
    assert found.parts == ()
    assert reason in (found.reason or "")
    assert reason in found.sentences([])[0]


def test_one_that_was_never_started_says_so() -> None:
    assert "not started" in (SecondOpinion().stop().reason or "")


def test_sentences_set_both_figures_side_by_side() -> None:
    found = Opinion((Part("gpu", 110.0, False, "measured through NVML"), Part("ram", 5.0, True, "guessed")), 1.0)
    ours = [Energy(j, j - 1, j + 1, "nvml-counter", "GPU board", f"gpu:{i}") for i, j in enumerate((60.0, 40.0))]
    gpu, ram = found.sentences(ours)
    assert "110 J for the gpu (measured through NVML); this meter 100 J" in gpu
    assert "+10.0 %" in gpu
    assert "no figure of its own" in ram
    assert "lost" in found.sentences([Energy.unknown("GPU is lost", device="gpu:0")])[0]


def test_bad_input_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ClisonixError, match="positive number of seconds"):
        SecondOpinion(period_s=0)
    monkeypatch.setattr("clisonix.meter.second_opinion.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ClisonixError, match="pip install codecarbon"):
        SecondOpinion()
