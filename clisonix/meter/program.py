"""Metering a program from outside: run it, and write what it cost."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from clisonix.errors import ClisonixError
from clisonix.meter.meter import Meter
from clisonix.meter.recording.record import Record
from clisonix.meter.recording.run_folder import RunFolder, check_free
from clisonix.meter.sensors.sensor import Sensor
from clisonix.meter.words import quantity

FLUSH_S = 1.0
NOT_EXECUTABLE, NOT_FOUND = 126, 127
"""As POSIX shells say it."""
FORWARDED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
KEYBOARD = ("SIGINT", "SIGQUIT")
WINDOW_NOTE = (
    "The window train is the whole program, from its start to its end; processes that detached themselves from it, "
    "or outlived it, are not counted where energy follows from CPU time."
)


class NotStartedError(ClisonixError):
    """The program could not be started.

    Attributes:
        exit_code: what a shell would give: 127 if there is no such program, 126 if it cannot be executed.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class MeasuredProgram:
    """What came of a program.

    Attributes:
        exit_code: the program's own; 128 + n if signal n ended it.
        folder: of the run.
        record: that was written there.
    """

    exit_code: int
    folder: Path
    record: Record

    def summary(self) -> str:
        """Time, energy and how that was obtained, as one line."""
        energy = self.record.total("train")
        seconds = quantity(self.record.time.get("train_s"), "s")
        return f"exit code {self.exit_code}, {seconds}, {quantity(energy.joules, 'J')}: {energy.how()}"

    def to_json(self) -> dict[str, Any]:
        """`folder`, `exit_code`, `seconds`, `energy` and `carbon`, see `Record`."""
        return {
            "folder": str(self.folder),
            "exit_code": self.exit_code,
            "seconds": self.record.time.get("train_s"),
            "energy": self.record.energy.get("train", {}).get("total"),
            "carbon": self.record.carbon,
        }


def measure(
    command: Sequence[str],
    folder: Path | None = None,
    *,
    name: str | None = None,
    seed: int | None = None,
    place: str | None = None,
    visible: str | None = None,
    sensors: Iterable[Sensor] | None = None,
) -> MeasuredProgram:
    """Run a program, meter it, and write a run folder.

    The program inherits standard input, output and error, all other open files, the environment and the working
    folder. While it runs, signals that would end this process are passed on to it, if this is called in the main
    thread. The CPU time of the program and of all processes that are waited for is counted; GPUs are metered whole.
    The trace is written while the program runs: where the measurement itself is killed,
    `RunFolder.left(folder).close()` makes a record of what is there.

    Args:
        command: the program and its arguments.
        folder: of the run, new or empty; None makes `runs/PROGRAM-TIME`.
        name: of the run; None takes the folder's.
        seed: the program's, if it has one: pairs runs in a comparison.
        place: see `carbon`.
        visible: the text of `CUDA_VISIBLE_DEVICES`, which says which GPUs are metered.
        sensors: see `Meter`.

    Raises:
        NotStartedError: there is no such program, or it cannot be executed; no folder is left then.
        ClisonixError: the folder holds something, or cannot be written.
    """
    if not command:
        raise NotStartedError("no program was given: put it after --, like clisonix measure -- python train.py", 2)
    _check_program(command[0])
    folder = _fresh(command[0]) if folder is None else Path(folder)
    check_free(folder)
    there = folder.exists()
    typed = shlex.join(command)
    run = RunFolder.begin(folder, visible=visible, name=name, command=typed, seed=seed, place=place)
    meter = Meter(sensors, place=place, visible=visible, trace_path=run.trace, flush_s=FLUSH_S)
    with _forwarding() as forward:
        try:
            with meter, meter.window("run"), meter.window("train"):
                code = forward.run(command)
        except NotStartedError:
            shutil.rmtree(folder, ignore_errors=True)
            if there:
                folder.mkdir(exist_ok=True)
            raise
        signalled = code < 0
        exit_code = 128 - code if signalled else code
        how = f"by signal {_signal_name(-code)}" if signalled else f"with exit code {code}"
        record = run.end(
            visible=visible,
            notes=[f"The program ended {how}.", WINDOW_NOTE],
            ended_cleanly=not signalled,
            exit_code=exit_code,
        )
    return MeasuredProgram(exit_code, folder, record)


class _Forward:
    """Runs one program, and passes on to it the signals that this process gets."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._early: list[int] = []

    def run(self, command: Sequence[str]) -> int:
        """Exit code of the program; minus n if signal n ended it."""
        try:
            # Open files other than the three belong to the program too: a build's job server, for example.
            child = subprocess.Popen(list(command), close_fds=False)
        except OSError as error:
            code = NOT_FOUND if error.errno == errno.ENOENT else NOT_EXECUTABLE
            raise NotStartedError(f"{command[0]} cannot be started: {error.strerror or error}", code) from error
        self._child = child
        for number in self._early:
            self._send(child, number)
        return child.wait()

    def heard(self, number: int, _frame: FrameType | None) -> None:
        """A signal came."""
        if signal.Signals(number).name in KEYBOARD and _in_foreground():
            return  # the terminal has sent it to the program as well
        if self._child is None:
            self._early.append(number)
        else:
            self._send(self._child, number)

    @staticmethod
    def _send(child: subprocess.Popen[bytes], number: int) -> None:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, number)


@contextlib.contextmanager
def _forwarding() -> Iterator[_Forward]:
    """Signals go to the program inside, and do not end this process."""
    forward = _Forward()
    before = {}
    if threading.current_thread() is threading.main_thread():
        for word in FORWARDED:
            number = getattr(signal, word, None)
            # What is ignored here, as under nohup, is ignored by the program too.
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, forward.heard)
    try:
        yield forward
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _in_foreground() -> bool:
    """Whether this process's group is the one that its terminal sends the keyboard's signals to."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def _check_program(word: str) -> None:
    if shutil.which(word) is not None:
        return
    if os.path.dirname(word) and os.path.exists(word):
        raise NotStartedError(
            f"{word} is not an executable file: mark it with chmod +x, or give its interpreter", NOT_EXECUTABLE
        )
    raise NotStartedError(f"there is no program {word!r}: give one that is on the PATH, or its path", NOT_FOUND)


def _fresh(program: str) -> Path:
    """A folder under `runs` that is not there yet."""
    stem = f"{Path(program).name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    path, count = Path("runs") / stem, 1
    while path.exists():
        count += 1
        path = Path("runs") / f"{stem}-{count}"
    return path


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
