"""A device's clock followed while its packets arrive: only the past is known."""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from clisonix.errors import ClisonixError
from clisonix.fabric.clocks.clock import Clock, Segment
from clisonix.fabric.clocks.device import WIDTH
from clisonix.fabric.clocks.line import MAD_TO_SD

_FIRST_SD_S = 0.03  # delay of radio packets, until enough have been seen
_SETTLING = 20  # packets that are taken as they are
_MEMORY = 500  # packets over which the scale of delays is averaged
_STEP = 3.0  # of the logarithm of the scale, over the packets seen
_CONFIRM = 5  # packets that must agree before a clock counts as set anew
_LATE_S = 10.0  # a packet that comes later than this was not just held up
_BLOCK_S = 2.0  # longer than delays of a radio last
_SHARED_S = 0.5  # how long packets share a delay, until blocks have told
_BLOCKS = 30  # over which they tell
_REFRESH = 4096  # packets after which sums are made again, so that rounding does not pile up


class CausalClock:
    """Maps device stamps to the host's time, packet by packet.

    A line of arrival minus device time over the last `window_s`, in which delays beyond 2 standard deviations
    count as 2 (so a burst cannot pull it), and the rate is held to `0 ± rate_ppm`, which a crystal keeps: without
    that the newest end of the line, the one in use, is its least certain point. Each packet costs the same.

    The mean delay of the radio is in the mapping: it cannot be seen in arrivals.

    Example:
        >>> clock = CausalClock()
        >>> round(clock.push(device_s=7.0, arrival_s=1000.02), 6)
        1000.02
    """

    def __init__(self, *, window_s: float = 30.0, rate_ppm: float = 100.0, reset_s: float = 1.0) -> None:
        """Start with no packets.

        Args:
            window_s: how long a packet counts.
            rate_ppm: standard deviation of what the device's rate may be off.
            reset_s: an arrival this far off, shared by the next packets for as long, means the device started anew.

        Raises:
            ClisonixError: a value that is not positive.
        """
        for name, value in (("window_s", window_s), ("rate_ppm", rate_ppm), ("reset_s", reset_s)):
            if not (math.isfinite(value) and value > 0):
                raise ClisonixError(f"{name} is {value}, expected a positive number")
        self.window_s, self.rate_ppm, self.reset_s = window_s, rate_ppm, reset_s
        self._closed: list[Segment] = []
        self._strays: list[tuple[float, float]] = []
        self._restart()

    @property
    def uncertainty_s(self) -> float:
        """Standard error of the mapping at the newest packet; infinite before the first."""
        if not self._points:
            return math.inf
        return math.hypot(self._level_sd(), self._slope_sd() * (self._newest - self._centre))

    def push(self, device_s: float, arrival_s: float) -> float:
        """Take one packet and map its stamp with all that is known now.

        Args:
            device_s: the device's stamp; may be older than the last one's.
            arrival_s: when it arrived, on the host's clock.

        Returns:
            The packet's time on the host's clock. Later packets may move the mapping a little, so returned times
            are not strictly in the order of stamps where those are close.

        Raises:
            ClisonixError: a stamp that is not finite.
        """
        if not (math.isfinite(device_s) and math.isfinite(arrival_s)):
            raise ClisonixError(f"a packet has the stamps {device_s} and {arrival_s}, expected finite numbers")
        if not self._points:
            self._origin, self._base = device_s, arrival_s - device_s
        own, offset = device_s - self._origin, arrival_s - device_s - self._base
        error = offset - self._predict(own) if self._points else 0.0
        if abs(error) > self.reset_s:
            return self._stray(device_s, arrival_s, error)
        self._strays.clear()
        self._learn(own, offset, error)
        return device_s + self._base + self._predict(own)

    def clock(self) -> Clock:
        """What is known now, as a clock: a segment for each start of the device.

        Raises:
            ClisonixError: no packet has come yet.
        """
        if not self._points:
            raise ClisonixError("the clock has seen no packet yet; push one first")
        return Clock((*self._closed, self._segment()), method="device stamps as they came")

    def _restart(self) -> None:
        self._points: deque[tuple[float, float]] = deque()
        self._sums = np.zeros(5)  # 1, x, y, x², xy
        self._origin = self._base = 0.0
        self._centre = self._level = self._slope = self._newest = 0.0
        self._first = math.inf
        self._seen = 0
        self._spread = 0.0
        self._sd = _FIRST_SD_S
        # Mean errors of some seconds tell how much packets of one burst share their delay.
        self._ratio, self._block, self._block_sum, self._block_count = 10.0, -math.inf, 0.0, 0
        self._blocks = 0

    def _predict(self, own: float) -> float:
        return self._level + self._slope * (own - self._centre)

    def _learn(self, own: float, offset: float, error: float) -> None:
        if self._seen >= _SETTLING:
            limit = WIDTH * self._sd
            offset += min(max(error, -limit), limit) - error
        if self._seen:
            # Steps up and down balance where half of the errors are smaller: the scale that the offline line uses.
            larger = abs(error) > self._sd / MAD_TO_SD
            self._sd *= math.exp((1.0 if larger else -1.0) * _STEP / min(self._seen + 10, _MEMORY))
            self._learn_ratio(own, min(max(error, -2 * self._sd), 2 * self._sd))
        self._seen += 1
        self._first, self._newest = min(self._first, own), max(self._newest, own) if self._points else own
        self._points.append((own, offset))
        self._sums += _terms(own, offset)
        while len(self._points) > 1 and self._points[0][0] < self._newest - self.window_s:
            self._sums -= _terms(*self._points.popleft())
        if self._seen % _REFRESH == 0:
            self._recentre()
        count, x, y, xx, xy = self._sums.tolist()
        self._centre, self._level = x / count, y / count
        spread = max(xx - x * x / count, 0.0)
        self._spread = spread
        self._slope = (xy - x * y / count) / (spread + self._variance() / (1e-6 * self.rate_ppm) ** 2)

    def _learn_ratio(self, own: float, error: float) -> None:
        if own >= self._block + _BLOCK_S:
            if self._block_count:
                found = self._block_sum**2 / self._block_count / max(self._sd, 1e-12) ** 2
                self._ratio += (min(found, 100.0) - self._ratio) / _BLOCKS
                self._blocks += 1
            self._block, self._block_sum, self._block_count = own, 0.0, 0
        self._block_sum += error
        self._block_count += 1

    def _variance(self) -> float:
        """Of one packet's delay, times the number of packets that share theirs."""
        return max(self._ratio, 1.0) * self._sd**2

    def _level_sd(self) -> float:
        # Few blocks say little about what packets share, and a short stretch may be one delay: never too sure early.
        span_s = max(self._newest - self._first, 1e-9)
        shared = min(_SHARED_S * len(self._points) / span_s, len(self._points)) / (
            1 + self._blocks * _BLOCK_S / _BLOCKS
        )
        return self._sd * math.sqrt(max(self._ratio, shared, 1.0) / len(self._points))

    def _slope_sd(self) -> float:
        return 1.0 / math.sqrt((1e6 / self.rate_ppm) ** 2 + self._spread / max(self._variance(), 1e-30))

    def _recentre(self) -> None:
        shift = self._points[0][0]
        self._points = deque((x - shift, y) for x, y in self._points)
        self._sums = np.sum([_terms(x, y) for x, y in self._points], axis=0)
        self._origin, self._newest, self._first = self._origin + shift, self._newest - shift, self._first - shift
        self._block -= shift

    def _stray(self, device_s: float, arrival_s: float, error: float) -> float:
        """A packet far off: held up, damaged, or the first of a new start of the device."""
        offset = arrival_s - device_s
        if self._strays and abs(offset - (self._strays[-1][1] - self._strays[-1][0])) > self.reset_s:
            self._strays.clear()
        self._strays.append((device_s, arrival_s))
        # A radio that was held up delivers all at once; a new start goes on being off.
        if len(self._strays) >= _CONFIRM and arrival_s - self._strays[0][1] > self.reset_s:
            strays = self._strays
            self._strays = []
            self._closed.append(self._segment())
            self._restart()
            return [self.push(*stray) for stray in strays][-1]
        if 0 < error < _LATE_S:
            return device_s + self._base + self._predict(device_s - self._origin)
        return arrival_s

    def _segment(self) -> Segment:
        return Segment(
            first_s=self._origin + self._first,
            last_s=self._origin + self._newest,
            reference_s=self._origin + self._centre,
            offset_s=self._base + self._level,
            rate_ppm=1e6 * self._slope,
            residual_sd_s=self._sd,
            offset_sd_s=self._level_sd(),
            rate_sd_ppm=1e6 * self._slope_sd(),
            degrees=max(len(self._points) / max(self._ratio, 1.0) - 2.0, 1.0),
            measurements=self._seen,
        )


def _terms(x: float, y: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([1.0, x, y, x * x, x * y])
