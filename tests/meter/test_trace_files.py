from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meter_fakes import ExactCounter, TickingCounter, World, cpu_model, sampled

from clisonix.errors import ClisonixError
from clisonix.meter import Reason, Recorder, Trace, Unavailable, combine


def some_trace(seconds: float = 2.0, lost: bool = False) -> Trace:
    world = World()
    gpu = TickingCounter(world)
    recorder = Recorder([gpu, cpu_model(world)], [Unavailable("rapl", "none")], clock=world.clock)
    recorder.sample()
    still_open = recorder.window("run")
    still_open.__enter__()
    for k in range(3):
        with recorder.window(f"train/é/{k}"):
            sampled(world, recorder, seconds / 3, 300.0)
            gpu.failure = "GPU is lost" if lost and k == 1 else ""
    trace = recorder.trace()
    still_open.__exit__(None, None, None)
    return trace


@pytest.mark.parametrize("lost", [False, True])
def test_a_loaded_trace_gives_the_same_figures_to_the_last_bit(tmp_path: Path, lost: bool) -> None:
    trace = some_trace(lost=lost)
    trace.save(tmp_path / "t.npz")
    loaded = Trace.load(tmp_path / "t.npz")
    assert loaded.windows == trace.windows
    assert loaded.windows[0].open
    assert loaded.unavailable == trace.unavailable
    for name in [*trace.names(), "train", "absent"]:
        assert loaded.readings(name) == trace.readings(name)
        assert loaded.energy(name) == trace.energy(name)
        assert loaded.seconds(name) == trace.seconds(name)
    assert [p.name for p in tmp_path.iterdir()] == ["t.npz"]


def test_a_trace_holds_no_pickle(tmp_path: Path) -> None:
    some_trace().save(tmp_path / "t.npz")
    with np.load(tmp_path / "t.npz", allow_pickle=False) as file:
        assert all(file[name].dtype != object for name in file.files)


def test_a_truncated_trace_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    some_trace().save(tmp_path / "t.npz")
    content = (tmp_path / "t.npz").read_bytes()
    for length in range(0, len(content), 97):
        (tmp_path / "cut.npz").write_bytes(content[:length])
        with pytest.raises(ClisonixError, match=r"cut\.npz"):
            Trace.load(tmp_path / "cut.npz")


@settings(max_examples=150, deadline=None)
@given(where=st.floats(0, 1), mask=st.integers(1, 255))
def test_damaged_bytes_are_refused_or_harmless_but_never_a_crash(
    tmp_path_factory: pytest.TempPathFactory, where: float, mask: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "flipped.npz"
    some_trace(0.3).save(path)
    content = bytearray(path.read_bytes())
    content[min(int(where * len(content)), len(content) - 1)] ^= mask
    path.write_bytes(bytes(content))
    # Anything but a ClisonixError that a user can act upon would pass through here and fail the test.
    with contextlib.suppress(ClisonixError):
        Trace.load(path).energy("run")


def test_a_missing_trace_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClisonixError, match="cannot read"):
        Trace.load(tmp_path / "absent.npz")


def test_a_trace_of_another_schema_is_refused(tmp_path: Path) -> None:
    some_trace().save(tmp_path / "t.npz")
    with np.load(tmp_path / "t.npz") as file:
        arrays = {name: file[name] for name in file.files}
    head = bytes(arrays["head"]).replace(b"clisonix.trace/2", b"clisonix.trace/3")
    np.savez(tmp_path / "t.npz", **{**arrays, "head": np.frombuffer(head, np.uint8)})
    with pytest.raises(ClisonixError, match="update clisonix"):
        Trace.load(tmp_path / "t.npz")


def test_samples_out_of_order_are_damage(tmp_path: Path) -> None:
    some_trace().save(tmp_path / "t.npz")
    with np.load(tmp_path / "t.npz") as file:
        arrays = {name: file[name] for name in file.files}
    np.savez(tmp_path / "t.npz", **{**arrays, "sensor0_t_s": arrays["sensor0_t_s"][::-1]})
    with pytest.raises(ClisonixError, match="damaged"):
        Trace.load(tmp_path / "t.npz")


def test_attempts_add_up() -> None:
    first, second = some_trace(1.0), some_trace(2.0)
    both = combine([first, second])
    assert both.seconds("train") == first.seconds("train") + second.seconds("train")
    assert both.energy("run").joules == pytest.approx(
        (first.energy("run").joules or 0) + (second.energy("run").joules or 0)
    )
    assert [r.device for r in both.readings("run")] == ["gpu:0", "cpu"]
    assert both.names() == first.names()


def test_one_attempt_is_that_trace() -> None:
    trace = some_trace()
    assert combine([trace]).energy("run") == trace.energy("run")
    assert combine([trace]).readings("train") == trace.readings("train")


def test_a_window_of_one_attempt_only_is_not_missing_in_the_other() -> None:
    first, second = some_trace(), some_trace()
    only = Trace(second.series, [span for span in second.windows if span.name == "run"])
    assert combine([first, only]).energy("train/é/0") == first.energy("train/é/0")
    assert combine([first, only]).energy("absent").joules is None


def test_a_sensor_lost_in_one_attempt_makes_the_sum_incomplete() -> None:
    world = World()
    counter = ExactCounter(world)
    recorder = Recorder([counter], clock=world.clock)
    recorder.sample()
    with recorder.window("run"):
        sampled(world, recorder, 1.0, 100.0)
        counter.failure = "unplugged"
        sampled(world, recorder, 1.0, 100.0)
    good = Recorder([ExactCounter(world)], clock=world.clock)
    good.sample()
    with good.window("run"):
        sampled(world, good, 1.0, 100.0)
    total = combine([recorder.trace(), good.trace()]).energy("run")
    assert total.joules == pytest.approx(100.0)
    assert "unplugged" in (total.reason or "")


def old_file(path: Path) -> Trace:
    """A file as the first version wrote it, and the trace it was made of."""
    trace = some_trace()
    trace.save(path)
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    head = json.loads(bytes(arrays["head"]))
    head["schema"] = "clisonix.trace/1"
    del head["jumps"]
    for sensor in head["sensors"]:
        del sensor["lost_code"]
    head["unavailable"] = [{key: m[key] for key in ("sensor", "reason", "device")} for m in head["unavailable"]]
    np.savez(path, **{**arrays, "head": np.frombuffer(json.dumps(head).encode(), np.uint8)})
    return trace


def test_a_file_of_the_first_version_answers_as_it_did(tmp_path: Path) -> None:
    trace = old_file(tmp_path / "old.npz")
    old = Trace.load(tmp_path / "old.npz")
    assert old.method == 1
    span = old.spans("train")[0]
    counter = trace.series[0].counter
    for found in (counter.between(span.start_s, span.end_s), old.series[0].counter.between(span.start_s, span.end_s)):
        reading = old.series[0].energy([span])
        assert (reading.joules, reading.low, reading.high) == (found.central, found.low, found.high)
    fields = {"joules", "low", "high", "source", "scope", "device", "reason", "refresh_s", "coverage", "detail"}
    for name in ["run", "train", "absent"]:
        assert set(old.energy(name).to_json()) == fields
        assert all(set(reading.to_json()) == fields for reading in old.readings(name))


def test_a_file_of_the_first_version_stays_one(tmp_path: Path) -> None:
    old_file(tmp_path / "old.npz")
    Trace.load(tmp_path / "old.npz").save(tmp_path / "again.npz")
    again = Trace.load(tmp_path / "again.npz")
    assert again.method == 1
    assert again.energy("train") == Trace.load(tmp_path / "old.npz").energy("train")


def test_a_trace_keeps_why_and_when(tmp_path: Path) -> None:
    world, awake = World(), [50.0]
    gpu = TickingCounter(world)
    recorder = Recorder([gpu], clock=world.clock, awake=lambda: world.clock() + awake[0])
    sampled(world, recorder, 1.0, 300.0)
    awake[0] += 100.0
    sampled(world, recorder, 1.0, 300.0)
    gpu.failure = "unplugged"
    recorder.sample()
    trace = recorder.trace()
    trace.save(tmp_path / "t.npz")
    loaded = Trace.load(tmp_path / "t.npz")
    assert loaded.jumps == trace.jumps
    assert [round(seconds) for _, seconds in loaded.jumps] == [100]
    assert (loaded.series[0].lost, loaded.series[0].lost_code) == ("unplugged", Reason.DRIVER_ERROR)
