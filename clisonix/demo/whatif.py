"""What a run would cost elsewhere and with use added: its energy, a place, a PUE, a number of inferences."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from clisonix.errors import ClisonixError
from clisonix.meter.emissions.carbon import Carbon, Pue, carbon
from clisonix.meter.energy import Energy
from clisonix.meter.recording.record import Record

MOST_PUE, MOST_INFERENCES = 3.0, 10**9
PUE_SOURCE = "chosen on this page, not measured"


def what_if(record: Record, place: str, pue: float, inferences: int) -> dict[str, Any]:
    """Energy and emissions of training and of a number of inferences, if they happened at a place.

    Args:
        record: of the run.
        place: see `clisonix.meter.emissions.factors.carbon_factor`; empty for none.
        pue: of the building, 1 to 3.
        inferences: how often the model will be used.

    Returns:
        `training`, `one`, `use` and `total`: energies, each with `joules`, `low`, `high`, `how`; `carbon`: the
        fields of `Carbon` for the total; `problem`: why the place gives no number, or empty.

    Raises:
        ClisonixError: the PUE or the number of inferences is out of range.
    """
    if not 1 <= pue <= MOST_PUE:
        raise ClisonixError(f"the PUE is {pue:g}: choose 1 to {MOST_PUE:g}")
    if not 0 <= inferences <= MOST_INFERENCES:
        raise ClisonixError(f"the number of inferences is {inferences}: choose 0 to {MOST_INFERENCES:,}")
    training, one = record.total("train"), one_inference(record)
    use = _times(one, inferences)
    total = _plus(training, use) if inferences else training
    found, problem = None, ""
    try:
        # A PUE of 1 adds nothing to speak of.
        found = carbon(total, place or None, pue=Pue(pue, PUE_SOURCE) if pue > 1 else None)
    except ClisonixError as error:
        problem = str(error)
    energies = {"training": training, "one": one, "use": use, "total": total}
    return {
        **{name: _told(energy) for name, energy in energies.items()},
        "carbon": None if found is None else found.to_json(),
        "all_in": _all_in(found),
        "inferences": inferences,
        "pue": pue,
        "problem": problem,
    }


def one_inference(record: Record) -> Energy:
    """The evaluation's energy by the windows it looked at, where the record says that it looked once."""
    windows, settings = record.data.get("test_windows"), record.config or {}
    if "evaluate" not in record.energy:
        return Energy.unknown("the run measured no evaluation, so what one inference costs is not known")
    if not isinstance(windows, int) or windows < 1:
        return Energy.unknown("the record does not say how many windows the evaluation looked at")
    if len(record.attempts) != 1 or (settings.get("train") or {}).get("evaluate_every"):
        return Energy.unknown("the run evaluated more than once: its energy cannot be told apart by windows")
    return _times(record.total("evaluate"), 1 / windows)


def _times(energy: Energy, factor: float) -> Energy:
    low, joules, high = (None if x is None else factor * x for x in (energy.low, energy.joules, energy.high))
    return replace(energy, joules=joules, low=low, high=high, at_least=None, at_most=None)


def _plus(a: Energy, b: Energy) -> Energy:
    """Both, or neither: a sum with a part missing would look like a small one."""
    for part in (a, b):
        if part.joules is None:
            return replace(part, low=None, high=None, at_least=None, at_most=None)
    low, joules, high = (
        None if x is None or y is None else x + y for x, y in ((a.low, b.low), (a.joules, b.joules), (a.high, b.high))
    )
    return replace(a, joules=joules, low=low, high=high, at_least=None, at_most=None)


def _told(energy: Energy) -> dict[str, Any]:
    known = energy.joules is not None and math.isfinite(energy.joules)
    how = energy.how() if known else f"unknown: {energy.reason or 'no reason was given'}"
    return {"joules": energy.joules if known else None, "low": energy.low, "high": energy.high, "how": how}


def _all_in(found: Carbon | None) -> dict[str, float | None]:
    """Electricity and building together."""
    together: dict[str, float | None] = {}
    for name in ("grams", "low", "high"):
        parts = [None] if found is None else [getattr(found, name), *(line[name] for line in found.lines)]
        known = [part for part in parts if part is not None]
        together[name] = math.fsum(known) if len(known) == len(parts) else None
    return together
