"""Power limits are put back before anything else happens, and signals wait for that."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from clisonix.errors import ClisonixError
from clisonix.meter.power.interrupts import Interrupts
from clisonix.meter.power.power_limit import with_limits_kept


class Stub:
    """A board whose limit cannot be set once somebody says so."""

    device, uuid = "gpu:0", "GPU-stub"

    def __init__(self) -> None:
        self.mw, self.fails, self.during = 700_000, 0, None

    def milliwatts(self) -> int:
        return self.mw

    def set(self, milliwatts: int) -> None:
        if self.during is not None:
            os.kill(os.getpid(), self.during)
        if self.fails:
            self.fails -= 1
            raise ClisonixError("the driver does not answer")
        self.mw = milliwatts


def test_a_limit_that_cannot_be_put_back_is_said_and_stays_noted(tmp_path: Path) -> None:
    board: Any = Stub()
    state = tmp_path / "state.json"

    def body(fails: int) -> None:
        board.mw, board.fails = 300_000, fails

    with_limits_kept([board], lambda: body(2), state)  # a hiccup of the driver
    assert (board.mw, state.exists()) == (700_000, False)
    with pytest.raises(ClisonixError, match=f"does not answer; try `clisonix sweep restore`, which reads {state}"):
        with_limits_kept([board], lambda: body(3), state)
    assert json.loads(state.read_text())["milliwatts"] == {"GPU-stub": 700_000}


def test_a_signal_while_limits_are_put_back_waits(tmp_path: Path) -> None:
    board: Any = Stub()
    heard = []
    before = signal.signal(signal.SIGTERM, lambda n, frame: heard.append(board.mw))

    def body() -> None:
        board.mw, board.during = 300_000, signal.SIGTERM

    try:
        with pytest.raises(SystemExit):
            with_limits_kept([board], body, tmp_path / "state.json")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [700_000]


def test_ignored_signals_stay_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            interrupts.may_raise()
            os.kill(os.getpid(), signal.SIGHUP)
            assert interrupts.noted is None
    finally:
        signal.signal(signal.SIGHUP, before)
