"""Two processes end where one does, however the parameters lie on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from two_processes import notes_of_both

WORKER = Path(__file__).parent / "spectral_nodes.py"


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return notes_of_both(WORKER, tmp_path_factory.mktemp("spectral"))


@pytest.mark.parametrize("way", ["replicated", "dealt", "by rows", "by columns"])
def test_two_processes_end_where_one_does(notes: list[dict[str, Any]], way: str) -> None:
    for each in notes:
        assert each[way] < 1e-11


def test_the_state_is_spread_as_the_parameters_are(notes: list[dict[str, Any]]) -> None:
    assert all(each["state is spread"] for each in notes)


def test_a_gradient_that_is_not_finite_on_one_stops_both(notes: list[dict[str, Any]]) -> None:
    assert "gradient of a parameter on another rank" in notes[0]["not finite"]
    assert "gradient of 0.weight" in notes[1]["not finite"]


def test_packed_state_of_sharded_parameters_is_refused(notes: list[dict[str, Any]]) -> None:
    assert all("is a DTensor, whose state cannot be packed" in each["packed"] for each in notes)
