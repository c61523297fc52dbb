"""A block's energy, divided among those that ran in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from clisonix.meter.energy import Energy
from clisonix.meter.recording.trace import Trace


@dataclass(frozen=True)
class Piece:
    """Whose a stretch of time is.

    Attributes:
        owner: name of the module.
        backward: whether in the backward pass.
    """

    owner: str
    backward: bool


def shared(
    trace: Trace,
    parts: Sequence[Energy],
    pieces: Sequence[Piece],
    moments_s: list[float] | None,
    spent_s: dict[Piece, float],
) -> dict[str, Energy]:
    """Energy of each owner, by name.

    Args:
        trace: samples that cover the block.
        parts: the block's energy by device.
        pieces: whose each stretch between two marks is.
        moments_s: the marks on the trace's clock, one more than pieces; None where they are of CPU time.
        spent_s: seconds by piece.
    """
    owners = list(dict.fromkeys(piece.owner for piece in spent_s))
    seconds = {owner: sum(s for piece, s in spent_s.items() if piece.owner == owner) for owner in owners}
    whole_s = sum(seconds.values())
    found: dict[str, list[Energy]] = {owner: [] for owner in owners}
    for part in parts:
        by_power = None if moments_s is None else _by_power(trace, part, pieces, moments_s)
        for owner in owners:
            share = seconds[owner] / whole_s if whole_s > 0 else 0.0
            if by_power is not None:
                share = by_power.get(owner, 0.0)
            found[owner].append(_portion(part, share))
    return {owner: Energy.total(energies) for owner, energies in found.items()}


def _by_power(trace: Trace, part: Energy, pieces: Sequence[Piece], moments_s: list[float]) -> dict[str, float] | None:
    """Shares of a GPU's energy by its power trace between the marks; None for other devices."""
    series = next((s for s in trace.series if (s.info.device, s.info.source) == (part.device, part.source)), None)
    if series is None or not part.device.startswith("gpu") or part.joules is None or series.info.exact_edges:
        return None
    joules = np.diff(series.timeline.joules(np.clip(moments_s, series.t_s[0], series.t_s[-1])))
    whole = float(np.cumsum(joules)[-1])
    if whole <= 0:
        return None
    shares: dict[str, float] = {}
    for piece, used in zip(pieces, joules.tolist(), strict=True):
        shares[piece.owner] = shares.get(piece.owner, 0.0) + used / whole
    return shares


def _portion(part: Energy, share: float) -> Energy:
    """A share of a figure; its interval is that of the whole in proportion."""
    if part.joules is None:
        return part
    low = None if part.low is None else part.low * share
    high = None if part.high is None else part.high * share
    return replace(part, joules=part.joules * share, low=low, high=high, at_least=None, at_most=None)
