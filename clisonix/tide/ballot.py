"""What a coordinator makes of the updates of a round: which state is right, their mean, and the parts of a commit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from clisonix.tide.codecs import Codec
from clisonix.tide.digest import Verdict, vote
from clisonix.tide.message import Message, Packed
from clisonix.tide.outer import weighted_mean
from clisonix.tide.replica import Schema, buffers_of
from clisonix.tide.roll import Roll

MINE = b"mine"
"""In a verdict, the state that the coordinator holds."""


def judge(here: Mapping[str, Message], roots: Mapping[int, bytes]) -> Verdict:
    """What the majority says the state is; the coordinator has a vote like each site, under the name `""`.

    Args:
        here: the update of each site, which tells the digest that it was built on.
        roots: the digests of the last rounds as the coordinator knows them.
    """
    known = _known(here.values(), roots)
    return vote({**{site: _claim(each, known) for site, each in here.items()}, "": MINE})


def root_behind(here: Mapping[str, Message], claim: bytes, roots: Mapping[int, bytes]) -> bytes:
    """The digest that a claim of `judge` stands for."""
    known = _known(here.values(), roots)
    return next(bytes.fromhex(each.text("root")) for each in here.values() if _claim(each, known) == claim)


def no_majority(updates: Iterable[Message], round_: int, mine: bytes) -> str:
    """One sentence on who would have to be asked."""
    sides = sorted({each.text("root")[:16] for each in updates} | {mine.hex()[:16]})
    return (
        f"the sites disagree in round {round_} and no state has a majority: {', '.join(sides)}; "
        "restart all from one snapshot"
    )


def mean_of(used: Sequence[Message], codec: Codec, schema: Schema) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The weighted mean of updates in the order given, `(trained_size,)`, and that of their averaged tensors."""
    weights = [float(str(each.fields["weight"])) for each in used]
    updates = (codec.unpack(each.tensor("update")) for each in used)
    mean = weighted_mean(zip(weights, updates, strict=True), schema.trained_size)
    buffers = (buffers_of(each, schema) for each in used)
    return mean, weighted_mean(zip(weights, buffers, strict=True), schema.size - schema.trained_size)


def parts_of(
    update: Packed, roll: Roll, used: Sequence[Message], moved: NDArray[np.float32], odd: Collection[str]
) -> tuple[Packed, ...]:
    """The tensors of a commit: the mean, the windows it uses, the averaged tensors, and who is odd."""
    spans = [(each.sender, each.number("stop") - each.number("start")) for each in used]
    tensors = [update, roll.spans(spans)]
    if moved.size:
        tensors.append(Packed.raw("buffers", moved))
    if odd:
        names = "\n".join(sorted(odd)).encode()
        tensors.append(Packed("odd", "uint8", (len(names),), names))
    return tuple(tensors)


def _known(updates: Iterable[Message], roots: Mapping[int, bytes]) -> dict[int, bytes]:
    """The digests of the last rounds; what a new coordinator did not see itself, the majority tells."""
    known, said = dict(roots), defaultdict[int, dict[str, bytes]](dict)
    for each in updates:
        said[each.number("held")][each.sender] = bytes.fromhex(each.text("root"))
    for round_, heard in said.items():
        found = vote(heard).root
        if round_ not in known and found is not None:
            known[round_] = found
    return known


def _claim(update: Message, known: Mapping[int, bytes]) -> bytes:
    root = known.get(update.number("held"))
    if root is not None and root.hex() == update.text("root"):
        return MINE
    return f"{update.number('held')} {update.text('root')}".encode()
