"""Live streams become windows in event time: the same for every order of arrival, and in bounded memory."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import clisonix.fabric.weave
from clisonix.errors import ClisonixError
from clisonix.fabric import Recording, SignalFabric, Stream, Window
from clisonix.fabric.lane import LiveStream
from clisonix.fabric.source import Chunk, StreamInfo
from clisonix.fabric.weave import weave
from clisonix.fabric.weaver import Weaver

EEG, AUDIO = LiveStream(2, 50.0), LiveStream(1, 200.0)
Inbox = queue.Queue[Chunk | None]


def signal(spec: LiveStream, seconds: float, start_s: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    n = round(seconds * spec.rate_hz)
    samples = np.random.default_rng(seed).standard_normal((spec.channels, n)).astype(np.float32)
    return samples, start_s + np.arange(n) / spec.rate_hz


def chunks(name: str, samples: np.ndarray, times_s: np.ndarray, size: int) -> list[Chunk]:
    return [Chunk(name, samples[:, a : a + size], times_s[a : a + size], a) for a in range(0, len(times_s), size)]


def content(windows: Iterable[Window]) -> list[bytes]:
    return [
        b"".join(
            [
                *(w["streams"][m].numpy().tobytes() + w["masks"][m].numpy().tobytes() for m in sorted(w["streams"])),
                w["t0_s"].numpy().tobytes(),
                w["window"].numpy().tobytes(),
            ]
        )
        for w in windows
    ]


def run(weaver: Weaver, arrivals: Iterable[Chunk], often: Callable[[], bool] = lambda: True) -> list[bytes]:
    found = []
    for chunk in arrivals:
        weaver.push(chunk)
        if often():
            found += content(weaver.windows())
    for name in weaver.streams:
        weaver.close(name)
    return found + content(weaver.windows())


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_every_order_within_the_lateness_gives_the_same_bytes(data: st.DataObject) -> None:
    jitter_s = data.draw(st.sampled_from([0.0, 0.03]))
    specs = {"eeg": EEG._replace(jitter_s=jitter_s), "audio": AUDIO}
    seed = data.draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    sent: list[Chunk] = []
    for name, spec in specs.items():
        samples, times_s = signal(spec, 6.0, rng.uniform(0, 2), seed)
        times_s = times_s * (1 + rng.uniform(-2e-3, 2e-3))
        lost = rng.random(len(times_s)) < 0.01
        lost[rng.integers(len(lost)) :][: rng.integers(1, len(lost) // 3)] = True
        samples, times_s = samples[:, ~lost], times_s[~lost]
        if spec.jitter_s:
            times_s = times_s + rng.uniform(-0.01, 0.01, len(times_s))
        samples[:, rng.random(len(times_s)) < 0.02] = np.nan
        sent += chunks(name, samples, times_s, int(rng.integers(3, 40)))
    longest_s = max(float(c.times_s[-1] - c.times_s[0]) for c in sent)
    delay_s = data.draw(st.sampled_from([0.0, 0.2, 1.0]))

    def weaver() -> Weaver:
        return Weaver(specs, window=1.0, hop=0.4, lateness_s=longest_s + delay_s + 0.05)

    one = run(weaver(), sorted(sent, key=lambda c: float(c.times_s[-1])))
    arrival = {id(c): float(c.times_s[-1]) + rng.uniform(0, delay_s) for c in sent}
    other = weaver()
    assert run(other, sorted(sent, key=lambda c: arrival[id(c)]), lambda: rng.random() < 0.5) == one
    assert [count.late for count in other.counts.values()] == [0, 0]
    assert len(one) >= 10


def test_windows_are_those_of_the_recording() -> None:
    eeg, eeg_s = signal(EEG, 5.0, 100.0)
    audio, audio_s = signal(AUDIO, 4.0, 100.31, 1)
    eeg[:, 60:90] = np.nan
    whole = Recording("r", {"eeg": Stream(eeg, 50.0, 100.0), "audio": Stream(audio, 200.0, 100.31)})
    expected = list(SignalFabric([whole], window=1.0, hop=0.5))
    lost = np.isnan(eeg[0])
    inputs = {
        "eeg": chunks("eeg", eeg[:, ~lost], eeg_s[~lost], 7),
        "audio": chunks("audio", audio, audio_s, 33),
    }
    found = list(weave(inputs, {"eeg": EEG, "audio": AUDIO}, window=1.0, hop=0.5))
    assert content(found) == content(expected)
    assert [int(w["label"]) for w in found] == [-1] * len(expected)
    assert {k: v.dtype for k, v in found[0].items() if k in ("t0_s", "label", "window")} == {
        k: v.dtype for k, v in expected[0].items() if k in ("t0_s", "label", "window")
    }


def test_what_comes_too_late_is_counted_and_handed_over() -> None:
    samples, times_s = signal(EEG, 4.0)
    parts = chunks("eeg", samples, times_s, 25)
    late: list[Chunk] = []
    weaver = Weaver({"eeg": EEG}, window=1.0, lateness_s=0.2, late=late.append)
    # The chunk from 0.5 s on comes after 1.5 s have passed.
    found = run(weaver, [parts[0], parts[2], parts[3], parts[1], *parts[4:]])
    assert len(found) == 4
    assert [(c.index, c.samples.shape) for c in late] == [(25, (2, 25))]
    assert late[0].samples.tobytes() == parts[1].samples.tobytes()
    assert weaver.counts["eeg"].late == 25
    assert weaver.counts["eeg"].received == 200


def test_of_a_chunk_on_the_line_the_rest_counts() -> None:
    samples, times_s = signal(LiveStream(1, 50.0), 4.0)
    late: list[Chunk] = []
    spec = LiveStream(1, 50.0)
    weaver = Weaver({"a": spec, "b": spec}, window=1.0, late=late.append)
    for chunk in chunks("a", samples, times_s, 50):
        weaver.push(chunk)
    weaver.idle("b")
    assert len(list(weaver.windows())) == 3
    weaver.push(Chunk("b", samples[:, 125:175], times_s[125:175], 0))
    assert [(c.index, len(c.times_s)) for c in late] == [(0, 25)]
    weaver.close("a")
    weaver.close("b")
    (last,) = weaver.windows()
    assert int(last["masks"]["b"].sum()) == 25
    assert bool(last["masks"]["b"][0, :25].all())


def test_a_silent_stream_is_masked_after_the_idle_time_and_shapes_stay() -> None:
    now = [0.0]
    boxes: dict[str, Inbox] = {"eeg": queue.Queue(), "audio": queue.Queue()}
    samples, times_s = signal(EEG, 10.0)
    audio, audio_s = signal(AUDIO, 10.0)
    for chunk in chunks("eeg", samples, times_s, 25)[:12]:
        boxes["eeg"].put(chunk)
    for chunk in chunks("audio", audio, audio_s, 100)[:4]:
        boxes["audio"].put(chunk)

    def clock() -> float:
        now[0] += 0.01
        return now[0]

    woven = weave(boxes, {"eeg": EEG, "audio": AUDIO}, window=1.0, idle_s=2.0, clock=clock)
    first = next(woven)
    assert now[0] < 2.0
    later = [next(woven) for _ in range(4)]
    assert now[0] > 2.0
    for window in (first, *later):
        assert window["streams"]["eeg"].shape == (2, 50)
        assert window["masks"]["audio"].shape == (1, 200)
    assert [int(w["masks"]["audio"].sum()) for w in (first, *later)] == [200, 200, 0, 0, 0]
    # It comes back: what belongs to windows that are gone is late, what is new counts.
    for chunk in chunks("eeg", samples, times_s, 25)[12:]:
        boxes["eeg"].put(chunk)
    for chunk in chunks("audio", audio, audio_s, 100)[4:]:
        boxes["audio"].put(chunk)
    boxes["eeg"].put(None)
    boxes["audio"].put(None)
    rest = list(woven)
    assert float(rest[-1]["t0_s"]) == 9.0
    assert bool(rest[-1]["masks"]["audio"].all())


def watched(monkeypatch: pytest.MonkeyPatch) -> list[Weaver]:
    """The weavers that `weave` makes; each keeps the most bytes it held in `peak`."""
    made: list[Weaver] = []

    class Watched(Weaver):
        peak = 0

        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **kwargs)  # type: ignore[arg-type]
            made.append(self)

        def push(self, chunk: Chunk) -> None:
            super().push(chunk)
            self.peak = max(self.peak, self.nbytes)

    monkeypatch.setattr(clisonix.fabric.weave, "Weaver", Watched)
    return made


def test_memory_stays_within_the_budget_with_a_dead_and_a_hurried_source(monkeypatch: pytest.MonkeyPatch) -> None:
    made = watched(monkeypatch)
    budget = 60_000
    fast: Inbox = queue.Queue(maxsize=4)
    slow: Inbox = queue.Queue(maxsize=4)
    dead: Inbox = queue.Queue()
    samples, times_s = signal(AUDIO, 300.0)
    sent = [0]

    def hurry() -> None:
        for chunk in chunks("fast", samples, times_s, 50):
            fast.put(chunk)
            sent[0] += 1
        fast.put(None)

    eeg, eeg_s = signal(EEG, 300.0)
    ahead: list[int] = []

    def steady() -> None:
        for i, chunk in enumerate(chunks("slow", eeg, eeg_s, 25)):
            slow.put(chunk)
            if i % 100 == 0:
                ahead.append(sent[0] * 50 // 200 - i * 25 // 50)
        slow.put(None)

    threads = [threading.Thread(target=hurry), threading.Thread(target=steady)]
    for thread in threads:
        thread.start()
    streams = {"fast": AUDIO, "slow": EEG, "dead": EEG}
    inputs = {"fast": fast, "slow": slow, "dead": dead}
    # Nothing ends the dead one, so the last windows are taken by number.
    woven = weave(inputs, streams, window=1.0, idle_s=0.05, budget_bytes=budget)
    found = [next(woven) for _ in range(290)]
    woven.close()  # type: ignore[attr-defined]
    while any(thread.is_alive() for thread in threads):
        for box in (fast, slow):
            while not box.empty():
                box.get_nowait()
    for thread in threads:
        thread.join()
    assert made[0].peak <= budget  # type: ignore[attr-defined]
    assert made[0].counts["dead"].idle == 1
    assert all(bool(w["masks"]["fast"].all()) and bool(w["masks"]["slow"].all()) for w in found)
    assert not any(bool(w["masks"]["dead"].any()) for w in found)


def test_a_hurried_source_is_not_read_while_others_are_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    made = watched(monkeypatch)
    read = [0]
    samples, times_s = signal(AUDIO, 100.0)

    def hurried() -> Iterator[Chunk]:
        for chunk in chunks("fast", samples, times_s, 200):
            read[0] += 1
            yield chunk

    slow: Inbox = queue.Queue()
    now = [0.0]

    def clock() -> float:
        now[0] += 0.001
        if now[0] > 0.2:
            slow.put(None)
        return now[0]

    woven = weave({"fast": hurried(), "slow": slow}, {"fast": AUDIO, "slow": EEG}, window=1.0, budget_bytes=30_000,
                  clock=clock, idle_s=9.0)  # fmt: skip
    next(woven)
    assert made[0].peak <= 30_000  # type: ignore[attr-defined]
    assert read[0] <= 30_000 // (200 * 12)


def test_a_stream_that_sends_more_than_it_promised_is_told() -> None:
    samples, times_s = signal(EEG._replace(rate_hz=5000.0), 4.0)
    with pytest.raises(ClisonixError, match=r"eeg fills its .* bytes of the budget .* 50 samples per second"):
        list(weave({"eeg": chunks("eeg", samples, times_s, 100)}, {"eeg": EEG}, window=1.0, budget_bytes=20_000))


def test_a_budget_that_cannot_hold_a_window_is_told() -> None:
    with pytest.raises(ClisonixError, match="budget_bytes is 1000"):
        list(weave({"eeg": []}, {"eeg": EEG}, window=10.0, budget_bytes=1000))


def test_a_clock_that_jumps_by_days_costs_no_days_of_windows() -> None:
    samples, times_s = signal(EEG, 4.0)
    times_s[100:] += 653_000
    found = list(weave({"eeg": chunks("eeg", samples, times_s, 25)}, {"eeg": EEG}, window=1.0, hop=0.5))
    assert len(found) < 12
    assert sum(float(w["masks"]["eeg"][0].sum()) for w in found[::2]) >= 100
    assert {float(w["t0_s"]) // 600_000 for w in found} == {0.0, 1.0}


def test_bursts_land_on_neighbouring_cells_and_gaps_stay_open() -> None:
    spec = LiveStream(1, 100.0, jitter_s=0.05)
    n = 1000
    samples = np.arange(n, dtype=np.float32)[None] + 1
    device_s = np.arange(n) / 100 * (1 + 5e-4)
    device_s[500:] += 1.0
    # Bluetooth: ten samples at a time get about the same stamp.
    stamps = np.repeat(device_s[9::10], 10) + np.random.default_rng(0).uniform(0, 0.02, n // 10).repeat(10)
    stamps += np.tile(np.arange(10) * 1e-4, n // 10)
    found = list(weave({"a": chunks("a", samples, stamps, 10)}, {"a": spec}, window=1.0))
    row = np.concatenate([w["streams"]["a"][0].numpy() for w in found])
    mask = np.concatenate([w["masks"]["a"][0].numpy() for w in found])
    steps = np.diff(row[mask])
    assert set(steps) <= {1.0, 2.0}
    assert (steps == 2).sum() <= 2  # drift of 0.5 ms a second costs a sample now and then
    closed = np.flatnonzero(np.diff(np.flatnonzero(mask)) > 50)
    assert len(closed) == 1
    assert 95 <= np.diff(np.flatnonzero(mask))[closed[0]] <= 106


def test_what_is_sent_twice_counts_once() -> None:
    samples, times_s = signal(EEG, 4.0)
    parts = chunks("eeg", samples, times_s, 25)
    once = run(Weaver({"eeg": EEG}, window=1.0, lateness_s=1.0), parts)
    assert run(Weaver({"eeg": EEG}, window=1.0, lateness_s=1.0), [p for p in parts for _ in range(2)]) == once


def test_a_stream_far_behind_does_not_hold_the_others_back() -> None:
    samples, times_s = signal(EEG, 10.0)
    weaver = Weaver({"now": EEG, "past": EEG}, window=1.0)
    weaver.idle("past")
    count = 0
    for i, chunk in enumerate(chunks("now", samples, times_s + 1000, 50)):
        weaver.push(chunk)
        count += len(list(weaver.windows()))
        if count:
            weaver.push(Chunk("past", samples[:, :50], times_s[:50] + i, i * 50))
            count += len(list(weaver.windows()))
    assert count >= 8
    assert weaver.counts["past"].late >= 400


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda: Weaver({}, window=1.0), "no streams"),
        (lambda: Weaver({"a": EEG}, window=0.0), "window is 0.0 s"),
        (lambda: Weaver({"a": EEG}, window=0.001), "holds no sample"),
        (lambda: Weaver({"a": EEG}, window=1.0, lateness_s=-1), "lateness_s"),
        (lambda: Weaver({"a": LiveStream(0, 1.0)}, window=1.0), "a cannot be"),
        (lambda: list(weave({"a": []}, {"b": EEG}, window=1.0)), "name different streams: 'a', 'b'"),
        (lambda: LiveStream.of(StreamInfo("m", ("x",), ("",), None)), "m is irregular"),
        (
            lambda: Weaver({"a": EEG}, window=1.0).push(Chunk("b", np.zeros((2, 1), np.float32), np.zeros(1), 0)),
            "'b'",
        ),
        (
            lambda: Weaver({"a": EEG}, window=1.0).push(Chunk("a", np.zeros((3, 1), np.float32), np.zeros(1), 0)),
            r"shape \(3, 1\)",
        ),
        (
            lambda: Weaver({"a": EEG}, window=1.0).push(
                Chunk("a", np.zeros((2, 1), np.float32), np.full(1, np.nan), 0)
            ),
            "not finite",
        ),
    ],
)
def test_what_makes_no_sense_is_told(wrong: Callable[[], object], hint: str) -> None:
    with pytest.raises(ClisonixError, match=hint):
        wrong()
