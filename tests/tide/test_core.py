"""Laws of the arithmetic, the vote, the roll and the log."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clisonix.errors import ClisonixError
from clisonix.tide.digest import leaves, vote
from clisonix.tide.log import Log
from clisonix.tide.membership import Membership
from clisonix.tide.message import Kind, Message, Refused
from clisonix.tide.outer import add_proximal_, nesterov_, weighted_mean
from clisonix.tide.replica import Replica, Rules, Schema
from clisonix.tide.roll import Roll


def test_the_outer_step_is_torch_nesterov() -> None:
    draw = np.random.default_rng(0)
    outer, momentum = draw.standard_normal(70_000), np.zeros(70_000)
    mine = torch.nn.Parameter(torch.tensor(outer))
    optimizer = torch.optim.SGD([mine], lr=0.6, momentum=0.8, nesterov=True)
    for _ in range(3):
        gradient = draw.standard_normal(70_000)
        mine.grad = torch.tensor(gradient)
        optimizer.step()
        nesterov_(outer, momentum, gradient, 0.6, 0.8)
    np.testing.assert_allclose(outer, mine.detach().numpy(), rtol=1e-12, atol=1e-14)


def test_weights_of_sites_count_in_the_mean() -> None:
    ones = np.ones(3, np.float32)
    assert weighted_mean([(1.0, ones), (3.0, 5 * ones)], 3).tolist() == [4.0, 4.0, 4.0]


def test_the_proximal_term_is_the_gradient_of_its_penalty() -> None:
    parameter = torch.randn(5, dtype=torch.float64, requires_grad=True)
    start = torch.randn(5, dtype=torch.float64)
    (expected,) = torch.autograd.grad(0.3 / 2 * (parameter - start).square().sum(), parameter)
    parameter.grad = torch.zeros(5, dtype=torch.float64)
    add_proximal_([parameter], [start], 0.3)
    torch.testing.assert_close(parameter.grad, expected)


def test_threads_hash_the_same() -> None:
    state = {str(i): np.arange(i * 50_000, dtype=np.float32) for i in range(5)}
    assert leaves(state, threads=2) == leaves(state)


def test_only_more_than_half_is_a_majority() -> None:
    assert vote({"a": b"1", "b": b"1", "c": b"2"}) == vote({"a": b"1", "b": b"1", "c": b"3"})
    assert vote({"a": b"1", "b": b"1", "c": b"2"}).odd == ("c",)
    assert vote({"a": b"1", "b": b"2"}).root is None


def commit(roll: Roll, used: list[tuple[str, int]], joined: list[str], left: list[str]) -> Message:
    return Message(Kind.COMMIT, "hub", fields={"joined": joined, "left": left}, tensors=(roll.spans(used),))


def test_a_change_needs_the_old_majority_too_until_it_is_settled() -> None:
    roll = Roll("abcde")
    roll.take(commit(roll, [("a", 2), ("c", 1)], [], ["d", "e"]), lag=0)
    assert roll.voters == ("a", "b", "c")
    assert not roll.is_quorum({"a", "b"})
    assert roll.is_quorum({"a", "b", "c"})
    roll.take(commit(roll, [("a", 2)], [], []), lag=0)
    assert roll.is_quorum({"a", "b"})
    assert [roll.cursor(name) for name in "abcdef"] == [4, 0, 1, 0, 0, 0]


def test_a_site_that_comes_back_keeps_its_cursor() -> None:
    roll = Roll("ab")
    roll.take(commit(roll, [("b", 7)], ["A"], ["b"]), lag=0)
    roll.take(commit(roll, [("A", 1)], [], []), lag=0)
    roll.take(commit(roll, [], ["b"], []), lag=0)
    assert roll.voters == ("A", "a", "b")
    assert (roll.cursor("b"), roll.cursor("A")) == (7, 1)
    other = Roll()
    other.adopt(Message(Kind.WELCOME, "hub", fields={"names": list(roll.names)}, tensors=roll.tensors()))
    assert other.fingerprint() == roll.fingerprint()


def test_a_commit_for_other_voters_changes_nothing() -> None:
    schema = Schema({"w": (3,)})
    replica = Replica(schema, Rules(), np.zeros(3, np.float32))
    replica.roll = Roll("ab")
    before = replica.root()
    with pytest.raises(Refused):
        replica.apply(commit(Roll("abc"), [], [], []))
    assert replica.root() == before


def test_who_is_silent_too_long_is_struck_off_but_never_all() -> None:
    members = Membership(patience=2)
    assert members.close_round("abc", {"a", "b"}, True) == ([], [])
    assert members.close_round("abc", {"a", "b"}, False) == ([], [])
    assert members.close_round("abc", {"a", "b"}, True) == ([], ["c"])
    members.asks_to_join("d")
    members.asks_to_leave("a")
    assert members.close_round("ab", {"a", "b"}, True) == (["d"], ["a"])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.binary(max_size=60), min_size=1, max_size=5), st.data())
def test_a_torn_record_is_dropped_and_the_rest_is_kept(records: list[bytes], data: st.DataObject) -> None:
    file = io.BytesIO()
    log, sizes = Log(file), [len(file.getvalue())]
    for record in records:
        log.append(record)
        sizes.append(len(file.getvalue()))
    cut = data.draw(st.integers(sizes[0], sizes[-1]))
    torn = io.BytesIO(file.getvalue()[:cut])
    whole = sum(size <= cut for size in sizes) - 1
    again = Log(torn)
    assert again.records == records[:whole]
    again.append(b"more")
    assert Log(torn).records == [*records[:whole], b"more"]


def test_every_flipped_bit_in_a_log_is_noticed() -> None:
    file = io.BytesIO()
    log = Log(file)
    for record in (b"first", b"second", b"third"):
        log.append(record)
    content = file.getvalue()
    for position in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(ClisonixError):
            Log(io.BytesIO(bytes(damaged)))


def test_a_log_on_a_disk_is_found_again_and_can_be_shortened(tmp_path: Path) -> None:
    path = tmp_path / "new" / "tide.log"
    with contextlib.closing(Log.open(path)) as log:
        log.append(b"one")
        log.append(b"two")
    with contextlib.closing(Log.open(path)) as log:
        assert log.records == [b"one", b"two"]
    Log.rewrite(path, [b"both"]).close()
    with contextlib.closing(Log.open(path)) as log:
        assert log.records == [b"both"]
