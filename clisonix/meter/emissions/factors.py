"""Grams of CO2-equivalent per kilowatt-hour of a place's electricity, as a range.

All figures are yearly averages from the data files of CodeCarbon (https://github.com/mlco2/codecarbon). Only those
files are read: the package is not imported, nothing is asked of the network, and no place is guessed. The range is
what those figures disagree by, never an assumed error:

- the country's published average (Our World in Data and Ember);
- the same year's generation by source times CodeCarbon's life-cycle factors per source (geothermal's for the
  renewable sources that are not named);
- the published averages of parts of the country (EPA eGRID for the states of the USA, bidding zones of Sweden, Norway
  and Finland, provinces of China), because a country's name does not say where in it a machine stands.

The figures of cloud providers in the same data name no year and are left out.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clisonix.errors import ClisonixError, nearest

GRAMS_PER_POUND = 453.59237
SOURCES = {
    "coal_TWh": "coal",
    "gas_TWh": "natural_gas",
    "oil_TWh": "petroleum",
    "nuclear_TWh": "nuclear",
    "hydroelectricity_TWh": "hydroelectricity",
    "solar_TWh": "solar",
    "wind_TWh": "wind",
    "biofuel_TWh": "biofuel",
    "other_renewable_exc_biofuel_TWh": "geothermal",
}
FULL = 0.95
"""A mix counts when its named sources make at least this share of the generation."""


@dataclass(frozen=True)
class Estimate:
    """One published or computed figure for a place or a part of it.

    Attributes:
        g_per_kwh: grams of CO2-equivalent for one kilowatt-hour.
        place: its code.
        source: data set and version.
        year: the year it describes.
    """

    g_per_kwh: float
    place: str
    source: str
    year: int


@dataclass(frozen=True)
class Factor:
    """Carbon intensity of a place's electricity, a yearly average with its range.

    Attributes:
        g_per_kwh: the place's own published figure, in grams of CO2-equivalent for one kilowatt-hour.
        place: the code that was asked for.
        source: data set and version of that figure.
        year: the year it describes.
        low: the smallest figure for the place, or None when there is only one.
        high: the largest.
        range_how: one phrase on what the range is made of, or why there is none.
        estimates: every figure found, the place's own first.
    """

    g_per_kwh: float
    place: str
    source: str
    year: int
    low: float | None = None
    high: float | None = None
    range_how: str = ""
    estimates: tuple[Estimate, ...] = ()


def carbon_factor(place: str) -> Factor:
    """The carbon intensity of a place.

    Args:
        place: ISO 3166 alpha-3 code of a country (`FRA`), or a part of one: `USA-` and a state's two letters,
            `SWE-SE1` to `SE4`, `NOR-NO1` to `NO5`, `FIN-FI`, `CHN-` and a province's two letters.

    Raises:
        ClisonixError: the place is unknown, or CodeCarbon's data are not installed.
    """
    code = place.strip().upper()
    country, dash, _ = code.partition("-")
    parts = _parts(country)
    if dash:
        if code not in parts:
            hint = nearest(code, parts) if parts else "; leave out what follows the dash"
            raise ClisonixError(f"the place {place!r} is no part of {country} with a known carbon factor{hint}")
        return _factor([parts[code]])
    countries = _read("global_energy_mix.json")
    own = _country(place, code, countries)
    return _factor([own, *_mix(code, countries[code]), *parts.values()])


def _factor(estimates: list[Estimate]) -> Factor:
    own, others = estimates[0], estimates[1:]
    if not others:
        how = "range unknown: the data hold one figure for this place"
        return Factor(own.g_per_kwh, own.place, own.source, own.year, None, None, how, (own,))
    values = [estimate.g_per_kwh for estimate in estimates]
    elsewhere = sum(estimate.place != own.place for estimate in others)
    kinds = ["the published average"]
    kinds += ["the year's generation by source"] * (len(others) > elsewhere)
    kinds += [f"{elsewhere} part{'s' * (elsewhere > 1)} of {own.place}"] * bool(elsewhere)
    years = sorted({estimate.year for estimate in estimates})
    when = str(years[0]) if len(years) == 1 else f"{years[0]} to {years[-1]}"
    how = f"range over {', '.join(kinds[:-1])} and {kinds[-1]}, {when}"
    return Factor(own.g_per_kwh, own.place, own.source, own.year, min(values), max(values), how, tuple(estimates))


def _country(place: str, code: str, countries: dict[str, Any]) -> Estimate:
    # A factor of 0 (the Central African Republic has one) stands for missing data: no grid emits nothing.
    known = {name: entry for name, entry in countries.items() if entry.get("carbon_intensity")}
    if code not in known:
        hint = nearest(code, known) if len(code) <= 4 else f"; {_by_name(place, known)}"
        raise ClisonixError(f"the place {place!r} has no known carbon factor: give an ISO 3166 alpha-3 code{hint}")
    entry = known[code]
    return Estimate(float(entry["carbon_intensity"]), code, _source("Our World in Data"), int(entry["year"]))


def _mix(code: str, entry: dict[str, Any]) -> list[Estimate]:
    """The generation of a country times a factor for each source; empty where the mix is incomplete."""
    factors = _read("carbon_intensity_per_source.json")
    used = {name: float(entry.get(name) or 0.0) for name in SOURCES}
    total = float(entry.get("total_TWh") or 0.0)
    if total <= 0 or not FULL <= sum(used.values()) / total <= 2 - FULL:
        return []
    grams = sum(amount * factors[SOURCES[name]] for name, amount in used.items()) / sum(used.values())
    return [Estimate(grams, code, _source("generation by source times life-cycle factors"), int(entry["year"]))]


def _parts(country: str) -> dict[str, Estimate]:
    """The published figures of the parts of a country."""
    if country == "USA":
        states = _read("2023/usa_emissions.json")
        source, year = _source("EPA eGRID, without life cycle"), int(states["_source"]["year"])
        regions = {s["regionCode"]: s["emissions"] for name, s in states.items() if not name.startswith("_")}
        pounds = {code: value for code, value in regions.items() if len(code) == 2}
        return {
            f"USA-{code}": Estimate(value * GRAMS_PER_POUND / 1000, f"USA-{code}", source, year)
            for code, value in pounds.items()
        }
    if country in ("SWE", "NOR", "FIN"):
        name, source = "nordic_emissions.json", _source("ENTSO-E generation per bidding zone")
        inside = {"SWE": "SE", "NOR": "NO", "FIN": "FI"}[country]
    elif country == "CHN":
        name, source = "2023/china_provincial_emissions.json", _source("Ministry of Ecology, CO2 only")
        inside = "CN-"
    else:
        return {}
    return {
        f"{country}-{zone.removeprefix('CN-')}": Estimate(
            float(entry["emission_factor"]), f"{country}-{zone.removeprefix('CN-')}", source, int(entry["year"])
        )
        for zone, entry in _read(name)["data"].items()
        if zone.startswith(inside)
    }


def _source(what: str) -> str:
    return f"CodeCarbon {importlib.metadata.version('codecarbon')} data ({what})"


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
