"""`clisonix sweep`: exit codes, output, and power limits that are back after any signal that can be caught."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_library import configure, environment

CLI = [sys.executable, "-m", "clisonix.cli"]
ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
GPU = "load steady 600\nlimit_w 600\nmin_limit_w 200\n"


class Machine:
    """A machine with one GPU whose driver keeps its limit from one process to the next."""

    def __init__(self, library: Path, folder: Path, options: str = "") -> None:
        self.folder, self.kept = folder, folder / "limit"
        self.kept.write_text("450000\n")
        config = configure(folder, [f"{GPU}{options}limit_file {self.kept}"])
        self.environment = {**environment(library, config), "HOME": str(folder), "COLUMNS": "200"}
        self.environment.pop("CUDA_VISIBLE_DEVICES", None)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*CLI, "sweep", *words], env=self.environment, capture_output=True, text=True, check=False, timeout=60
        )

    def start(self, *words: str) -> subprocess.Popen[str]:
        # Signals that whoever runs the tests ignores (nohup) would be ignored by the command too, rightly.
        return subprocess.Popen(
            [*CLI, "sweep", *words], env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=lambda: [signal.signal(n, signal.SIG_DFL) for n in ENDING],
        )  # fmt: skip

    def limit_w(self) -> float:
        return int(self.kept.read_text() or 0) / 1000

    def notes(self) -> list[Path]:
        return list((self.folder / ".local/state/clisonix").glob("*"))


@pytest.fixture
def machine(library: Path, tmp_path: Path) -> Machine:
    return Machine(library, tmp_path)


def until(true, seconds: float = 20.0) -> None:
    deadline_s = time.perf_counter() + seconds
    while not true():
        assert time.perf_counter() < deadline_s
        time.sleep(0.01)


def slow_work(machine: Machine) -> list[str]:
    """Says its process id, and its child's, and waits."""
    return ["--", "sh", "-c", f"sleep 60 & echo $$ $! > {machine.folder}/pids.new; mv {machine.folder}/pids.new "
            f"{machine.folder}/pids; wait"]  # fmt: skip


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_table_and_json(machine: Machine) -> None:
    words = ["power", "--steps", "2", "--seconds", "0.4", "--max-slowdown", "50%", "--no-warmup"]
    done = machine.run(*words, "--out", str(machine.folder / "sweep.json"), "--", "sh", "-c", "echo noise; sleep 0.2")
    assert done.returncode == 0, done.stderr
    assert "600 W" in done.stdout
    assert "least energy: 200 W" in done.stdout
    assert "least energy at most 50 % slower: 200 W" in done.stdout
    assert "noise" not in done.stdout
    assert "noise" in done.stderr
    found = json.loads((machine.folder / "sweep.json").read_text())
    assert found["optimum_w"] == found["within_slowdown_w"] == 200.0
    assert [point["runs"] >= 2 for point in found["points"]] == [True, True]
    assert (machine.limit_w(), machine.notes()) == (450.0, [])
    done = machine.run(*words, "--json", "sh", "-c", "echo noise; sleep 0.2")
    assert json.loads(done.stdout)["gpus"][0]["limit_w"] == 450.0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, -15), (signal.SIGINT, 130), (signal.SIGHUP, -1)])
def test_limits_are_back_after_a_signal(machine: Machine, number: int, code: int) -> None:
    process = machine.start("power", "--no-warmup", *slow_work(machine))
    pids = machine.folder / "pids"
    until(pids.exists)
    assert machine.limit_w() == 600.0
    assert len(machine.notes()) == 1
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == code, err
    assert "Traceback" not in out + err
    assert (machine.limit_w(), machine.notes()) == (450.0, [])
    assert [alive(int(word)) for word in pids.read_text().split()] == [False, False]


def test_after_a_sigkill_restore_puts_the_limits_back(machine: Machine) -> None:
    process = machine.start("power", "--no-warmup", *slow_work(machine))
    until((machine.folder / "pids").exists)
    running = machine.run("restore")
    assert (running.returncode, running.stderr.count("\n")) == (2, 1)
    assert f"still runs as process {process.pid}" in running.stderr
    process.kill()
    for word in reversed((machine.folder / "pids").read_text().split()):
        os.kill(int(word), signal.SIGKILL)
    process.communicate()
    assert machine.limit_w() == 600.0
    again = machine.run("power", "--", "true")
    assert again.returncode == 2
    assert "run `clisonix sweep restore` first" in again.stderr
    done = machine.run("restore")
    assert (done.returncode, done.stdout) == (0, "GPU-0001-fake: 450 W\n")
    assert (machine.limit_w(), machine.notes()) == (450.0, [])
    assert machine.run("restore").stdout == "no sweep has left power limits behind\n"


def test_refusals_are_one_sentence_and_exit_code_2(library: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    locked = Machine(library, tmp_path / "a", "set_limit_ok 0\n")
    done = locked.run("power", "--", "true")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "may not be set here (Insufficient Permissions): run as root" in done.stderr
    (tmp_path / "b").mkdir()
    free = Machine(library, tmp_path / "b")
    for words, sentence in (
        (["--no-warmup", "--", "sh", "-c", "exit 3"], "failed with exit code 3"),
        (["--", "no-such-program"], "cannot start no-such-program"),
        (["--max-slowdown", "5", "--", "true"], "'5' is no percentage"),
    ):
        done = free.run("power", *words)
        assert done.returncode == 2
        assert sentence in done.stderr
        assert "Traceback" not in done.stderr
        assert (free.limit_w(), free.notes()) == (450.0, [])


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    hidden = {**os.environ, "HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*CLI, "sweep", "power", "--", "true"], env=hidden, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "no GPU can be measured here" in done.stderr
