from __future__ import annotations

import importlib.util
import json
import socket
from pathlib import Path

import pytest

from clisonix.errors import ClisonixError
from clisonix.meter import Energy, carbon, carbon_factor

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


def test_the_interval_is_the_energys() -> None:
    found = carbon(ENERGY, "FRA")
    factor = carbon_factor("FRA").g_per_kwh
    assert (found.grams, found.low, found.high) == (factor, factor / 2, factor * 2)
    assert "CodeCarbon" in (found.source or "")


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
    [("FRAA", "FRA"), ("France", "FRA"), ("USA-XX", "USA-"), ("", "alpha-3"), ("CAF", "alpha-3")],
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
