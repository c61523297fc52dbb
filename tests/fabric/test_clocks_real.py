"""Clocks on real recordings, and the command that shows them."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from clisonix.cli import app
from clisonix.errors import ClisonixError
from clisonix.fabric.clocks import (
    CausalClock,
    blind,
    edges,
    from_anchors,
    from_device,
    from_samples,
    pair_events,
)
from clisonix.fabric.clocks.plot import Panel, draw
from clisonix.fabric.clocks.streams import clocks_of, stamps_of
from clisonix.fabric.sources import open_source

FLASHES = "openmuse/test-13-dev.xdf"


def channel(path: Path, stream: str, row: int, rate: float) -> tuple[np.ndarray, np.ndarray]:
    chunks = list(open_source(path).chunks([stream]))
    stamps = np.concatenate([c.times_s for c in chunks])
    times = from_samples(stamps, rate)(np.arange(len(stamps)))
    return np.concatenate([c.samples[row] for c in chunks]).astype(np.float64), times


@pytest.mark.data
def test_flashes_seen_by_two_sensors_line_up(data_root: Path) -> None:
    light, light_s = channel(data_root / FLASHES, "OpenSignals", 3, 1000)
    optics, optics_s = channel(data_root / FLASHES, "Muse_OPTICS", 6, 64)
    seen, shown = edges(optics, optics_s), edges(light, light_s)
    a, b = pair_events(seen.times_s, shown.times_s, within_s=0.1)
    assert len(a) == 18
    own, fabric = seen.times_s[a], shown.times_s[b]
    anchors = np.isin(np.arange(18), [0, 1, 16, 17])
    clock = from_anchors(own[anchors], fabric[anchors])
    error = np.abs(clock(own) - fabric)[~anchors]
    assert np.median(error) <= 1e-3
    assert error.max() <= 3e-3
    found = blind(optics, optics_s, light, light_s)
    error = np.abs(found(own) - fabric)
    assert np.median(error) <= 3e-3
    assert error.max() <= 8e-3


@pytest.mark.data
@pytest.mark.parametrize("capture", ["test_accgyro", "test_eeg_quality"])
def test_bluetooth_packets_followed_causally(data_root: Path, capture: str) -> None:
    with np.load(data_root / "openmuse/ble_packets" / f"{capture}.decoded.npz") as packets:
        device, arrival = packets["EEG_device"], packets["EEG_arrival"]
    clock = CausalClock()
    mapped = np.array([clock.push(*p) for p in zip(device.tolist(), arrival.tolist(), strict=True)])
    error = (mapped - from_device(device, arrival)(device))[device > device[0] + 10]
    assert np.std(error) <= 2e-3
    assert np.max(np.abs(error)) <= 6e-3


@pytest.mark.data
def test_a_computer_swap_is_two_epochs_on_one_clock(data_root: Path) -> None:
    source = open_source(data_root / "xdf_examples/clock_resets.xdf")
    stamps = stamps_of(source)
    clocks = clocks_of(source, stamps=stamps)
    times = clocks.to_common("BioSemi", stamps["BioSemi"])
    assert len(clocks.shared["BioSemi"].epochs) == 2
    assert np.all(np.diff(times) > 0)
    assert times[-1] - times[0] < 700
    with pytest.raises(ClisonixError, match="give all"):
        clocks.to_common("BioSemi", stamps["BioSemi"][:10])
    with pytest.raises(ClisonixError, match="BioSemi"):
        clocks.with_shared("Biosemi", clocks.shared["BioSemi"])


@pytest.mark.data
def test_the_command_shows_every_stream(data_root: Path, tmp_path: Path) -> None:
    picture = tmp_path / "jitter.svg"
    file = str(data_root / FLASHES)
    done = CliRunner().invoke(app, ["data", "clocks", file, "--plot", str(picture), "--json"])
    assert done.exit_code == 0, done.output
    (content,) = json.loads(done.stdout)
    assert {row["stream"] for row in content["segments"]} >= {"Muse_EEG", "OpenSignals"}
    assert "OpenSignals" in "".join(ElementTree.parse(picture).getroot().itertext())
    assert "Muse_EEG" in CliRunner().invoke(app, ["data", "clocks", file]).stdout


def test_pictures_mask_names_and_refuse_other_endings(tmp_path: Path) -> None:
    panel = Panel("<b>&", np.arange(5.0), np.zeros(5), ((1.0, 2.0),), (3.0,), "1 segment")
    draw([panel], tmp_path / "a.svg")
    assert "<b>&" in "".join(ElementTree.parse(tmp_path / "a.svg").getroot().itertext())
    with pytest.raises(ClisonixError, match=r"svg or \.png"):
        draw([panel], tmp_path / "a.gif")
    with pytest.raises(ClisonixError, match="nothing to plot"):
        draw([], tmp_path / "a.svg")
