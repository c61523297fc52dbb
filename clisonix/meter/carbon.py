"""Grams of CO2-equivalent from joules and a place.

The factors are yearly averages from the data files of CodeCarbon (https://github.com/mlco2/codecarbon): Our
World in Data and Ember for countries, EPA eGRID for the states of the USA. Only those files are read: the
package is not imported, nothing is asked of the network, and no place is guessed.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clisonix.errors import ClisonixError, nearest
from clisonix.meter.energy import Energy

JOULES_PER_KWH = 3.6e6
GRAMS_PER_POUND = 453.59237


@dataclass(frozen=True)
class Factor:
    """Carbon intensity of a place's electricity, a yearly average.

    Attributes:
        g_per_kwh: grams of CO2-equivalent for one kilowatt-hour.
        place: the code that was asked for.
        source: data set and version.
        year: the year it describes.
    """

    g_per_kwh: float
    place: str
    source: str
    year: int


@dataclass(frozen=True)
class Carbon:
    """Emissions in grams of CO2-equivalent. The interval is the energy's; the factor's own error is unknown."""

    grams: float | None
    low: float | None
    high: float | None
    factor_g_per_kwh: float | None
    place: str | None
    source: str | None
    year: int | None
    reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return asdict(self)


def carbon(energy: Energy, place: str | None) -> Carbon:
    """Emissions of an amount of energy.

    Args:
        energy: the energy with its interval.
        place: ISO 3166 alpha-3 code of a country (`FRA`), or `USA-` and a state's two letters (`USA-CA`);
            None gives no figure and the reason.

    Raises:
        ClisonixError: the place is unknown.
    """
    if place is None:
        reason = "no place given: set `place` to a country code such as FRA, or USA-CA"
        return Carbon(None, None, None, None, None, None, None, reason)
    factor = carbon_factor(place)
    if energy.joules is None:
        reason = f"the energy is unknown: {energy.reason}"
        return Carbon(None, None, None, factor.g_per_kwh, place, factor.source, factor.year, reason)

    def grams(joules: float | None) -> float | None:
        return None if joules is None else joules / JOULES_PER_KWH * factor.g_per_kwh

    return Carbon(
        grams(energy.joules), grams(energy.low), grams(energy.high),
        factor.g_per_kwh, place, factor.source, factor.year, energy.reason,
    )  # fmt: skip


def carbon_factor(place: str) -> Factor:
    """The carbon intensity of a place.

    Raises:
        ClisonixError: the place is unknown, or CodeCarbon's data are not installed.
    """
    code = place.strip().upper()
    source = f"CodeCarbon {importlib.metadata.version('codecarbon')} data" if _folder() else ""
    if code.startswith("USA-"):
        states = _read("2023/usa_emissions.json")
        pounds = {s["regionCode"]: s["emissions"] for n, s in states.items() if not n.startswith("_")}
        if code[4:] not in pounds:
            hint = nearest(code, [f"USA-{state}" for state in pounds])
            raise ClisonixError(f"the place {place!r} is not a state of the USA with a known carbon factor{hint}")
        year = int(states["_source"]["year"])
        return Factor(pounds[code[4:]] * GRAMS_PER_POUND / 1000, code, f"{source} (EPA eGRID)", year)
    countries = _read("global_energy_mix.json")
    # A factor of 0 (the Central African Republic has one) stands for missing data: no grid emits nothing.
    known = {name: c for name, c in countries.items() if c.get("carbon_intensity")}
    if code not in known:
        hint = nearest(code, known) if len(code) <= 4 else f"; {_by_name(place, known)}"
        raise ClisonixError(f"the place {place!r} has no known carbon factor: give an ISO 3166 alpha-3 code{hint}")
    entry = known[code]
    return Factor(float(entry["carbon_intensity"]), code, f"{source} (Our World in Data)", int(entry["year"]))


def _by_name(place: str, known: dict[str, Any]) -> str:
    names = {entry["country_name"].lower(): code for code, entry in known.items()}
    code = names.get(place.strip().lower())
    return f"for {place} that is {code}" if code else "e.g. FRA, DEU, USA-CA"


def _folder() -> Path | None:
    # Finding a top-level package's place does not run it.
    spec = importlib.util.find_spec("codecarbon")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))) / "data" / "private_infra"


def _read(name: str) -> dict[str, Any]:
    folder = _folder()
    if folder is None:
        raise ClisonixError(
            "carbon needs the data files of codecarbon, which is not installed: pip install codecarbon"
        )
    try:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ClisonixError(
            f"the carbon data {folder / name} cannot be read ({error}): reinstall codecarbon"
        ) from error
    if not isinstance(content, dict):
        raise ClisonixError(f"the carbon data {folder / name} are not as expected: install codecarbon 3.2 or newer")
    return content
