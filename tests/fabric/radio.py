"""Made-up radio packets and samples of which the truth is known."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


class Packets(NamedTuple):
    """Packets in the order of arrival; `mean_delay_s` is what no clock can see."""

    device_s: FloatArray
    arrival_s: FloatArray
    mean_delay_s: float


def packets(
    rng: np.random.Generator,
    *,
    seconds: float,
    every_s: float = 0.02,
    ppm: float = 0.0,
    offset_s: float = 0.0,
    delay_s: float = 0.01,
    burst_s: float = 0.1,
    bursts: float = 0.05,
) -> Packets:
    """Packets with exponential delays; in bursts, a share `bursts` of them, all wait for the end; some overtake."""
    device = np.arange(0.0, seconds, every_s)
    sent = offset_s + device * (1 + 1e-6 * ppm)
    delay = rng.exponential(delay_s, len(device))
    for k in np.flatnonzero(rng.random(len(device)) < bursts * every_s / burst_s):
        waiting = (sent >= sent[k]) & (sent < sent[k] + burst_s)
        delay[waiting] = np.maximum(delay[waiting], sent[k] + burst_s - sent[waiting])
    mean = float(delay.mean())
    order = np.argsort(sent + delay, kind="stable")
    return Packets(device[order], (sent + delay)[order], mean)


def jittered(rng: np.random.Generator, truth: FloatArray, *, packet: int, sd_s: float) -> FloatArray:
    """Stamps of samples that come in packets: all of a packet share its delay, mean 0."""
    count = -(-len(truth) // packet)
    return truth + np.repeat(rng.exponential(sd_s, count) - sd_s, packet)[: len(truth)]
