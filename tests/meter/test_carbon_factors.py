from __future__ import annotations

import importlib.util
import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from clisonix.errors import ClisonixError
from clisonix.meter import Embodied, Energy, Pue, carbon, carbon_factor

ENERGY = Energy(3.6e6, 1.8e6, 7.2e6, "rapl-counter", "CPU package", "cpu:0")


def data(name: str) -> dict:
    spec = importlib.util.find_spec("codecarbon")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return json.loads((Path(spec.submodule_search_locations[0]) / "data/private_infra" / name).read_text())


def test_every_country_factor_is_the_data_files() -> None:
    for code, entry in data("global_energy_mix.json").items():
        if entry.get("carbon_intensity"):
            factor = carbon_factor(code)
            assert (factor.g_per_kwh, factor.year) == (entry["carbon_intensity"], entry["year"])


def test_factors_agree_with_codecarbons_own_arithmetic() -> None:
    emissions = pytest.importorskip("codecarbon.core.emissions")
    from codecarbon.core.units import Energy as Kwh
    from codecarbon.external.geography import GeoMetadata
    from codecarbon.input import DataSource

    theirs = emissions.Emissions(DataSource())
    for place, geo in (
        ("FRA", GeoMetadata("FRA", "France")),
        ("DEU", GeoMetadata("DEU", "Germany")),
        ("USA-CA", GeoMetadata("USA", "United States", "california")),
    ):
        kilograms = theirs.get_private_infra_emissions(Kwh.from_energy(kWh=1.0), geo)
        assert carbon_factor(place).g_per_kwh == pytest.approx(1000 * kilograms, rel=1e-6)


def test_a_country_has_a_range_over_everything_the_data_hold_for_it() -> None:
    for place in ("FRA", "DEU", "SWE", "USA", "CHN", "CAN"):
        factor = carbon_factor(place)
        values = [estimate.g_per_kwh for estimate in factor.estimates]
        assert factor.estimates[0].place == place
        assert factor.estimates[0].g_per_kwh == factor.g_per_kwh
        assert (factor.low, factor.high) == (min(values), max(values))
        assert factor.low <= factor.g_per_kwh <= factor.high
        assert all(estimate.source.startswith("CodeCarbon") and estimate.year > 2000 for estimate in factor.estimates)
    states = {e.place: e.g_per_kwh for e in carbon_factor("USA").estimates if e.place != "USA"}
    assert len(states) == 51
    assert carbon_factor("USA").low == min(states.values())
    assert "51 parts of USA" in carbon_factor("USA").range_how


def test_the_computed_mix_is_the_shares_times_the_factors() -> None:
    entry, factors = data("global_energy_mix.json")["POL"], data("carbon_intensity_per_source.json")
    names = {"coal": "coal", "gas": "natural_gas", "oil": "petroleum", "nuclear": "nuclear", "solar": "solar",
             "wind": "wind", "hydroelectricity": "hydroelectricity", "biofuel": "biofuel",
             "other_renewable_exc_biofuel": "geothermal"}  # fmt: skip
    amounts = {mine: entry.get(f"{theirs}_TWh") or 0 for theirs, mine in names.items()}
    expected = sum(amount * factors[name] for name, amount in amounts.items()) / sum(amounts.values())
    assert carbon_factor("POL").estimates[1].g_per_kwh == pytest.approx(expected)


@pytest.mark.parametrize("place", ["USA-CA", "SWE-SE3", "NOR-NO2", "CHN-BJ", "FIN-FI"])
def test_one_figure_has_no_range_and_says_so(place: str) -> None:
    factor = carbon_factor(place)
    assert (factor.low, factor.high) == (None, None)
    assert "one figure" in factor.range_how
    found = carbon(ENERGY, place)
    assert found.low == pytest.approx(factor.g_per_kwh / 2)  # the energy's interval alone
    assert found.high == pytest.approx(factor.g_per_kwh * 2)


def test_the_range_is_the_energys_interval_times_the_factors() -> None:
    found, factor = carbon(ENERGY, "FRA"), carbon_factor("FRA")
    assert found.grams == factor.g_per_kwh
    assert found.low == pytest.approx((factor.low or 0) / 2)
    assert found.high == pytest.approx((factor.high or 0) * 2)
    assert (found.year, found.factor_low, found.factor_high) == (factor.year, factor.low, factor.high)
    assert "CodeCarbon" in (found.source or "")


def test_building_and_making_are_lines_of_their_own_and_in_no_sum() -> None:
    plain = carbon(ENERGY, "FRA")
    assert plain.lines == ()
    making = Embodied(kg=150.0, lifetime_h=35_000.0, source="maker's footprint")
    found = carbon(ENERGY, "FRA", pue=Pue(1.5, "operator's report 2025"), embodied=[making], seconds=7200.0)
    assert (found.grams, found.low, found.high) == (plain.grams, plain.low, plain.high)
    building, embodied = found.lines
    assert building["grams"] == pytest.approx((plain.grams or 0) / 2)
    assert building["high"] == pytest.approx((plain.high or 0) / 2)
    assert building["source"] == "operator's report 2025"
    assert embodied["grams"] == pytest.approx(150_000 * 2 / 35_000)
    assert embodied["source"] == "maker's footprint"


def test_what_making_emitted_needs_no_place() -> None:
    found = carbon(ENERGY, None, embodied=[Embodied(1.0, 1.0, "x")], seconds=3600.0)
    assert found.grams is None
    assert found.lines[0]["grams"] == pytest.approx(1000.0)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Pue(0.9, "x"), "PUE is 1 or more"),
        (lambda: Pue(float("nan"), "x"), "PUE is 1 or more"),
        (lambda: Pue(1.2, " "), "needs its source"),
        (lambda: Embodied(0, 1, "x"), "kg > 0"),
        (lambda: Embodied(1, 1, ""), "needs its source"),
        (lambda: carbon(ENERGY, "FRA", embodied=[Embodied(1, 1, "x")]), "give seconds"),
    ],
)
def test_numbers_without_sense_or_source_are_refused(make: Callable[[], object], match: str) -> None:
    with pytest.raises(ClisonixError, match=match):
        make()


def test_no_place_gives_no_figure_and_says_what_to_set() -> None:
    found = carbon(ENERGY, None)
    assert found.grams is None
    assert "set `place`" in (found.reason or "")


def test_unknown_energy_gives_no_figure() -> None:
    found = carbon(Energy.unknown("GPU is lost"), "FRA")
    assert found.grams is None
    assert "GPU is lost" in (found.reason or "")


@pytest.mark.parametrize(
    ("place", "hint"),
    [
        ("FRAA", "FRA"),
        ("France", "FRA"),
        ("USA-XX", "USA-"),
        ("", "alpha-3"),
        ("CAF", "alpha-3"),
        ("FRA-75", "leave out"),
        ("SWE-SE9", "SWE-SE"),
    ],
)
def test_an_unknown_place_is_an_error_with_a_hint(place: str, hint: str) -> None:
    with pytest.raises(ClisonixError, match=hint):
        carbon_factor(place)


def test_no_socket_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was made")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    assert carbon(ENERGY, "usa-ca").grams is not None


def test_of_two_hundred_places_an_error_names_a_few() -> None:
    with pytest.raises(ClisonixError, match=r"; \d{3} are valid, such as ABW, ") as caught:
        carbon_factor("ZZZ")
    assert len(str(caught.value)) < 150
