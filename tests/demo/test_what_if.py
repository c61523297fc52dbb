"""What if: the numbers are those of the meter, and nothing is guessed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from example_runs import make_run
from starlette.testclient import TestClient

from clisonix.meter.emissions.carbon import Pue, carbon
from clisonix.meter.emissions.factors import carbon_factor
from clisonix.meter.energy import Energy

TRAIN = Energy(1234.5, 1200.25, 1300.75, "rapl-counter", "CPU package", "cpu:0", detail="counted by RAPL")
EVALUATE = Energy(16.0, 14.0, 20.0, "rapl-counter", "CPU package", "cpu:0", detail="counted by RAPL")


def ask(client: TestClient, **query: Any) -> dict[str, Any]:
    answer = client.get("/what-if/figures", params=query)
    found: dict[str, Any] = answer.json()
    return {**found, "status": answer.status_code}


@pytest.fixture
def evaluated(runs: Path) -> Path:
    """A run whose evaluation looked at 160 windows once."""
    energy = {name: {"total": e.to_json(), "devices": []} for name, e in (("train", TRAIN), ("evaluate", EVALUATE))}
    make_run(runs / "used", energy=energy, data={"test_windows": 160}, attempts=[{"trace": "trace"}])
    return runs


def test_a_place_and_a_pue_give_what_the_meter_gives(client: TestClient) -> None:
    found = ask(client, run="dense", place="FRA", pue=1.5, inferences=0)
    expected = carbon(TRAIN, "FRA", pue=Pue(1.5, "x"))
    factor = carbon_factor("FRA")
    assert found["total"]["joules"] == 1234.5
    assert found["carbon"]["grams"] == pytest.approx(1234.5 / 3.6e6 * factor.g_per_kwh)
    assert (found["carbon"]["low"], found["carbon"]["high"]) == (expected.low, expected.high)
    assert (found["carbon"]["year"], found["carbon"]["source"]) == (factor.year, factor.source)
    for name in ("grams", "low", "high"):
        assert found["all_in"][name] == pytest.approx(1.5 * found["carbon"][name])


def test_inferences_are_added_with_their_range(evaluated: Path, client: TestClient) -> None:
    found = ask(client, run="used", place="FRA", pue=1, inferences=1000)
    assert found["one"]["joules"] == pytest.approx(0.1)
    assert found["use"]["joules"] == pytest.approx(100.0)
    total = found["total"]
    assert [total[k] for k in ("low", "joules", "high")] == pytest.approx([1200.25 + 87.5, 1334.5, 1300.75 + 125])
    assert found["carbon"]["grams"] == pytest.approx(1334.5 / 3.6e6 * carbon_factor("FRA").g_per_kwh)
    assert found["carbon"]["lines"] == []


@pytest.mark.parametrize("place", ["ZZZ", "Atlantis", "USA-QQ", "<b>", "../x"])
def test_an_unknown_place_has_no_number(client: TestClient, place: str) -> None:
    found = ask(client, run="dense", place=place)
    assert found["carbon"] is None
    assert found["all_in"] == {"grams": None, "low": None, "high": None}
    assert "place" in found["problem"]
    assert found["training"]["joules"] == 1234.5


def test_without_a_place_there_is_a_reason(client: TestClient) -> None:
    found = ask(client, run="dense")
    assert found["carbon"]["grams"] is None
    assert "no place" in found["carbon"]["reason"]


@pytest.mark.parametrize(
    "changes",
    [
        {"energy": {"train": {"total": TRAIN.to_json(), "devices": []}}},
        {"attempts": [{}, {}]},
        {"config": {"train": {"evaluate_every": 2}}},
        {"data": {}},
    ],
)
def test_inferences_whose_energy_is_not_known_give_no_sum(
    evaluated: Path, client: TestClient, changes: dict[str, Any]
) -> None:
    energy = {name: {"total": e.to_json(), "devices": []} for name, e in (("train", TRAIN), ("evaluate", EVALUATE))}
    made = {"energy": energy, "data": {"test_windows": 160}, "attempts": [{"trace": "trace"}], **changes}
    make_run(evaluated / "odd", **made)
    found = ask(client, run="odd", place="FRA", inferences=10)
    assert found["use"]["joules"] is None
    assert found["total"]["joules"] is None
    assert found["carbon"]["grams"] is None
    assert found["use"]["how"].startswith("unknown: ")
    assert ask(client, run="odd", place="FRA", inferences=0)["carbon"]["grams"] > 0


@pytest.mark.parametrize(
    "query",
    [{"pue": 0.5}, {"pue": "nan"}, {"pue": "x"}, {"inferences": -1}, {"inferences": 10**10}, {"inferences": 1.5}],
)
def test_what_cannot_be_is_refused_with_a_sentence(client: TestClient, query: dict[str, Any]) -> None:
    found = ask(client, run="dense", **query)
    assert found["status"] == 400
    assert set(found) == {"problem", "status"}


def test_only_listed_runs_are_asked_about(client: TestClient) -> None:
    for key in ("", "../secret/other", "nobody"):
        assert client.get("/what-if/figures", params={"run": key}).status_code == 404


def test_the_page_runs_the_scripts_of_the_package_only(client: TestClient) -> None:
    answer = client.get("/what-if")
    policy = answer.headers["content-security-policy"]
    assert "script-src 'self'; connect-src 'self'; " in policy
    assert answer.text.count("<option>") == 2
    assert 'href="/what-if"' in client.get("/").text
