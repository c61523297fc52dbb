"""The line that a training run shows on a terminal."""

from __future__ import annotations

import io
import time

from rich.console import Console

from clisonix.meter import Meter
from clisonix.progress import ProgressBar


def test_it_shows_steps_power_and_energy_of_the_meter() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with Meter(period_s=0.02) as meter, ProgressBar(console, "digits") as bar:
        bar.say("before it begins")
        bar.begin(10, 3, meter)
        end_s = time.perf_counter() + 0.6
        while time.perf_counter() < end_s:
            sum(range(10_000))
            bar.step(4)
        bar.say("in between")
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "digits: before it begins" in shown
    assert "digits: in between" in shown
    assert "4/10" in shown
    words = meter.live().words()["energy"].split()
    assert f" {words[-2] if len(words) > 2 else words[-1]}" in shown
    assert " W " in shown


def test_without_a_terminal_only_sentences_are_written() -> None:
    console = Console(file=io.StringIO(), width=120)
    with Meter() as meter, ProgressBar(console, "digits") as bar:
        bar.begin(10, 0, meter)
        bar.step(1)
        bar.say("half way")
    assert console.file.getvalue() == "digits: half way\n"  # type: ignore[attr-defined]


def test_a_bar_that_never_began_ends_quietly() -> None:
    with ProgressBar(Console(file=io.StringIO()), "digits") as bar:
        bar.step(1)
