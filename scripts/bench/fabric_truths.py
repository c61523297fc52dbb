"""Real recordings of which the truth is known, and clocks of others on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyxdf

from clisonix.fabric.clocks import from_device

FloatArray = npt.NDArray[np.float64]

CAPTURES = ("test_accgyro", "test_eeg_quality")
SENSORS = ("EEG", "OPTICS", "ACCGYRO")


def load(path: Path, **options: bool) -> dict[str, dict[str, Any]]:
    streams, _ = pyxdf.load_xdf(str(path), **options)
    return {f"{s['info']['name'][0]}/{s['info']['stream_id']}": s for s in streams}


def ms(values: FloatArray) -> dict[str, float]:
    error = 1e3 * np.abs(values)
    return {"median_ms": round(float(np.median(error)), 3), "max_ms": round(float(error.max()), 3)}


def radio_stamps(
    root: Path, capture: str, sensor: str, rate: float, taken_off: int = 1
) -> tuple[FloatArray, FloatArray]:
    """True times of samples at `rate`, and stamps: each sample comes with the next real packet, as late as that was.

    A line is taken off the jitter (`taken_off=1`): what of the delays looks like an offset or a rate, no clock can
    tell from one. The stricter `taken_off=0` takes off the mean only, so what looks like a rate counts as error.
    """
    device, arrival = packets_of(root, capture, sensor)
    delay = arrival - from_device(device, arrival)(device)
    order = np.argsort(device, kind="stable")
    device, delay = device[order], delay[order]
    truth = np.arange(int((device[-1] - device[0]) * rate)) / rate
    packet = np.searchsorted(device - device[0], truth)
    stamps = device[packet] - device[0] + delay[packet]
    return truth, stamps - np.polyval(np.polyfit(truth, stamps - truth, taken_off), truth)


def packets_of(root: Path, capture: str, sensor: str) -> tuple[FloatArray, FloatArray]:
    with np.load(root / "openmuse/ble_packets" / f"{capture}.decoded.npz") as packets:
        return packets[f"{sensor}_device"], packets[f"{sensor}_arrival"]


def by_pyxdf(stamps: FloatArray, rate: float) -> FloatArray:
    """pyxdf's own removal of jitter, with its own defaults."""
    from pyxdf.pyxdf import StreamData, _jitter_removal

    stream = StreamData.__new__(StreamData)
    stream.time_stamps, stream.srate, stream.tdiff = stamps.copy(), rate, 1 / rate
    stream.segments, stream.clock_segments, stream.name = [], [], "made"
    return np.asarray(_jitter_removal({1: stream})[1].time_stamps)
