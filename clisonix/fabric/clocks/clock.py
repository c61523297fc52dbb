"""What a stream's own time is on the fabric's clock, and how well that is known."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from clisonix.errors import ClisonixError
from clisonix.fabric.clocks.line import FloatArray, student

_BACKWARDS_S = 1.0  # a clock that goes back by more than this has been set anew


@dataclass(frozen=True)
class Segment:
    """A stretch in which one line holds: `fabric = own + offset_s + rate_ppm * 1e-6 * (own - reference_s)`.

    Attributes:
        first_s: own time of the first measurement, in seconds (for sample indices: index / rate).
        last_s: own time of the last one.
        reference_s: own time at which the offset is told; there its error and the rate's do not depend on each other.
        offset_s: fabric's time minus own time.
        rate_ppm: how much faster the fabric's time runs, in millionths.
        residual_sd_s: standard deviation of what the line leaves of the measurements.
        offset_sd_s: standard error of the offset.
        rate_sd_ppm: standard error of the rate.
        degrees: degrees of freedom behind the standard errors.
        measurements: how many were used.
        lost: samples that were lost just before the segment; 0 where nothing was, or where own time is no index.
    """

    first_s: float
    last_s: float
    reference_s: float
    offset_s: float
    rate_ppm: float
    residual_sd_s: float
    offset_sd_s: float
    rate_sd_ppm: float
    degrees: float
    measurements: int
    lost: int = 0


@dataclass(frozen=True)
class Clock:
    """Maps a stream's own time to the fabric's time.

    Attributes:
        segments: in the order of recording.
        rate_hz: None where own time is in seconds; else own time is a sample index, and index / rate is seconds.
        method: how the mapping was found.
    """

    segments: tuple[Segment, ...]
    rate_hz: float | None = None
    method: str = ""

    def __post_init__(self) -> None:
        if not self.segments:
            raise ClisonixError("a clock was given no segments, expected at least one")
        if self.rate_hz is not None and not (math.isfinite(self.rate_hz) and self.rate_hz > 0):
            raise ClisonixError(f"a clock has the rate {self.rate_hz} Hz, expected a positive number or None")

    def __call__(self, times: npt.ArrayLike, *, epoch: int | None = None) -> FloatArray:
        """The fabric's time of own times.

        Args:
            times: `(n,)` seconds, or sample indices if `rate_hz` is set. A time between two segments goes with the
                nearer one; outside all of them the nearest line is carried on.
            epoch: which stretch between two settings of the clock the times are from; needed only where the clock
                was set back so that the same own time came twice and `times` is not the whole stream.

        Returns:
            `(n,)` seconds.

        Raises:
            ClisonixError: times that came twice, without a word on which is meant.
        """
        own = self._seconds(times)
        row = self._table()[self._pick(own, epoch)]
        return own + row[..., 1] + 1e-6 * row[..., 2] * (own - row[..., 0])

    def uncertainty(self, times: npt.ArrayLike, *, coverage: float = 0.95, epoch: int | None = None) -> FloatArray:
        """Half width in seconds of the interval that holds the mapping's true value this often.

        It is about the mapping, not about single measurements: those scatter by `residual_sd_s`. It grows with the
        distance from the measurements. A constant that all measurements share (a cable's or radio's own delay)
        cannot be seen in them and is not in it.
        """
        if not 0 < coverage < 1:
            raise ClisonixError(f"coverage is {coverage}, expected a number between 0 and 1")
        own = self._seconds(times)
        index = self._pick(own, epoch)
        row = self._table()[index]
        widths = np.array([student(coverage, s.degrees) for s in self.segments])
        return np.asarray(widths[index] * np.hypot(row[..., 3], 1e-6 * row[..., 4] * (own - row[..., 0])))

    @property
    def epochs(self) -> tuple[tuple[int, int], ...]:
        """`(first, stop)` segments between settings back of the own clock; one pair if it never was."""
        starts = [0] + [
            i for i in range(1, len(self.segments)) if self.segments[i].first_s < self.segments[i - 1].last_s
        ]
        return tuple(zip(starts, [*starts[1:], len(self.segments)], strict=True))

    @property
    def lost(self) -> int:
        """Samples found lost inside the stream."""
        return sum(s.lost for s in self.segments)

    def then(self, other: Clock) -> Clock:
        """The clock that does this one first and `other` on its result, for example sample index to host to fabric.

        Raises:
            ClisonixError: `other` takes sample indices, or the middle time came twice in it.
        """
        if other.rate_hz is not None or len(other.epochs) > 1:
            raise ClisonixError("clocks can be chained only if the second one takes seconds and was never set back")
        edges = [(a.last_s + b.first_s) / 2 for a, b in pairwise(other.segments)]
        made: list[Segment] = []
        for segment in self.segments:
            slope = 1 + 1e-6 * segment.rate_ppm
            # Own times at which the middle time crosses from one segment of the other clock to the next.
            shift = segment.offset_s - 1e-6 * segment.rate_ppm * segment.reference_s
            cuts = [c for e in edges if segment.first_s < (c := (e - shift) / slope) < segment.last_s]
            bounds = [segment.first_s, *cuts, segment.last_s]
            for part, (first, last) in enumerate(pairwise(bounds)):
                middle = (first + last) / 2 + segment.offset_s
                middle += 1e-6 * segment.rate_ppm * ((first + last) / 2 - segment.reference_s)
                made.append(_chained(segment, other.segments[int(np.searchsorted(edges, middle))], first, last, part))
        return Clock(tuple(made), self.rate_hz, f"{self.method}, then {other.method}")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "schema": 1,
            "method": self.method,
            "rate_hz": self.rate_hz,
            "segments": [asdict(s) for s in self.segments],
        }

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Clock:
        """The clock that `to_json` wrote.

        Raises:
            ClisonixError: not such JSON.
        """
        try:
            if content["schema"] != 1:
                raise ClisonixError(f"a clock has the schema {content['schema']!r}, expected 1")
            whole = {f.name for f in fields(Segment) if f.type == "int"}
            rows = [{k: int(v) if k in whole else float(v) for k, v in row.items()} for row in content["segments"]]
            segments = tuple(Segment(**cast(dict[str, Any], row)) for row in rows)
            rate = content["rate_hz"]
            return Clock(segments, None if rate is None else float(rate), str(content["method"]))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ClisonixError(f"this JSON is no clock: {error}; write it with Clock.to_json") from error

    def dumps(self) -> str:
        """`to_json` as text."""
        return json.dumps(self.to_json(), allow_nan=False)

    def _seconds(self, times: npt.ArrayLike) -> FloatArray:
        own = np.asarray(times, np.float64)
        return own if self.rate_hz is None else own / self.rate_hz

    def _table(self) -> FloatArray:
        return np.array(
            [[s.reference_s, s.offset_s, s.rate_ppm, s.offset_sd_s, s.rate_sd_ppm] for s in self.segments]
        )

    def _pick(self, own: FloatArray, epoch: int | None) -> npt.NDArray[np.int64]:
        """Index of the segment for each own time."""
        epochs = self.epochs
        if epoch is not None:
            if not 0 <= epoch < len(epochs):
                raise ClisonixError(f"epoch {epoch} of a clock that has {len(epochs)}, counted from 0")
            return self._nearest(own, *epochs[epoch])
        if len(epochs) == 1:
            return self._nearest(own, 0, len(self.segments))
        index = np.stack([self._nearest(own, *e) for e in epochs])
        ends = np.array([[s.first_s, s.last_s] for s in self.segments])
        outside = np.maximum(np.maximum(ends[index, 0] - own, own - ends[index, 1]), 0.0)
        chosen = np.argmin(outside, axis=0)
        if np.any(np.sum(outside <= 0.0, axis=0) > 1):
            run = np.concatenate([[0], np.cumsum(np.diff(np.atleast_1d(own)) < -_BACKWARDS_S)])
            if own.ndim != 1 or run[-1] + 1 != len(epochs):
                raise ClisonixError(
                    f"the clock was set back and these times came in more than one of its {len(epochs)} epochs;"
                    " map the whole stream at once or say which epoch is meant"
                )
            chosen = run
        return np.asarray(np.take_along_axis(index, chosen[None], axis=0)[0], np.int64)

    def _nearest(self, own: FloatArray, first: int, stop: int) -> npt.NDArray[np.int64]:
        part = self.segments[first:stop]
        edges = [(a.last_s + b.first_s) / 2 for a, b in pairwise(part)]
        return np.asarray(first + np.searchsorted(edges, own, side="right"), np.int64)


def _chained(one: Segment, two: Segment, first: float, last: float, part: int) -> Segment:
    rate_one, rate_two = 1e-6 * one.rate_ppm, 1e-6 * two.rate_ppm
    # At the first one's reference, where its offset and rate are independent.
    middle = one.reference_s + one.offset_s
    return replace(
        one,
        first_s=first,
        last_s=last,
        offset_s=one.offset_s + two.offset_s + rate_two * (middle - two.reference_s),
        rate_ppm=1e6 * ((1 + rate_one) * (1 + rate_two) - 1),
        residual_sd_s=math.hypot(one.residual_sd_s, two.residual_sd_s),
        # The second one's uncertainty is taken where it is largest on the stretch: never too small.
        offset_sd_s=math.hypot(
            one.offset_sd_s,
            two.offset_sd_s,
            1e-6
            * two.rate_sd_ppm
            * (max(abs(first + one.offset_s - two.reference_s), abs(last + one.offset_s - two.reference_s))),
        ),
        degrees=min(one.degrees, two.degrees),
        lost=one.lost if part == 0 else 0,
    )
