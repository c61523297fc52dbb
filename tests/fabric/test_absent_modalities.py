"""Any subset of modalities may be absent: shapes stay, masks say exactly what was measured, nobody waits for ever."""

from __future__ import annotations

import itertools
import queue

import numpy as np
import pytest

from clisonix.errors import ClisonixError
from clisonix.fabric import Loader, Modality, Recording, SignalFabric, Stream
from clisonix.fabric.lane import LiveStream
from clisonix.fabric.source import Chunk
from clisonix.fabric.weave import weave

RATES_HZ = {"eeg": 64.0, "audio": 160.0, "wrist": 32.0}
CHANNELS = {"eeg": 4, "audio": 1, "wrist": 3}
SECONDS, WINDOW_S, HOP_S, IDLE_S = 6, 1.0, 0.5, 0.5
SUBSETS = [set(some) for n in range(4) for some in itertools.combinations(RATES_HZ, n)]
SHAPES = {m: Modality(CHANNELS[m], RATES_HZ[m], int(WINDOW_S * RATES_HZ[m])) for m in RATES_HZ}


def samples(name: str) -> np.ndarray:
    """Nothing that is 0, so that what is 0 was masked; and a hole of half a second."""
    n = int(SECONDS * RATES_HZ[name])
    values = 1 + np.arange(CHANNELS[name] * n, dtype=np.float32).reshape(-1, n)
    values[:, int(2.25 * RATES_HZ[name]) : int(2.75 * RATES_HZ[name])] = np.nan
    return values


def recording(name: str, present: set[str]) -> Recording:
    return Recording(name, {m: Stream(samples(m), RATES_HZ[m]) for m in RATES_HZ if m in present}, label=name)


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("missing", SUBSETS, ids=lambda s: "+".join(sorted(s)) or "nothing")
def test_masked_windows_keep_their_shapes(missing: set[str], threads: int) -> None:
    present = RATES_HZ.keys() - missing
    recordings = [recording("whole", set(RATES_HZ)), recording("part", present)]
    settings = {"window": WINDOW_S, "hop": HOP_S, "modalities": SHAPES, "batch_size": 4}
    batches = list(Loader(SignalFabric(recordings, **settings), threads=threads))  # type: ignore[arg-type]
    # A recording that lacks everything has no length, so no windows.
    assert sum(len(b["label"]) for b in batches) == (22 if present else 11)
    for batch in batches:
        for i, (start_s, window) in enumerate(zip(batch["t0_s"].tolist(), batch["window"].tolist(), strict=True)):
            for name, shape in SHAPES.items():
                values, mask = batch["streams"][name][i].numpy(), batch["masks"][name][i].numpy()
                assert values.shape == mask.shape == (shape.channels, shape.samples)
                first = round(start_s * shape.rate_hz)
                want = samples(name)[:, first : first + shape.samples]
                if window >= 11 and name in missing:
                    want = np.full_like(want, np.nan)
                assert (mask == np.isfinite(want)).all()
                assert (values == np.nan_to_num(want)).all()


@pytest.mark.parametrize("missing", SUBSETS[1:], ids=lambda s: "+".join(sorted(s)))
def test_windows_can_be_left_out_or_refused_instead(missing: set[str]) -> None:
    recordings = [recording("whole", set(RATES_HZ)), recording("part", RATES_HZ.keys() - missing)]
    settings = {"window": WINDOW_S, "hop": HOP_S, "modalities": SHAPES}
    dropped = SignalFabric(recordings, missing="drop", **settings)  # type: ignore[arg-type]
    assert len(dropped.table) == 11
    assert set(dropped.table.recording.tolist()) == {0}
    for window in dropped:
        assert set(window["streams"]) == set(RATES_HZ)
    with pytest.raises(ClisonixError, match=r"part has no .*missing='fail'") as caught:
        SignalFabric(recordings, missing="fail", **settings)  # type: ignore[arg-type]
    assert all(name in str(caught.value) for name in missing)


class Passing:
    """A clock that goes on by a tenth of a second whenever it is read."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 0.1
        return self.now_s


@pytest.mark.parametrize("missing", SUBSETS[:-1], ids=lambda s: "+".join(sorted(s)) or "nothing")
def test_live_streams_that_never_come_are_masked_after_the_idle_time(missing: set[str]) -> None:
    specs = {name: LiveStream(CHANNELS[name], RATES_HZ[name]) for name in RATES_HZ}
    inputs: dict[str, queue.Queue[Chunk | None]] = {name: queue.Queue() for name in RATES_HZ}
    for name in RATES_HZ.keys() - missing:
        values, times_s = samples(name), np.arange(int(SECONDS * RATES_HZ[name])) / RATES_HZ[name]
        known = np.isfinite(values[0])
        for at in range(0, len(times_s), 16):
            part = slice(at, at + 16)
            inputs[name].put(Chunk(name, values[:, part][:, known[part]], times_s[part][known[part]], at))
        inputs[name].put(None)
    clock = Passing()
    windows = weave(inputs, specs, window=WINDOW_S, hop=HOP_S, idle_s=IDLE_S, start_s=0.0, clock=clock)
    # Those that never come never end either: nothing but the idle time lets the first eleven windows go.
    found = list(itertools.islice(windows, 11))
    assert len(found) == 11
    assert clock.now_s < 600, "it waited for what never comes"
    for k, window in enumerate(found):
        for name, shape in SHAPES.items():
            values, mask = window["streams"][name].numpy(), window["masks"][name].numpy()
            assert values.shape == mask.shape == (shape.channels, shape.samples)
            first = round(k * HOP_S * shape.rate_hz)
            want = samples(name)[:, first : first + shape.samples]
            if name in missing:
                want = np.full_like(want, np.nan)
            assert (mask == np.isfinite(want)).all()
            assert (values == np.nan_to_num(want)).all()
