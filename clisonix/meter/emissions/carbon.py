"""Grams of CO2-equivalent from joules and a place, with the range of both.

Electricity is one line. What the building uses besides (PUE) and what making the device emitted (embodied) are lines
of their own, there only when the user gives the number and says where it comes from; nothing is added up silently.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from clisonix.errors import ClisonixError
from clisonix.meter.emissions.factors import Factor, carbon_factor
from clisonix.meter.energy import Energy
from clisonix.meter.words import quantity

JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True)
class Pue:
    """Power usage effectiveness: what the building draws over what the computers draw.

    Attributes:
        ratio: 1 or more.
        source: where the number comes from, e.g. `operator's report 2025`.

    Raises:
        ClisonixError: the ratio is below 1, or there is no source.
    """

    ratio: float
    source: str

    def __post_init__(self) -> None:
        if not 1 <= self.ratio < 100:
            raise ClisonixError(f"a PUE is 1 or more (the building over the computers); given {self.ratio}")
        _need_source("PUE", self.source)


@dataclass(frozen=True)
class Embodied:
    """Emissions of making a device, spread evenly over its life.

    Attributes:
        kg: kilograms of CO2-equivalent for making what the run used.
        lifetime_h: hours the device will be used for.
        source: where the numbers come from, e.g. the maker's product carbon footprint.

    Raises:
        ClisonixError: a number is not positive, or there is no source.
    """

    kg: float
    lifetime_h: float
    source: str

    def __post_init__(self) -> None:
        if not (0 < self.kg < float("inf") and 0 < self.lifetime_h < float("inf")):
            raise ClisonixError(
                f"embodied emissions need kg > 0 and lifetime_h > 0; given {self.kg} kg over {self.lifetime_h} h"
            )
        _need_source("embodied emissions", self.source)


@dataclass(frozen=True)
class Carbon:
    """Emissions in grams of CO2-equivalent.

    Attributes:
        grams: of the electricity: its energy times the place's published factor; None where one is unknown.
        low: lower end of the energy's interval times the lowest figure for the place.
        high: upper end times the highest.
        factor_g_per_kwh: the place's published factor.
        place: the place.
        source: of the factor.
        year: that the factor describes.
        reason: why `grams` is missing or incomplete.
        factor_low: the lowest figure for the place; None when there is only one.
        factor_high: the highest.
        range_how: what the range holds.
        lines: further emissions, each `what`, `grams`, `low`, `high`, `source`; not in `grams`.
    """

    grams: float | None
    low: float | None
    high: float | None
    factor_g_per_kwh: float | None
    place: str | None
    source: str | None
    year: int | None
    reason: str | None = None
    factor_low: float | None = None
    factor_high: float | None = None
    range_how: str = ""
    lines: tuple[dict[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return {**asdict(self), "lines": [dict(line) for line in self.lines]}


def carbon(
    energy: Energy,
    place: str | None,
    *,
    pue: Pue | None = None,
    embodied: Sequence[Embodied] = (),
    seconds: float | None = None,
) -> Carbon:
    """Emissions of an amount of energy.

    Args:
        energy: the energy with its interval.
        place: see `carbon_factor`; None gives no figure and the reason.
        pue: adds a line for the building.
        embodied: adds a line for the share of each device.
        seconds: how long the devices were used; needed with `embodied`.

    Raises:
        ClisonixError: the place is unknown, or `embodied` comes without `seconds`.
    """
    if embodied and seconds is None:
        raise ClisonixError("embodied emissions are spread over time: give seconds, how long the devices were used")
    shares = tuple(_embodied(one, seconds or 0.0) for one in embodied)
    if place is None:
        reason = "no place given: set `place` to a country code such as FRA, or USA-CA"
        return Carbon(None, None, None, None, None, None, None, reason, lines=shares)
    return _of_factor(energy, carbon_factor(place), pue, shares)


def _of_factor(energy: Energy, factor: Factor, pue: Pue | None, shares: tuple[dict[str, Any], ...]) -> Carbon:
    about = (factor.g_per_kwh, factor.place, factor.source, factor.year)
    span = (factor.low, factor.high, factor.range_how)
    if energy.joules is None:
        return Carbon(None, None, None, *about, f"the energy is unknown: {energy.reason}", *span, shares)
    grams, low, high = amounts(energy, factor.g_per_kwh, factor.low, factor.high)
    lines = shares
    if pue is not None:
        line = {"what": f"building: PUE {pue.ratio:g}", "source": pue.source, "pue": pue.ratio}
        lines = ({**line, **line_amounts(line, (grams, low, high))}, *shares)
    return Carbon(grams, low, high, *about, energy.reason, *span, lines)


def line_amounts(line: dict[str, Any], electricity: tuple[float | None, ...]) -> dict[str, float | None]:
    """`grams`, `low` and `high` of a further line, from the numbers it keeps.

    Args:
        line: with `pue`, or with `kg`, `seconds` and `lifetime_h`.
        electricity: `grams`, `low` and `high` of the electricity.
    """
    if "pue" in line:
        found = [None if value is None else value * (line["pue"] - 1) for value in electricity]
    else:
        found = [1000 * line["kg"] * (line["seconds"] / 3600) / line["lifetime_h"], None, None]
    return dict(zip(("grams", "low", "high"), found, strict=True))


def amounts(
    energy: Energy, factor: float, factor_low: float | None, factor_high: float | None
) -> tuple[float | None, float | None, float | None]:
    """Grams, and the range from the energy's interval times the factor's; `factor` alone where that has no range."""

    def grams(joules: float | None, per_kwh: float) -> float | None:
        return None if joules is None else joules / JOULES_PER_KWH * per_kwh

    low = grams(energy.low, factor if factor_low is None else factor_low)
    return grams(energy.joules, factor), low, grams(energy.high, factor if factor_high is None else factor_high)


def _embodied(one: Embodied, seconds: float) -> dict[str, Any]:
    line = {
        "what": f"embodied: {one.kg:g} kg over {one.lifetime_h:,g} h, the share of {quantity(seconds, 's')}",
        "source": one.source,
        "kg": one.kg,
        "lifetime_h": one.lifetime_h,
        "seconds": seconds,
    }
    return {**line, **line_amounts(line, ())}


def _need_source(what: str, source: str) -> None:
    if not source.strip():
        raise ClisonixError(f"{what} needs its source, a few words on where the number comes from")
