"""Do all nodes hold the same state, and what happens to one that does not?"""

from __future__ import annotations

from collections import Counter

import torch

from clisonix.errors import ClisonixError
from clisonix.tide.digest import leaves, root
from clisonix.tide.exchange import spread
from clisonix.tide.nodes import Nodes, ranks_of
from clisonix.tide.shared import State


def agree(nodes: Nodes, state: State) -> tuple[str, dict[int, str]]:
    """Compare digests; where a majority agrees, give the odd nodes the majority's state, in place.

    The odd nodes copy only the fragments that differ, from the lowest-ranked member of the majority, and
    are then checked again.

    Args:
        nodes: the group.
        state: this node's state; overwritten where it was the odd one.

    Returns:
        The agreed digest in hex, and for each healed rank the first fragment that differed.

    Raises:
        ClisonixError: on every node alike, when no state is held by more than half of them.
    """
    mine = leaves(state)
    held = _gather_digests(nodes, [root(mine)])
    roots = [digests[0] for digests in held]
    winner, votes = Counter(roots).most_common(1)[0]
    if votes == nodes.size:
        return winner.hex(), {}

    trees = _gather_digests(nodes, mine)
    names = list(state)
    if votes * 2 <= nodes.size:
        raise ClisonixError(_no_majority(roots, trees, names))

    source = roots.index(winner)
    odd = {
        rank: names[_differing(tree, trees[source])[0]] for rank, tree in enumerate(trees) if roots[rank] != winner
    }
    wrong = sorted({index for rank in odd for index in _differing(trees[rank], trees[source])})
    spread(nodes, {names[index]: state[names[index]] for index in wrong}, source)

    after = [digests[0] for digests in _gather_digests(nodes, [root(leaves(state))])]
    still = [rank for rank, digest in enumerate(after) if digest != winner]
    if still:
        raise ClisonixError(
            f"{ranks_of(still)} still differ from the majority after copying its state, which points to faulty "
            "memory: leave those machines out and restart from a checkpoint"
        )
    return winner.hex(), odd


def _gather_digests(nodes: Nodes, digests: list[bytes]) -> list[list[bytes]]:
    payload = torch.tensor(list(b"".join(digests)), dtype=torch.uint8)
    heard = [bytes(each.tolist()) for each in nodes.gather(payload)]
    return [[each[at : at + 32] for at in range(0, len(each), 32)] for each in heard]


def _differing(tree: list[bytes], other: list[bytes]) -> list[int]:
    return [index for index, (a, b) in enumerate(zip(tree, other, strict=True)) if a != b]


def _no_majority(roots: list[bytes], trees: list[list[bytes]], names: list[str]) -> str:
    sides = [
        f"{digest.hex()[:16]} on {ranks_of([rank for rank, each in enumerate(roots) if each == digest])}"
        for digest in dict.fromkeys(roots)
    ]
    stranger = next(rank for rank, digest in enumerate(roots) if digest != roots[0])
    first = names[_differing(trees[stranger], trees[0])[0]]
    return (
        f"the nodes disagree and no state has a majority: {', '.join(sides)}, first in {first!r}; "
        "restart all nodes from one checkpoint"
    )
