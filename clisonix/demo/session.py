"""One recording on its way through the weaver, and what a page needs to draw it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from clisonix.demo.player import Packet, Player
from clisonix.errors import ClisonixError
from clisonix.fabric.clocks.causal import CausalClock
from clisonix.fabric.lane import LiveStream
from clisonix.fabric.source import Chunk
from clisonix.fabric.stream import Recording, Stream
from clisonix.fabric.weaver import Weaver
from clisonix.fabric.window import Window

JITTER_S = 0.03
LATENESS_S = 0.2
IDLE_S = 1.5
SHOWN = 3
"""Channels of a stream that are drawn; all are woven."""
POINTS = 12
"""Pairs of least and largest that stand for a packet with more samples than twice as many."""
SEGMENTS = 48
"""Parts of a window for which the share that was measured is told."""
LONGEST_PAUSE_S = 2.0
KNOWN_PPM = 500.0
"""Standard deviation from which on a rate is worth a number."""
COUNTED_S = 5.0
"""Over which samples are counted for the rate that is heard."""


class Session:
    """A player, a clock for each stream, and the weaver. Knows no wall clock.

    Args:
        recording: what to play.
        window_s: length of windows.
        seed: of the packets that get lost.
    """

    def __init__(self, recording: Recording, window_s: float = 2.0, seed: int = 0) -> None:
        self.player = Player(recording, seed)
        self.window_s, self.hop_s = window_s, window_s / 2
        self.playing = {n: s for n, s in recording.streams.items() if round(window_s * s.rate_hz) >= 1}
        if not self.playing:
            raise ClisonixError(f"no stream has a sample in {window_s:g} s: choose longer windows")
        self.follow = False
        self.weaver = Weaver(
            {n: LiveStream(len(s.samples), s.rate_hz, JITTER_S) for n, s in self.playing.items()},
            window=self.window_s,
            hop=self.hop_s,
            lateness_s=LATENESS_S,
            start_s=0.0,
        )
        self._clocks = {name: CausalClock(rate_ppm=2000.0) for name in self.playing}
        self._heard_s = dict.fromkeys(self.playing, 0.0)
        self._off_s = dict.fromkeys(self.playing, 0.0)
        self._heard = dict.fromkeys(self.playing, (0.0, 0))
        self._rates: dict[str, float | None] = dict.fromkeys(self.playing)
        self._outside_s = self._now_s = 0.0

    def hello(self) -> dict[str, Any]:
        """What does not change: streams, rates, and the range in which each channel is drawn."""
        return {
            "window_s": self.window_s,
            "hop_s": self.hop_s,
            "lateness_s": LATENESS_S,
            "round_s": self.player.round_s,
            "streams": [
                {
                    "name": name,
                    "channels": len(stream.samples),
                    "shown": [str(c) for c in (stream.channels or range(len(stream.samples)))[:SHOWN]],
                    "rate_hz": stream.rate_hz,
                    "unit": stream.unit,
                    "range": _ranges(stream),
                }
                for name, stream in self.playing.items()
            ],
        }

    def change(self, what: Mapping[str, Any]) -> None:
        """Pull a cable, make a clock drift, lose packets; or follow the clocks.

        Raises:
            ClisonixError: something that cannot be changed, or not to this.
        """
        if what.keys() == {"follow"} and isinstance(what["follow"], bool):
            self.follow = what["follow"]
        elif isinstance(what.get("stream"), str) and what["stream"] in self.playing:
            self.player.set(what["stream"], {k: v for k, v in what.items() if k != "stream"})
        else:
            raise ClisonixError("give follow, or the name of a stream that is played and what to change of it")

    def step(self, outside_s: float) -> dict[str, Any]:
        """Play up to now, and tell what happened since the last step.

        A machine that slept does not play the night in one go: a long pause is left out.

        Args:
            outside_s: seconds since the session began, on a clock that does not go back.
        """
        passed_s = max(0.0, outside_s - self._outside_s)
        self._outside_s = max(outside_s, self._outside_s)
        self._now_s += min(passed_s, LONGEST_PAUSE_S)
        now_s = self._now_s
        drawn: dict[str, list[dict[str, Any]]] = {}
        for packet in self.player.advance(now_s):
            name = packet.chunk.stream
            if name in self.playing:
                self.weaver.push(self._stamped(packet, now_s))
                self._heard_s[name] = now_s
                drawn.setdefault(name, []).append(_outline(packet))
        for name, heard_s in self._heard_s.items():
            # A slow stream is not silent between two samples.
            if now_s - heard_s > IDLE_S + 1 / self.playing[name].rate_hz:
                self.weaver.idle(name)
        windows = [self._told(window) for window in self.weaver.windows()]
        return {"now_s": now_s, "drawn": drawn, "windows": windows, "state": self._state()}

    def _stamped(self, packet: Packet, now_s: float) -> Chunk:
        """The chunk as the weaver gets it: with the device's own stamps, or mended ones."""
        chunk, name = packet.chunk, packet.chunk.stream
        newest_s = float(chunk.times_s[-1])
        mapped_s = self._clocks[name].push(newest_s, now_s)
        times_s = chunk.times_s + (mapped_s - newest_s) if self.follow else chunk.times_s
        self._off_s[name] = float(times_s[-1]) - packet.taken_s
        return Chunk(name, chunk.samples, times_s, chunk.index)

    def _state(self) -> dict[str, dict[str, Any]]:
        state = {}
        for name, stream in self.playing.items():
            count, cable = self.weaver.counts[name], self.player.cables[name]
            since_s, before = self._heard[name]
            if self._now_s - since_s >= COUNTED_S:
                self._rates[name] = (count.received - before) / (self._now_s - since_s)
                self._heard[name] = (self._now_s, count.received)
            state[name] = {
                "heard_hz": self._rates[name],
                "silent": self._now_s - self._heard_s[name] > IDLE_S + 1 / stream.rate_hz,
                "received": count.received,
                "lost": self.player.sent(name)[1],
                "late": count.late,
                "off_s": self._off_s[name],
                "pulled": cable.pulled,
                "drift_ppm": cable.drift_ppm,
                "loss": cable.loss,
                **self._clock(name),
            }
        return state

    def _clock(self, name: str) -> dict[str, float | None]:
        """The rate that the arrivals show, a device clock that is too fast positive."""
        try:
            segment = self._clocks[name].clock().segments[-1]
        except ClisonixError:
            return {"found_ppm": None, "found_sd_ppm": None}
        if segment.measurements < 20 or not segment.rate_sd_ppm < KNOWN_PPM:
            return {"found_ppm": None, "found_sd_ppm": None}
        return {"found_ppm": -segment.rate_ppm, "found_sd_ppm": segment.rate_sd_ppm}

    def _told(self, window: Window) -> dict[str, Any]:
        start_s = float(window["t0_s"])
        streams = {}
        for name, mask in window["masks"].items():
            measured = mask.numpy().mean(axis=0)
            parts = np.array_split(measured, min(SEGMENTS, len(measured)))
            streams[name] = {
                "samples": int(mask.shape[1]),
                "measured": float(mask.float().mean()),
                "parts": [round(float(part.mean()), 3) for part in parts],
                "rms": float(window["streams"][name].square().mean().sqrt()),
            }
        return {
            "number": int(window["window"]),
            "start_s": start_s,
            "waited_s": self._now_s - start_s - self.window_s,
            "streams": streams,
        }


def _outline(packet: Packet) -> dict[str, Any]:
    """What to draw of a packet: its samples, or the least and the largest of stretches of them.

    It is drawn where it was really taken, so a drifting stamp does not bend the picture.
    """
    chunk = packet.chunk
    values = chunk.samples[:SHOWN]
    times_s = chunk.times_s + (packet.taken_s - float(chunk.times_s[-1]))
    if values.shape[1] > 2 * POINTS:
        edges = np.linspace(0, values.shape[1], POINTS + 1).astype(int)[:-1]
        filled = np.nan_to_num(values)
        both = np.stack(
            [np.minimum.reduceat(filled, edges, axis=1), np.maximum.reduceat(filled, edges, axis=1)], axis=2
        )
        values, times_s = both.reshape(len(values), -1), np.repeat(times_s[edges], 2)
    rounded = [[None if not math.isfinite(x) else float(f"{x:.4g}") for x in row] for row in values.tolist()]
    return {"t": [round(float(t), 4) for t in times_s], "y": rounded}


def _ranges(stream: Stream) -> list[list[float]]:
    """What to draw of each channel: all but its rarest values."""
    part = stream.samples[:SHOWN, : round(120 * stream.rate_hz)]
    ranges = []
    for row in part[:, :: max(1, part.shape[1] // 20_000)]:
        known = row[np.isfinite(row)]
        low, high = np.percentile(known, [0.5, 99.5]) if known.size else (0.0, 1.0)
        ranges.append([float(low), float(high) if high > low else float(low) + 1.0])
    return ranges
