"""Ranks, threads and kills change neither the order nor a bit of a window."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clisonix.errors import ClisonixError
from clisonix.fabric import Loader, Modality, Recording, SignalFabric, Stream, Window
from clisonix.fabric.buffers import Buffers

KILL = Path(__file__).parent.parent.parent / "scripts/bench/fabric_kill.py"


def weave(size: int | None = 3, rank: int | None = None, world: int | None = None, **more: Any) -> SignalFabric:
    rng = np.random.default_rng(1)
    streams = {
        "eeg": Stream(rng.standard_normal((4, 64 * 20), np.float32), 64.0),
        "ppg": Stream(rng.standard_normal((1, 25 * 15), np.float32), 25.0, start_s=2.0),
    }
    return SignalFabric(
        [Recording("r", streams)], window=1.0, hop=0.5, batch_size=size, shuffle=True, rank=rank, world=world, **more
    )


def counted(batch: Window) -> list[int]:
    rows = batch["window"].reshape(-1)
    return rows[batch["weight"].reshape(-1) > 0].tolist()


@settings(deadline=None, max_examples=40)
@given(
    stages=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(0, 5)), max_size=5),
    epoch=st.integers(0, 3),
)
def test_any_ranks_and_batches_cover_the_global_order(stages: Sequence[tuple[int, int, int]], epoch: int) -> None:
    fabric = weave()
    fabric.set_epoch(epoch)
    order, state, seen = fabric.order(epoch).tolist(), fabric.state_dict(), []
    for world, size, steps in [*stages, (2, 4, 10**6)]:
        ranks = [weave(size, rank, world) for rank in range(world)]
        for rank in ranks:
            rank.load_state_dict(json.loads(json.dumps(state)))
        assert len({len(rank.plan()) for rank in ranks}) == 1
        for _, batches in zip(range(steps), zip(*ranks, strict=True), strict=False):
            assert len({len(batch["window"]) for batch in batches}) == 1
            seen += [row for batch in batches for row in counted(batch)]
            states = [rank.state_dict() for rank in ranks]
            assert all(s == states[0] for s in states)
            state = states[0]
    assert seen == order


def test_drop_last_leaves_out_what_does_not_fill_every_rank() -> None:
    ranks = [weave(4, rank, 3, drop_last=True) for rank in range(3)]
    batches = [list(rank) for rank in ranks]
    assert [len(b) for b in batches] == [len(ranks[0].table) // 12] * 3
    assert all(b["weight"].all() and len(b["window"]) == 4 for rank in batches for b in rank)


def test_more_ranks_than_windows_do_not_hang_and_count_once() -> None:
    tiny = [Recording("r", {"x": Stream(np.ones((1, 100), np.float32), 50.0)})]
    ranks = [SignalFabric(tiny, window=1.0, hop=0.5, batch_size=2, rank=r, world=5) for r in range(5)]
    batches = [list(rank) for rank in ranks]
    assert [len(b) for b in batches] == [1] * 5
    assert sorted(row for rank in batches for b in rank for row in counted(b)) == [0, 1, 2]


def test_ranks_are_given_together_and_exist() -> None:
    with pytest.raises(ClisonixError, match="give both or neither"):
        weave(rank=0)
    with pytest.raises(ClisonixError, match="rank is 2 of 2"):
        weave(rank=2, world=2)


@pytest.mark.parametrize("size", [None, 1, 4])
@pytest.mark.parametrize("threads", [0, 1, 3])
def test_threads_change_nothing(size: int | None, threads: int) -> None:
    loader, plain = Loader(weave(size), threads=threads, prefetch=5), weave(size)
    for _ in range(2):
        made, want = list(loader), list(plain)
        assert len(made) == len(want) == len(loader)
        for a, b in zip(made, want, strict=True):
            assert torch.equal(a["window"], b["window"])
            for name in a["streams"]:
                assert torch.equal(a["streams"][name], b["streams"][name])
                assert torch.equal(a["masks"][name], b["masks"][name])
    assert loader.state_dict() == plain.state_dict()
    assert loader.stats.batches == 2 * len(loader)
    assert loader.stats.seconds["copy"] > 0


def test_the_cursor_counts_what_was_delivered_not_what_was_made_ahead() -> None:
    loader = Loader(weave(2), threads=2, prefetch=6)
    first = [row for _, b in zip(range(4), loader, strict=False) for row in counted(b)]
    state = json.loads(json.dumps(loader.state_dict()))
    assert state["position"] == 8
    assert len(json.dumps(state)) < 1024
    again = Loader(weave(5), threads=1)
    again.load_state_dict(state)
    order = weave().order(0).tolist()
    assert [row for b in again for row in counted(b)] == order[state["position"] :]
    assert first == order[:8]


def test_a_consumer_that_stops_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    for batch in Loader(weave(1), threads=3, prefetch=8):
        assert len(batch["label"]) == 1
        break
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_an_error_in_a_thread_reaches_the_consumer() -> None:
    def fail(window: Window) -> Window:
        raise ClisonixError(f"no to {len(window['label'])} windows")

    with pytest.raises(ClisonixError, match="no to 3 windows"):
        list(Loader(weave(), threads=2, transform=fail))


def test_batches_that_are_kept_stay_and_others_give_their_memory_back() -> None:
    kept, copies = [], []
    for batch in Loader(weave(2), threads=2):
        kept.append(batch["streams"]["eeg"][:1])
        copies.append(copy.deepcopy(kept[-1]))
    assert all(torch.equal(a, b) for a, b in zip(kept, copies, strict=True))
    buffers = Buffers(keep=2)
    array, tensor = buffers.take("x", (2, 3))
    assert buffers.take("x", (2, 3))[0] is not array
    view = tensor[0]
    address = array.ctypes.data
    del array, tensor
    assert buffers.take("x", (2, 3))[0].ctypes.data != address
    del view
    assert buffers.take("x", (2, 3))[0].ctypes.data == address


def test_the_memory_budget_bounds_what_is_made_ahead() -> None:
    loader = Loader(weave(4), threads=2)
    tight = Loader(weave(4), threads=2, memory_bytes=4 * loader.batch_bytes)
    assert tight.prefetch == 3
    assert [counted(b) for b in tight] == [counted(b) for b in loader]
    with pytest.raises(ClisonixError, match="lower batch_size or raise the budget"):
        Loader(weave(4), threads=2, memory_bytes=loader.batch_bytes)


def test_a_device_gets_the_same_batches_and_one_true_instead_of_a_mask() -> None:
    batch, want = next(iter(Loader(weave(2), device="cpu"))), next(iter(weave(2)))
    assert torch.equal(batch["masks"]["eeg"], want["masks"]["eeg"])
    meta = next(iter(Loader(weave(2), device="meta", threads=0)))
    assert meta["masks"]["eeg"].stride() == (0, 0, 0)
    assert meta["streams"]["eeg"].is_meta


@pytest.mark.parametrize("missing", [None, -32768])
def test_integers_become_physical_units_when_they_are_cut(tmp_path: Path, missing: int | None) -> None:
    rng = np.random.default_rng(2)
    stored = rng.integers(-32000, 32000, (2, 640), np.int16)
    if missing is not None:
        stored[1, 100:130] = missing
    stored.tofile(tmp_path / "x.i16")
    mapped = np.memmap(tmp_path / "x.i16", np.int16, "r", shape=stored.shape)
    scale, offset = np.array([0.5, 0.25], np.float32), np.array([1.0, -2.0], np.float32)
    integers = Stream(mapped, 64.0, scale=scale, offset=offset, missing=missing)
    floats = stored * scale[:, None] + offset[:, None]
    floats[stored == missing] = np.nan
    plain = Stream(floats.astype(np.float32), 64.0)
    assert integers.masked == plain.masked == (0 if missing is None else 30)
    fabrics = [SignalFabric([Recording("r", {"x": s})], window=1.0, hop=0.3, batch_size=4) for s in (integers, plain)]
    for a, b in zip(*fabrics, strict=True):
        assert torch.equal(a["streams"]["x"], b["streams"]["x"])
        assert torch.equal(a["masks"]["x"], b["masks"]["x"])


def test_a_mapped_stream_is_looked_at_no_further_than_its_windows() -> None:
    looked: list[tuple[int, int]] = []

    class Watched(Stream):
        def measured(self, low: int, high: int) -> Any:
            looked.append((low, high))
            return super().measured(low, high)

    stream = Watched(np.zeros((1, 100_000), np.float32), 100.0)
    fabric = SignalFabric([Recording("r", {"x": stream})], window=1.0, hop=1.0, batch_size=8)
    next(iter(fabric))
    assert looked == [(0, 4096)]


def test_old_cursors_that_counted_batches_still_fit() -> None:
    fabric = weave(4)
    old = {**fabric.state_dict(), "schema": 1, "position": 3, "batch_size": 4}
    fabric.load_state_dict(old)
    assert fabric.state_dict()["position"] == 12


@pytest.mark.filterwarnings("default::UserWarning")  # torchdata's own, about newer versions of torch
def test_stateful_data_loader_of_torchdata() -> None:
    torchdata = pytest.importorskip("torchdata.stateful_dataloader")
    want = [b["window"].tolist() for b in weave(2)]
    for workers in (0, 2):
        loader = torchdata.StatefulDataLoader(weave(2), batch_size=None, num_workers=workers)
        seen = [b["window"].tolist() for _, b in zip(range(5), loader, strict=False)]
        state = loader.state_dict()
        again = torchdata.StatefulDataLoader(weave(2), batch_size=None, num_workers=workers)
        again.load_state_dict(state)
        assert seen + [b["window"].tolist() for b in again] == want


def test_kills_and_changed_ranks_and_threads_lose_no_bit() -> None:
    command = [sys.executable, str(KILL), "--kills", "8", "--epochs", "6", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr + done.stdout
    found = json.loads(done.stdout)
    assert found["kills"] == 8
    assert found["topology_changes"] >= 4
    assert found["bitwise_same"], found


def test_a_modality_can_be_resampled_in_threads() -> None:
    shapes = {"eeg": Modality(4, 32.0, 32), "ppg": Modality(1, 50.0, 50)}
    want = list(weave(3, modalities=shapes))
    for a, b in zip(Loader(weave(3, modalities=shapes), threads=2), want, strict=True):
        assert torch.equal(a["streams"]["eeg"], b["streams"]["eeg"])
