"""The recipes of fetched EDF+ sets find their recordings, fields and labels."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyedflib
import pytest

from clisonix.errors import ClisonixError
from clisonix.fabric import SignalFabric
from clisonix.fabric.datasets import dataset
from clisonix.train import load_config
from clisonix.train.recordings import open_recordings, split_recordings

CONFIGS = Path(__file__).parents[2] / "configs"


def write_edf(
    path: Path, channels: list[str], rate_hz: int, seconds: int, notes: list[tuple[float, float, str]]
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    head = {"dimension": "uV", "sample_frequency": rate_hz, "physical_min": -500.0, "physical_max": 500.0}
    with pyedflib.EdfWriter(str(path), len(channels), file_type=pyedflib.FILETYPE_EDFPLUS) as writer:
        writer.setSignalHeaders([{**head, "label": c, "digital_min": -32768, "digital_max": 32767} for c in channels])
        rng = np.random.default_rng(0)
        writer.writeSamples([rng.uniform(-100, 100, rate_hz * seconds) for _ in channels])
        for note in notes:
            writer.writeAnnotation(*note)


def test_nights_get_the_stages_of_their_hypnograms(tmp_path: Path) -> None:
    folder = tmp_path / "sleep_edf/sleep-cassette"
    stages = [(0.0, 90.0, "Sleep stage W"), (90.0, 60.0, "Sleep stage 2"), (150.0, 30.0, "Sleep stage ?")]
    paths = [p for p in dataset("sleep_edf").origin.about if p[18:20] in ("00", "01", "02", "10", "82")]  # type: ignore[union-attr]
    assert len(paths) == 20
    for path in paths:
        night = "PSG" in path
        channels = ["EEG Fpz-Cz", "EEG Pz-Oz"] if night else ["dummy"]
        write_edf(tmp_path / "sleep_edf" / path, channels, 100 if night else 1, 180, [] if night else stages)
    assert folder.is_dir()
    recipe = load_config(CONFIGS / "sleep_edf.yaml", ())
    recordings = open_recordings(recipe.data, tmp_path)
    assert {(r.fields["subject"], r.fields["night"]) for r in recordings} == {
        (s, n) for s in (0, 1, 2, 10, 82) for n in (1, 2)
    }
    assert Counter(e.label for e in recordings[0].events) == {"wake": 3, "N2": 2}
    assert [e.time_s for e in recordings[0].events] == [0.0, 30.0, 60.0, 90.0, 120.0]
    train, test = split_recordings(recordings, recipe.data.split)
    assert len(train) + len(test) == 10
    fabric = SignalFabric(train, window=30.0, around="events", classes=["wake", "N2"])
    assert next(iter(fabric))["streams"]["eeg"].shape == (2, 3000)


def test_imagined_movements_are_found_in_their_runs_only(tmp_path: Path) -> None:
    recipe = load_config(CONFIGS / "eegmmidb.yaml", ())
    channels = recipe.data.streams["eeg"].channels  # type: ignore[union-attr]
    notes = [(0.0, 4.2, "T0"), (4.2, 4.1, "T1"), (8.3, 4.2, "T0"), (12.5, 4.1, "T2")]
    for subject in range(1, 6):
        for run in (3, 4, 14):
            path = tmp_path / f"eegmmidb/S{subject:03d}/S{subject:03d}R{run:02d}.edf"
            write_edf(path, [*channels, "O1.."], 160, 20, notes)
    recordings = open_recordings(recipe.data, tmp_path)
    assert {(r.fields["subject"], r.fields["run"]) for r in recordings} == {(s, 4) for s in range(1, 6)}
    assert [(round(e.time_s, 3), e.label) for e in recordings[0].events] == [(4.2, "left"), (12.5, "right")]


def test_a_name_that_is_too_short_for_its_pattern_is_told(tmp_path: Path) -> None:
    write_edf(tmp_path / "sleep_edf/sleep-cassette/SC40-PSG.edf", ["EEG Fpz-Cz", "EEG Pz-Oz"], 100, 30, [])
    recipe = load_config(CONFIGS / "sleep_edf.yaml", ())
    with pytest.raises(ClisonixError, match=r"no file below|does not fit the pattern"):
        open_recordings(recipe.data, tmp_path)
