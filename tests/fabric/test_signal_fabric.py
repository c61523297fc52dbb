"""Windows of several rates are aligned, masked, shuffled reproducibly and resumable anywhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from clisonix.errors import ClisonixError
from clisonix.fabric import Event, Modality, Recording, SignalFabric, Stream


def ramp(rate_hz: float, seconds: float, start_s: float = 0.0, channels: int = 1) -> Stream:
    """A stream whose every value is its own time."""
    times = start_s + np.arange(round(seconds * rate_hz)) / rate_hz
    return Stream(np.tile(times.astype(np.float32), (channels, 1)), rate_hz, start_s)


def recordings(n: int = 4) -> list[Recording]:
    return [
        Recording(f"r{i}", {"eeg": ramp(256, 10 + i, channels=3), "audio": ramp(8000, 10 + i)}, label=i % 2)
        for i in range(n)
    ]


def ids(fabric: SignalFabric) -> list[int]:
    return torch.cat([w["window"].reshape(-1) for w in fabric]).tolist()


def test_streams_of_unlike_rate_show_the_same_time() -> None:
    for window in SignalFabric(recordings(), window=2.0, hop=0.7):
        t0 = float(window["t0_s"])
        assert window["streams"]["eeg"].shape == (3, 512)
        assert window["streams"]["audio"].shape == (1, 16000)
        # The nearest sample is at most half a period away.
        assert float(window["streams"]["eeg"][0, 0]) == pytest.approx(t0, abs=0.5 / 256 + 1e-5)
        assert float(window["streams"]["audio"][0, 0]) == pytest.approx(t0, abs=0.5 / 8000 + 1e-5)
        assert window["masks"]["eeg"].all()


def test_windows_cover_a_recording_exactly() -> None:
    fabric = SignalFabric([Recording("r", {"x": ramp(50, 10.0)})], window=4.0, hop=2.0)
    assert fabric.table.start_s.tolist() == [0.0, 2.0, 4.0, 6.0]


def test_a_short_recording_gives_one_masked_window() -> None:
    [window] = SignalFabric([Recording("r", {"x": ramp(100, 0.6)})], window=1.0)
    assert window["masks"]["x"].sum() == 60
    assert (window["streams"]["x"][~window["masks"]["x"]] == 0).all()


def test_streams_that_start_late_or_end_early_are_masked() -> None:
    streams = {"long": ramp(100, 10.0), "short": ramp(50, 3.0, start_s=2.5)}
    for window in SignalFabric([Recording("r", streams)], window=2.0, hop=1.0):
        times = float(window["t0_s"]) + np.arange(100) / 50
        inside = (times > 2.5 - 0.011) & (times < 5.5 - 0.011)
        assert (window["masks"]["short"][0].numpy() == inside).all()


def test_nan_stretches_are_masked_counted_and_zero() -> None:
    stream = ramp(100, 5.0, channels=2)
    stream.samples[1, 120:180] = np.nan
    fabric = SignalFabric([Recording("r", {"x": stream})], window=1.0, hop=1.0, batch_size=5)
    [batch] = fabric
    assert fabric.masked == {"x": (60, 1000)}
    assert (~batch["masks"]["x"]).sum() == 60
    assert not batch["masks"]["x"][1, 1, 20:80].any()
    assert torch.isfinite(batch["streams"]["x"]).all()


def test_windows_around_events() -> None:
    events = [Event(0.1, "a"), Event(3.0, "b"), Event(9.9, "a")]
    recording = Recording("r", {"x": ramp(100, 10.0)}, events=events)
    fabric = SignalFabric([recording], window=1.0, around="events", offset=0.5, classes=["a", "b"])
    # The last event has only half a second of signal after its offset, none of it inside.
    assert fabric.table.start_s.tolist() == pytest.approx([0.6, 3.5])
    assert fabric.table.label.tolist() == [0, 1]


def test_shuffling_is_a_permutation_that_seed_and_epoch_decide() -> None:
    def epochs(seed: int) -> list[list[int]]:
        fabric = SignalFabric(recordings(), window=1.0, hop=0.5, batch_size=4, shuffle=True, seed=seed)
        return [ids(fabric) for _ in range(3)]

    first = epochs(0)
    assert first == epochs(0)
    assert first[0] != first[1]
    assert first[0] != epochs(1)[0]
    assert all(sorted(order) == list(range(len(order))) for order in first)


@settings(deadline=None, max_examples=40)
@given(
    stops=st.lists(st.integers(0, 12), max_size=6),
    batch=st.integers(1, 9),
    drop=st.booleans(),
    seed=st.integers(0, 9),
)
def test_stopping_anywhere_and_resuming_loses_and_repeats_nothing(
    stops: Sequence[int], batch: int, drop: bool, seed: int
) -> None:
    def fresh() -> SignalFabric:
        return SignalFabric(
            recordings(2), window=2.0, hop=1.0, batch_size=batch, shuffle=True, seed=seed, drop_last=drop
        )

    def take(fabric: SignalFabric, n: int) -> list[list[int]]:
        """`n` batches, going over the ends of epochs."""
        taken: list[list[int]] = []
        while len(taken) < n:
            for window in fabric:
                taken.append(window["window"].tolist())
                if len(taken) == n:
                    break
        return taken

    want, seen, state = take(fresh(), sum(stops)), [], fresh().state_dict()
    for n in stops:
        fabric = fresh()
        fabric.load_state_dict(json.loads(json.dumps(state)))
        seen += take(fabric, n)
        state = fabric.state_dict()
    assert seen == want


def test_the_cursor_is_small_and_refuses_other_data() -> None:
    fabric = SignalFabric(recordings(), window=1.0, hop=0.5, seed=1)
    state = fabric.state_dict()
    assert len(json.dumps(state)) < 1024
    with pytest.raises(ClisonixError, match="recordings or windows have changed"):
        SignalFabric(recordings(3), window=1.0, hop=0.5, seed=1).load_state_dict(state)
    with pytest.raises(ClisonixError, match="seed differs"):
        SignalFabric(recordings(), window=1.0, hop=0.5, seed=2).load_state_dict(state)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_loader_keeps_the_order_whatever_its_workers(workers: int) -> None:
    fabric = SignalFabric(recordings(2), window=1.0, hop=0.5, batch_size=3, shuffle=True)
    want = ids(SignalFabric(recordings(2), window=1.0, hop=0.5, batch_size=3, shuffle=True))
    loader: Any = DataLoader(fabric, batch_size=None, num_workers=workers)
    assert torch.cat([w["window"] for w in loader]).tolist() == want
    fabric.set_epoch(1)
    second = torch.cat([w["window"] for w in loader]).tolist()
    assert second == fabric.order(1).tolist() != want


@pytest.mark.parametrize("policy", ["mask", "drop", "fail"])
def test_missing_modalities(policy: Any) -> None:
    some = [*recordings(2), Recording("lacking", {"eeg": ramp(256, 10, channels=3)}, label=0)]

    def make() -> SignalFabric:
        return SignalFabric(some, window=2.0, hop=2.0, missing=policy, batch_size=100)

    if policy == "fail":
        with pytest.raises(ClisonixError, match="lacking has no audio"):
            make()
        return
    [batch] = make()
    assert len(batch["label"]) == (15 if policy == "mask" else 10)
    if policy == "mask":
        assert not batch["masks"]["audio"][10:].any()
        assert batch["masks"]["eeg"].all()


def test_a_modality_that_no_recording_has_can_be_asked_for() -> None:
    shapes = {"eeg": Modality(3, 256.0, 512), "ppg": Modality(1, 64.0, 128)}
    [batch] = SignalFabric(recordings(1), window=2.0, modalities=shapes, batch_size=1)
    assert batch["streams"]["ppg"].shape == (1, 1, 128)
    assert not batch["masks"]["ppg"].any()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"window": 0}, "window is 0.0 s"),
        ({"window": 1, "hop": -1}, "hop is -1 s"),
        ({"window": 1, "batch_size": 0}, "batch_size is 0"),
        ({"window": 0.0001}, "holds no sample of eeg"),
        ({"window": 1, "around": "events"}, "hold no events"),
        ({"window": 1, "classes": ["x"]}, "label 0, which is none of"),
        ({"window": 1, "missing": "maks"}, "did you mean 'mask'"),
    ],
)
def test_bad_arguments_are_one_sentence(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ClisonixError, match=sentence):
        SignalFabric(recordings(), **arguments)


def test_recordings_must_agree_on_rates() -> None:
    unlike = [*recordings(1), Recording("odd", {"eeg": ramp(250, 10, channels=3)})]
    with pytest.raises(ClisonixError, match="odd: eeg has 3 channels at 250 Hz"):
        SignalFabric(unlike, window=1.0)


def test_no_recordings() -> None:
    with pytest.raises(ClisonixError, match="no recordings"):
        SignalFabric([], window=1.0)
