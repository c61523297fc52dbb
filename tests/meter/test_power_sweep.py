"""A sweep over power limits finds the best one, and leaves the GPUs as they were, however it ends."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_library import binding, configure

from clisonix.errors import ClisonixError
from clisonix.meter import restore_limits, sweep_power, sweep_sentences
from clisonix.meter.power.power_limit import with_limits_kept

SECONDS = {600: 0.30, 500: 0.30, 400: 0.33, 300: 0.5, 200: 1.0}
GPU = "load steady 600\nlimit_w 600\nmin_limit_w 200\n"
BEFORE_MW = 450_000


class Bench:
    """A GPU whose work takes longer at low limits, and draws what the limit allows."""

    def __init__(self, nvml: Any, folder: Path, kept: Path) -> None:
        self.nvml, self.state, self.kept = nvml, folder / "state.json", kept
        nvml.nvmlInit()
        self.handle = nvml.nvmlDeviceGetHandleByIndex(0)
        self.seen: list[int] = []

    def limit_mw(self) -> int:
        return int(self.nvml.nvmlDeviceGetPowerManagementLimit(self.handle))

    def work(self) -> None:
        self.seen.append(self.limit_mw())
        time.sleep(SECONDS.get(self.limit_mw() // 1000, 0.05))

    def sweep(self, work: Callable[[], object] | None = None, **options: Any) -> Any:
        options = {"seconds": 0, "settle_s": 0.02, "warmup": False, **options}
        return sweep_power(work or self.work, nvml=self.nvml, state=self.state, **options)

    def untouched(self) -> bool:
        return self.limit_mw() == BEFORE_MW and not self.state.exists()


@pytest.fixture
def bench(library: Path, tmp_path: Path) -> Iterator[Bench]:
    kept = tmp_path / "limit"
    kept.write_text(f"{BEFORE_MW}\n")
    with binding(library, configure(tmp_path, [f"{GPU}limit_file {kept}"])) as (nvml, _):
        yield Bench(nvml, tmp_path, kept)


def test_the_best_limit_is_found_and_the_old_one_is_back(bench: Bench) -> None:
    said: list[str] = []
    found = bench.sweep(seconds=0.25, max_slowdown=0.05, warmup=True, say=said.append)
    assert bench.untouched()
    assert bench.seen == [BEFORE_MW, 600_000, 500_000, 400_000, 300_000, 200_000]
    assert found.optimum.limit_w == 400.0
    assert found.within_slowdown.limit_w == 500.0
    for point in found.points:
        truth = point.limit_w * SECONDS[int(point.limit_w)]
        assert point.joules == pytest.approx(truth, rel=0.35)  # the counter ticks ten times a second
        assert point.low <= truth * 1.02
        assert point.high >= truth * 0.98
        assert point.watts == pytest.approx(point.limit_w, rel=0.35)
    content = json.loads(json.dumps(found.to_json()))
    assert (content["optimum_w"], content["within_slowdown_w"]) == (400.0, 500.0)
    assert content["gpus"][0] == {
        "device": "gpu:0", "uuid": "GPU-0001-fake", "model": "Fake GPU", "limit_w": 450.0, "low_w": 200.0,
        "high_w": 600.0,
    }  # fmt: skip
    assert sweep_sentences(found)[0].startswith("least energy: 400 W with ")
    assert len(said) == 6


def test_short_work_is_repeated(bench: Bench) -> None:
    found = bench.sweep(lambda: time.sleep(0.01), limits=[300, 600, 300], seconds=0.2)
    assert [point.limit_w for point in found.points] == [600.0, 300.0]
    for point in found.points:
        assert 2 <= point.runs <= 20
        assert point.seconds * point.runs >= 0.2
    assert found.as_good in ([], [600.0])


def test_limits_are_back_after_an_error_in_the_work(bench: Bench) -> None:
    def fails() -> None:
        assert bench.limit_mw() != BEFORE_MW
        raise KeyError("work")

    with pytest.raises(KeyError):
        bench.sweep(fails)
    assert bench.untouched()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_does_what_it_would_have_done_after_the_limits_are_back(bench: Bench, number: int) -> None:
    heard: list[tuple[int, bool]] = []
    before = signal.signal(number, lambda n, frame: heard.append((n, bench.untouched())))
    try:
        with pytest.raises(SystemExit) as ended:
            bench.sweep(lambda: os.kill(os.getpid(), number))
    finally:
        handler = signal.signal(number, before)
    assert heard == [(number, True)]
    assert ended.value.code == 128 + number
    assert handler is not None
    assert handler.__name__ == "<lambda>"  # the program's own handler was put back


def test_work_that_swallows_the_interrupt_still_ends_the_sweep(bench: Bench) -> None:
    def swallows() -> None:
        bench.work()
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        except KeyboardInterrupt:
            pass

    with pytest.raises(KeyboardInterrupt):
        bench.sweep(swallows, limits=[500])
    assert bench.untouched()


def test_a_worker_that_is_told_to_end_puts_nothing_back(bench: Bench) -> None:
    codes = []

    def work() -> None:
        child = os.fork()
        if child == 0:
            signal.pause()
            os._exit(7)
        time.sleep(0.05)
        os.kill(child, signal.SIGTERM)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        codes.append(int(bench.kept.read_text()))

    bench.sweep(work, limits=[300])
    assert codes == [-signal.SIGTERM, 300_000]
    assert bench.untouched()


def test_notes_of_another_sweep_are_respected_and_old_ones_are_not(bench: Bench) -> None:
    with_limits_kept([], lambda: bench.state.rename(bench.state.with_suffix(".kept")), bench.state)
    note = json.loads(bench.state.with_suffix(".kept").read_text())
    bench.state.write_text(json.dumps(note))
    with pytest.raises(ClisonixError, match=f"another sweep runs as process {os.getpid()}"):
        bench.sweep()
    with pytest.raises(ClisonixError, match="puts the limits back itself"):
        restore_limits(bench.state, bench.nvml)
    ended = {**note, "started": "0", "milliwatts": {"GPU-0001-fake": 333_000}}
    bench.state.write_text(json.dumps(ended))
    with pytest.raises(ClisonixError, match="run `clisonix sweep restore` first"):
        bench.sweep()
    assert bench.limit_mw() == BEFORE_MW
    # A restart of the machine has put the limits back.
    bench.state.write_text(json.dumps({**ended, "boot": "another"}))
    assert restore_limits(bench.state, bench.nvml) == {}
    assert bench.untouched()
    bench.state.write_text(json.dumps({**ended, "boot": "another"}))
    bench.sweep(limits=[300])
    assert bench.untouched()
    bench.state.write_text(json.dumps(ended))
    assert restore_limits(bench.state, bench.nvml) == {"GPU-0001-fake": 333.0}
    assert (bench.limit_mw(), bench.state.exists()) == (333_000, False)
    bench.state.write_text("{}")
    with pytest.raises(ClisonixError, match="is no note of power limits"):
        restore_limits(bench.state, bench.nvml)


def test_bad_input_changes_nothing(bench: Bench) -> None:
    for options, sentence in (
        ({"limits": [100]}, "100 W was given, and the GPUs allow 200 W to 600 W"),
        ({"limits": []}, "no limit was given"),
        ({"min_w": 500, "max_w": 300}, "above the highest"),
        ({"max_w": 900}, "900 W was given"),
        ({"steps": 0}, "steps >= 1"),
        ({"seconds": -1}, "a time of 0 or more"),
        ({"max_slowdown": -0.1}, "the slowdown is -0.1"),
    ):
        with pytest.raises(ClisonixError, match=sentence):
            bench.sweep(**options)
    assert bench.seen == []
    assert bench.untouched()
    failures: list[BaseException] = []

    def elsewhere() -> None:
        try:
            bench.sweep()
        except ClisonixError as error:
            failures.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert "main thread" in str(failures[0])
    assert bench.untouched()


def test_without_the_right_to_set_limits_nothing_runs(library: Path, tmp_path: Path) -> None:
    with binding(library, configure(tmp_path, ["limit_w 700\n", "limit_w 700\nset_limit_ok 0"])) as (nvml, _):
        ran = []
        state = tmp_path / "state.json"
        with pytest.raises(ClisonixError, match=r"gpu:1 may not be set here \(Insufficient Permissions\): run"):
            sweep_power(lambda: ran.append(1), nvml=nvml, state=state)
        assert ran == []
        assert not state.exists()
        # The other GPU alone may be set.
        found = sweep_power(
            lambda: time.sleep(0.3), [700, 350], seconds=0, visible="0", nvml=nvml, state=state, settle_s=0
        )
        assert [gpu["device"] for gpu in found.gpus] == ["gpu:0"]


def test_several_gpus_share_one_limit_that_all_allow(library: Path, tmp_path: Path) -> None:
    gpus = ["load steady 600\nlimit_w 600\nmin_limit_w 200\n", "load steady 300\nlimit_w 400\nmin_limit_w 150\n"]
    with binding(library, configure(tmp_path, gpus)) as (nvml, _):
        found = sweep_power(
            lambda: time.sleep(0.4), steps=2, seconds=0, nvml=nvml, state=tmp_path / "s", settle_s=0.1
        )
        assert [point.limit_w for point in found.points] == [400.0, 200.0]
        assert found.points[0].watts == pytest.approx(700.0, rel=0.3)
        limits = [
            nvml.nvmlDeviceGetPowerManagementLimit(nvml.nvmlDeviceGetHandleByIndex(index)) for index in range(2)
        ]
        assert limits == [600_000, 400_000]


def test_a_gpu_that_is_lost_midway_makes_its_points_unknown_and_not_best(bench: Bench) -> None:
    counter: Any = bench.nvml.nvmlDeviceGetTotalEnergyConsumption
    try:

        def lost(handle: Any) -> int:
            if bench.limit_mw() == 300_000:
                raise bench.nvml.NVMLError(bench.nvml.NVML_ERROR_GPU_IS_LOST)
            return int(counter(handle))

        bench.nvml.nvmlDeviceGetTotalEnergyConsumption = lost
        found = bench.sweep(limits=[600, 300])
    finally:
        bench.nvml.nvmlDeviceGetTotalEnergyConsumption = counter
    assert [point.joules is None for point in found.points] == [False, True]
    assert found.optimum.limit_w == 600.0
    assert bench.untouched()
