"""A program that is metered from outside behaves as it does alone, and leaves a run folder that stands."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from meter_fakes import ExactCounter, TickingCounter, World

from clisonix import ClisonixError
from clisonix.meter import NotStartedError, RunFolder, compare, measure, read_record, render_html, verify
from clisonix.meter.program import MeasuredProgram

WAITS = "\nimport time; print('ready', flush=True); time.sleep(20)"
TELLS = "\nimport os, sys; os.kill(os.getppid(), int(sys.argv[1]))"
CATCHES = """
import os, signal, sys, time
heard = []
def stop(number, frame):
    heard.append(number)
    print("heard", number, flush=True)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, stop)
print("ready", flush=True)
end = time.time() + 20
while not heard and time.time() < end:
    time.sleep(0.02)
time.sleep(0.4)
sys.exit(40 + len(heard))
"""

COUNTS = """
import signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
print("ready", flush=True)
heard, wait_s = 0, 20
# Taken off at once, so that a second one is not merged with the first.
while signal.sigtimedwait([signal.SIGINT], wait_s):
    heard, wait_s = heard + 1, 0.5
sys.exit(40 + heard)
"""


def run(folder: Path, *command: str, **more: object) -> MeasuredProgram:
    return measure([sys.executable, "-c", *command], folder, sensors=more.pop("sensors", []), **more)  # type: ignore[arg-type]


def clisonix(arguments: Sequence[object], **more: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "clisonix.cli", *map(str, arguments)], **more)  # type: ignore[call-overload]


def stands(folder: Path) -> bool:
    wrong = [finding.what for finding in verify(folder) if not finding.ok]
    assert not wrong
    return "<html" in render_html(folder)


def test_streams_arguments_files_and_exit_code_are_the_programs_own(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    read, write = os.pipe()
    os.set_inheritable(write, True)
    code = (
        "import os, sys; print(sys.argv[1:]); print('to stderr', file=sys.stderr); "
        "os.write(int(sys.argv[1]), b'through a pipe'); sys.exit(7)"
    )
    done = run(tmp_path / "run", code, str(write), "--out", "a b")
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        assert pipe.read() == b"through a pipe"
    out, err = capfd.readouterr()
    assert out == f"['{write}', '--out', 'a b']\n"
    assert err == "to stderr\n"
    assert done.exit_code == 7
    assert stands(tmp_path / "run")
    record = read_record(tmp_path / "run")
    assert record.attempts[0]["exit_code"] == 7
    assert record.attempts[0]["ended_cleanly"]
    assert "The program ended with exit code 7." in record.notes
    assert record.command.endswith(f"{write} --out 'a b'")


def test_cpu_time_of_the_program_and_its_descendants_counts(tmp_path: Path) -> None:
    burn = "import time; t = time.process_time()\nwhile time.process_time() - t < {}: pass\n"
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn.format(0.4)!r}])\n" + burn.format(
        0.3
    )
    done = measure([sys.executable, "-c", nested], tmp_path / "run", place="FRA")
    (cpu,) = [one for one in done.record.devices("train") if one.source == "cpu-time-model"] or [None]
    if cpu is None:
        pytest.skip("this machine has a counter for its CPU, so CPU time is not the figure")
    assert 0.7 * 3.1 <= cpu.joules < 2.5 * 3.1
    assert done.record.carbon is not None
    assert done.record.carbon["grams"] > 0
    assert stands(tmp_path / "run")


def test_runs_compare_and_pair_by_seed(tmp_path: Path) -> None:
    for side, seconds in (("a", 0.05), ("b", 0.15)):
        for seed in (1, 2):
            run(tmp_path / side / str(seed), f"import time; time.sleep({seconds})", seed=seed)
    found = compare([tmp_path / "a"], [tmp_path / "b"])
    (row,) = [row for row in found.rows if row.metric == "time"]
    assert 1.2 < row.ratio < 4
    assert row.interval.startswith("Student's t on the log ratio")  # paired by seed; else it were Welch's
    (energy,) = [row for row in found.rows if row.metric == "energy"]
    assert energy.a is None
    assert energy.ratio is None


def test_whole_gpus_are_metered_and_the_record_says_so(tmp_path: Path) -> None:
    world = World()
    counter = TickingCounter(world)
    counter.parameters = {"how": "measured", "uuid": "GPU-1", "model": "test GPU"}
    record = run(tmp_path / "gpu", "pass", sensors=[counter]).record
    assert record.hardware["gpus"] == ["test GPU"]
    assert any("GPU energy is that of the GPU as a whole" in note for note in record.notes)
    assert not any(
        "GPU" in note for note in run(tmp_path / "cpu", "pass", sensors=[ExactCounter(world)]).record.notes
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_goes_to_the_program_and_its_end_is_recorded(
    tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As under a scheduler: no terminal sends the keyboard's signals.
    monkeypatch.setattr(sys.modules[measure.__module__], "_in_foreground", lambda: False)
    before = signal.getsignal(number)
    began = time.monotonic()
    done = run(
        tmp_path / "run", f"import signal; signal.signal({number}, signal.SIG_DFL)" + TELLS + WAITS, str(number)
    )
    assert time.monotonic() - began < 15
    assert done.exit_code == 128 + number
    assert signal.getsignal(number) is before
    assert not done.record.attempts[0]["ended_cleanly"]
    assert f"The program ended by signal {number.name}." in done.record.notes
    assert not any("cut off" in note for note in done.record.notes)
    assert stands(tmp_path / "run")


def test_a_program_may_handle_the_signal(tmp_path: Path) -> None:
    code = CATCHES.replace("end =", "os.kill(os.getppid(), signal.SIGTERM)\nend =")
    assert run(tmp_path / "run", code).exit_code == 41


def test_each_ctrl_c_in_a_terminal_reaches_the_program_once(tmp_path: Path) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        words = [sys.executable, "-m", "clisonix.cli", "measure", "--out", str(tmp_path / "run"), "--"]
        os.execv(sys.executable, [*words, sys.executable, "-c", COUNTS])
    shown, sent = b"", False
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if not select.select([terminal], [], [], 0.5)[0]:
            continue
        try:
            shown += os.read(terminal, 4096)
        except OSError:  # the other end is closed
            break
        if b"ready" in shown and not sent:
            sent = True
            # The kernel may merge two signals in quick succession, so one stroke would tell little.
            for _ in range(5):
                os.write(terminal, b"\x03")
                time.sleep(0.15)
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 45, shown
    assert stands(tmp_path / "run")


def test_the_trace_survives_a_kill_and_can_be_closed_later(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = clisonix(["measure", "--out", folder, "--", sys.executable, "-c", WAITS], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout as output:
        assert output.readline() == b"ready\n"
        deadline = time.monotonic() + 20
        while not (folder / "trace-0.npz").is_file() and time.monotonic() < deadline:
            time.sleep(0.05)
        (orphan,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.kill()
        os.kill(int(orphan), signal.SIGKILL)
        process.wait()
    assert not (folder / "record.json").exists()
    with pytest.raises(ClisonixError, match="holds a run already"):
        run(folder, "pass")
    record = RunFolder.left(folder).close()
    assert record.time["train_s"] > 0
    assert not record.attempts[0]["ended_cleanly"]
    assert any("cut off" in note for note in record.notes)
    assert stands(folder)


def test_what_cannot_be_started_leaves_no_folder(tmp_path: Path) -> None:
    plain, broken = tmp_path / "plain", tmp_path / "broken"
    plain.write_text("no program")
    broken.write_text("#!/no/such/interpreter\n")
    broken.chmod(0o755)
    nonsense = tmp_path / "nonsense"
    nonsense.write_bytes(b"\x00\x01\x02")
    nonsense.chmod(0o755)
    for word, code in (
        ("no-such-program", 127), (str(tmp_path / "absent"), 127), (str(plain), 126), (str(tmp_path), 126),
        (str(broken), 127), (str(nonsense), 126),
    ):  # fmt: skip
        with pytest.raises(NotStartedError) as caught:
            measure([word], tmp_path / "run", sensors=[])
        assert caught.value.exit_code == code, word
        assert word in str(caught.value)
        assert not (tmp_path / "run").exists()


def test_bad_input_stops_before_the_program_starts(tmp_path: Path) -> None:
    touch = f"open({str(tmp_path / 'ran')!r}, 'w')"
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    with pytest.raises(ClisonixError, match="holds something"):
        run(tmp_path / "full", touch)
    with pytest.raises(ClisonixError, match="'FRANCE'"):
        run(tmp_path / "run", touch, place="FRANCE")
    with pytest.raises(ClisonixError, match="no program was given"):
        measure([], tmp_path / "run")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]


def test_the_command_line(tmp_path: Path) -> None:
    code = "import sys; sys.stdout.write(sys.stdin.read().upper()); sys.exit(5)"
    process = clisonix(
        ["measure", "--json", "--place", "FRA", "--", sys.executable, "-c", code],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path,
    )  # fmt: skip
    out, err = process.communicate(b"through\n", timeout=60)
    assert process.returncode == 5, err
    assert err == b""
    first, last = out.decode().splitlines()
    assert first == "THROUGH"
    said = json.loads(last)
    assert said["exit_code"] == 5
    assert said["energy"]["joules"] is None or said["energy"]["joules"] > 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert said["folder"] == f"runs/{folder.name}"
    assert stands(folder)
    absent = clisonix(["measure", "no-such-program"], stderr=subprocess.PIPE, cwd=tmp_path)
    _, err = absent.communicate(timeout=60)
    assert absent.returncode == 127
    assert err.count(b"\n") == 1
    assert b"no-such-program" in err
