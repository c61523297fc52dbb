"""Laws of the parts: how tensors are cut, averaged and fingerprinted."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clisonix.tide.collective import outer_step
from clisonix.tide.digest import leaves, root
from clisonix.tide.exchange import average, buckets, spread
from clisonix.tide.nodes import Nodes
from clisonix.tide.settings import TideSettings
from clisonix.tide.shared import initial_state, shared_tensors

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.uint8, torch.bool, torch.int64]
sizes = st.lists(st.tuples(st.sampled_from(DTYPES), st.integers(0, 40)), max_size=8)


class Echo(Nodes):
    """A group in one process: every other node holds what this one does, or sends what is `incoming`."""

    incoming: torch.Tensor

    def gather(self, payload: torch.Tensor) -> list[torch.Tensor]:
        return [payload.clone() for _ in range(self.size)]

    def broadcast(self, payload: torch.Tensor, source: int) -> None:
        payload.copy_(self.incoming[: payload.numel()])
        self.incoming = self.incoming[payload.numel() :]


def make(spec: list[tuple[torch.dtype, int]], seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randint(0, 2, (count,), generator=generator).to(dtype) for dtype, count in spec]
    return {str(index): tensor for index, tensor in enumerate(drawn)}


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(8, 64))
def test_buckets_cover_every_element_once_in_order_and_stay_small(
    spec: list[tuple[torch.dtype, int]], limit: int
) -> None:
    tensors = make(spec, 0)
    seen: list[tuple[str, int]] = []
    for bucket in buckets(tensors, limit):
        assert bucket
        assert sum((p.stop - p.start) * tensors[p.name].element_size() for p in bucket) <= limit
        seen += [(piece.name, index) for piece in bucket for index in range(piece.start, piece.stop)]
    assert seen == [(name, index) for name, tensor in tensors.items() for index in range(tensor.numel())]


@settings(max_examples=40, deadline=None)
@given(sizes, st.integers(8, 64))
def test_spread_carries_every_bit_across(spec: list[tuple[torch.dtype, int]], limit: int) -> None:
    mine, theirs = make(spec, 1), make(spec, 2)
    node = Echo(rank=1, size=2)
    flat = [theirs[p.name][p.start : p.stop].view(torch.uint8) for b in buckets(theirs, limit) for p in b]
    node.incoming = torch.cat([torch.empty(0, dtype=torch.uint8), *flat])
    spread(node, mine, source=0, bucket_bytes=limit)
    assert leaves(mine) == leaves(theirs)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=5), st.integers(8, 64), st.integers(1, 5))
def test_the_mean_of_equal_nodes_is_what_they_hold(counts: list[int], limit: int, nodes: int) -> None:
    generator = torch.Generator().manual_seed(3)
    tensors = {str(i): torch.randn(count, generator=generator) for i, count in enumerate(counts)}
    for piece, mean in average(Echo(size=nodes), tensors, limit):
        held = tensors[piece.name][piece.start : piece.stop]
        assert torch.equal(mean.to(torch.float32), held)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_bit_counts_and_points_at_its_fragment(data: st.DataObject) -> None:
    state = make([(torch.float32, 9), (torch.bfloat16, 5), (torch.int64, 3)], 4)
    before = leaves(state)
    name = data.draw(st.sampled_from(sorted(state)))
    raw = state[name].view(torch.uint8)
    raw[data.draw(st.integers(0, raw.numel() - 1))] ^= 1 << data.draw(st.integers(0, 7))
    after = leaves(state)
    assert [a == b for a, b in zip(after, before, strict=True)] == [each != name for each in state]
    assert root(after) != root(before)


def test_name_shape_and_dtype_are_part_of_the_digest() -> None:
    zeros = torch.zeros(4, dtype=torch.int32)
    others = [{"b": zeros}, {"a": zeros.view(2, 2)}, {"a": zeros.float()}, {"a": zeros, "b": zeros}]
    digests = {root(leaves(state)) for state in [{"a": zeros}, *others]}
    assert len(digests) == 5
    assert leaves({"a": torch.tensor([0.0])}) != leaves({"a": torch.tensor([-0.0])})


def test_an_exchange_that_breaks_off_half_way_changes_nothing() -> None:
    class Failing(Echo):
        def gather(self, payload: torch.Tensor) -> list[torch.Tensor]:
            self.size -= 1
            if self.size == 0:
                raise ConnectionError
            return [payload]

    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    shared = shared_tensors(model)
    state = initial_state(shared)
    before = leaves(state)
    with torch.no_grad():
        model[0].weight += 1
    # The parameters arrive, the buffers do not.
    with pytest.raises(ConnectionError):
        outer_step(Failing(size=2), shared, state, TideSettings())
    assert leaves(state) == before
