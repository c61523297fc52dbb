"""One whole line for each closed window, whatever happens to the process."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from meter_fakes import ExactCounter, World, sampled
from virtual_meter import virtual_meter

from clisonix.errors import ClisonixError
from clisonix.files import append_lines
from clisonix.meter import Energy, JsonlLog, Meter


def test_a_line_says_what_the_window_used_and_how_that_is_known(tmp_path: Path) -> None:
    world = World()
    meter, recorder = virtual_meter(world, [ExactCounter(world)])
    log = JsonlLog(tmp_path / "deep" / "energy.jsonl")
    window = recorder.window("load")
    with pytest.raises(ClisonixError, match="'load' is not closed yet"):
        log.write(window)
    with window:
        sampled(world, recorder, 2.0, 150.0)
    log.write(window)
    (line,) = log.read()
    assert (line["event"], line["window"], line["validity"]) == ("window", "load", "measured")
    assert line["seconds"] == pytest.approx(2.0)
    assert line["joules"] == pytest.approx(300.0)
    fields = {k: v for k, v in line.items() if k not in ("event", "window", "ended_utc", "seconds", "validity")}
    assert Energy.from_json(fields) == meter.energy("load")


def test_every_window_has_its_line_and_closing_costs_nothing(tmp_path: Path) -> None:
    log = JsonlLog(tmp_path / "energy.jsonl")
    with Meter() as meter, log.follow(meter):
        for k in range(40):
            with meter.window(f"step-{k}"):
                pass
        with meter.window("never") as window:
            window.cancel()
        began_s = time.perf_counter()
        with meter.window("busy"):
            while time.perf_counter() - began_s < 0.5:
                sum(range(10_000))
        with meter.window("last"):
            pass
        written = len(log.read())
    assert written >= 40  # while it runs, and not only at the end
    lines = log.read()
    assert [line["window"] for line in lines] == [*(f"step-{k}" for k in range(40)), "busy", "last"]
    busy = lines[-2]
    assert busy["seconds"] == pytest.approx(0.5, abs=0.2)
    assert busy["joules"] == pytest.approx(meter.energy("busy").joules, rel=0.3)
    assert not [t for t in threading.enumerate() if t.name == "clisonix-window-log"]
    with meter.window("after"):
        pass
    assert log.read() == lines


def test_windows_of_an_interrupted_block_are_logged(tmp_path: Path) -> None:
    log = JsonlLog(tmp_path / "energy.jsonl")
    with pytest.raises(KeyError), Meter() as meter, log.follow(meter), meter.window("fails"):
        raise KeyError
    assert [line["window"] for line in log.read()] == ["fails"]


def test_an_unknown_figure_is_null_with_its_reason(tmp_path: Path) -> None:
    log = JsonlLog(tmp_path / "energy.jsonl")
    with Meter([]) as meter, log.follow(meter), meter.window("w"):
        pass
    (line,) = log.read()
    assert (line["joules"], line["validity"], line["code"]) == (None, "missing", "no-sensor")


def test_a_torn_line_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "energy.jsonl"
    log = JsonlLog(path)
    append_lines(path, [{"window": "a"}])
    path.write_bytes(path.read_bytes() + b'{"window": "b", "jo')
    append_lines(path, [{"window": "c"}, {"window": "d"}])
    assert [line["window"] for line in log.read()] == ["a", "c", "d"]
    assert path.read_bytes().endswith(b"\n")
    path.write_bytes(b"x")
    append_lines(path, [{"window": "e"}])
    assert path.read_bytes() == b'x\n{"window": "e"}\n'


PROGRAM = """
import sys
from clisonix.meter import JsonlLog, Meter
with Meter() as meter, JsonlLog(sys.argv[1]).follow(meter):
    print("ready", flush=True)
    k = 0
    while True:
        with meter.window(f"w{k}"):
            sum(range(20_000))
        k += 1
"""


def test_a_kill_leaves_whole_lines_in_order(tmp_path: Path) -> None:
    path = tmp_path / "energy.jsonl"
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    deadline_s = time.perf_counter() + 20
    while not (path.exists() and path.stat().st_size > 2000) and time.perf_counter() < deadline_s:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    lines = path.read_bytes().split(b"\n")
    found = [json.loads(line) for line in lines[:-1]]
    assert [line["window"] for line in found] == [f"w{k}" for k in range(len(found))]
    assert len(found) > 3


def test_a_file_that_cannot_be_written_is_told_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = []

    def work(meter: Meter) -> None:
        for k in range(3):
            with meter.window("w"):
                done.append(k)

    log = JsonlLog(tmp_path / "file" / "log.jsonl")
    with pytest.raises(ClisonixError, match="cannot write"), Meter() as meter, log.follow(meter):
        work(meter)
    assert done == [0, 1, 2]


def test_a_listener_hears_of_each_window_until_it_is_told_to_stop() -> None:
    heard = []
    with Meter([]) as meter:
        end = meter.on_close(lambda window: heard.append(window.name))
        with meter.window("a"), meter.window("b"):
            pass
        end()
        with meter.window("c"):
            pass
    assert heard == ["b", "a"]
