"""Damaged files of every format, a small version of scripts/bench/fabric_fuzz.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz import fuzz
from sample_files import WRITERS


@pytest.mark.parametrize("name", WRITERS)
def test_damage_gives_data_or_a_sentence(tmp_path: Path, name: str) -> None:
    outcome = fuzz(name, 40, tmp_path / "files", seed=7)
    assert not outcome.failures, outcome.failures
    assert sum(outcome.counts.values()) == 40
    assert outcome.slowest_s < 5
    assert outcome.most_bytes < 64e6
