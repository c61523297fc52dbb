"""A recording played as live streams, over cables that can be pulled, clocks that drift and packets that get lost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from clisonix.errors import ClisonixError, nearest
from clisonix.fabric.source import Chunk
from clisonix.fabric.stream import Recording, Stream

PACKET_S = 0.1
MOST_PPM = 5000.0


@dataclass
class Cable:
    """What happens to a stream on its way.

    Attributes:
        pulled: nothing arrives.
        drift_ppm: how much too fast the device's clock runs.
        loss: share of packets that get lost.
        ahead_s: what the device's clock was ahead when its drift was last changed.
        since_s: when that was.
    """

    pulled: bool = False
    drift_ppm: float = 0.0
    loss: float = 0.0
    ahead_s: float = 0.0
    since_s: float = 0.0

    def error_s(self, now_s: float) -> float:
        """What the device's clock is ahead."""
        return self.ahead_s + 1e-6 * self.drift_ppm * (now_s - self.since_s)


@dataclass(frozen=True)
class Packet:
    """What arrives at once: a chunk with the device's stamps, and when its last sample was really taken."""

    chunk: Chunk
    taken_s: float


@dataclass
class _Track:
    """A stream and how far it has been played: `at` counts all samples, of all rounds."""

    stream: Stream
    offset_s: float
    at: int = 0
    sent: int = 0
    lost: int = 0


class Player:
    """Packets that are due. Knows no wall clock; the same calls give the same packets.

    The recording is played again from its beginning once it has ended; the time between goes on.

    Args:
        recording: what to play.
        seed: of the packets that get lost.
    """

    def __init__(self, recording: Recording, seed: int = 0) -> None:
        self.recording = recording
        first_s = min(stream.start_s for stream in recording.streams.values())
        self.round_s = max(stream.end_s for stream in recording.streams.values()) - first_s
        self.cables = {name: Cable() for name in recording.streams}
        self._tracks = {n: _Track(s, s.start_s - first_s) for n, s in recording.streams.items()}
        self._chance = np.random.default_rng(seed)
        self._now_s = 0.0

    def advance(self, now_s: float) -> list[Packet]:
        """The packets whose last sample has been taken by now, in seconds since the beginning."""
        self._now_s = max(now_s, self._now_s)
        return [packet for name in self._tracks for packet in self._due(name)]

    def set(self, stream: str, what: Mapping[str, object]) -> None:
        """Change a cable.

        Args:
            stream: which.
            what: `pulled` (true or false), `drift_ppm` and `loss` (numbers); others are refused.

        Raises:
            ClisonixError: no such stream or setting, or a value out of its range.
        """
        cable = self.cables.get(stream)
        if cable is None:
            raise ClisonixError(f"there is no stream {stream!r}{nearest(stream, self.cables)}")
        limits = {"drift_ppm": (-MOST_PPM, MOST_PPM), "loss": (0.0, 1.0)}
        for name, value in what.items():
            if name == "pulled" and isinstance(value, bool):
                continue
            number = isinstance(value, int | float) and not isinstance(value, bool)
            low, high = limits.get(name, (math.inf, -math.inf))
            if not (number and low <= float(value) <= high):  # type: ignore[arg-type]
                raise ClisonixError(
                    f"{name} cannot be {value!r}: give pulled, drift_ppm up to {MOST_PPM:g}, or loss up to 1"
                )
        if "drift_ppm" in what:
            cable.ahead_s, cable.since_s = cable.error_s(self._now_s), self._now_s
        for name, value in what.items():
            setattr(cable, name, value if name == "pulled" else float(value))  # type: ignore[arg-type]

    def sent(self, stream: str) -> tuple[int, int]:
        """How many samples of a stream went out, and how many got lost or were held back by a pulled cable."""
        track = self._tracks[stream]
        return track.sent, track.lost

    def _due(self, name: str) -> list[Packet]:
        track, cable = self._tracks[name], self.cables[name]
        stream, rate_hz = track.stream, track.stream.rate_hz
        size = max(1, round(PACKET_S * rate_hz))
        packets: list[Packet] = []
        while True:
            turn, first = divmod(track.at, stream.length)
            count = min(size, stream.length - first)
            start_s = turn * self.round_s + track.offset_s + first / rate_hz
            last_s = start_s + (count - 1) / rate_hz
            if last_s > self._now_s:
                return packets
            track.at += count
            samples = stream.samples[:, first : first + count]
            measured = np.isfinite(samples).any(axis=0)
            lost = cable.pulled or (cable.loss > 0 and self._chance.random() < cable.loss)
            track.lost += count if lost else 0
            if lost or not measured.any():
                continue
            # What a sensor did not measure is not sent: a step in the stamps.
            times_s = (start_s + np.arange(count) / rate_hz)[measured] + cable.error_s(last_s)
            values = np.ascontiguousarray(samples[:, measured], np.float32)
            packets.append(Packet(Chunk(name, values, times_s, track.sent), last_s))
            track.sent += values.shape[1]
