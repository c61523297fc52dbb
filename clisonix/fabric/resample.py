"""Change the rate of a stream, window by window, as if the whole stream had been changed at once."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from clisonix.errors import ClisonixError
from clisonix.fabric.buffers import Buffers
from clisonix.fabric.order import IntArray
from clisonix.fabric.stream import BoolArray, FloatArray

_CROSSINGS = 20  # zero crossings of the sinc on each side
_STOP_DB = 80.0
_OUTPUTS = 16  # of a block, at least: more multiply more zeros, fewer copy more
_SERIAL = 262_144  # multiplications up to which OpenBLAS keeps to the calling thread
_MOST = 1024  # largest numerator or denominator of a ratio of rates


def kaiser_sinc(up: int, down: int) -> npt.NDArray[np.float64]:
    """Low-pass for a change of rate by `up / down`: linear phase, odd length, gain `up`.

    Kaiser's design (Kaiser 1974): 80 dB down from the smaller Nyquist frequency on, flat to three quarters of it.
    """
    slower = max(up, down)
    half = _CROSSINGS * slower
    beta = 0.1102 * (_STOP_DB - 8.7)
    transition = (_STOP_DB - 7.95) / (2.285 * 2 * half) / np.pi  # of the upsampled Nyquist frequency
    cut = 1 / slower - transition / 2
    n = np.arange(-half, half + 1)
    taps = cut * np.sinc(cut * n) * np.kaiser(2 * half + 1, beta)
    found: npt.NDArray[np.float64] = up * taps / taps.sum()
    return found


class Resampler:
    """Polyphase resampling by `up / down`.

    Output `m` lies at `m / rate_out` seconds after the stream's first sample, wherever a window begins, so windows
    that overlap agree. An output is trusted only if every input that its filter reaches was measured: a gap, and the
    beginning and end of a stream, cost `reach` input samples more on each side.

    Outputs come in blocks, each the product of a stretch of input with one matrix of filter taps, in pieces so small
    that the product stays in the calling thread.
    """

    def __init__(self, rate_in_hz: float, rate_out_hz: float) -> None:
        """Prepare a ratio.

        Raises:
            ClisonixError: the rates are not in a ratio of whole numbers up to 1024.
        """
        ratio = Fraction(rate_out_hz / rate_in_hz).limit_denominator(_MOST)
        up, down = ratio.numerator, ratio.denominator
        if up == 0 or up > _MOST or abs(float(ratio) * rate_in_hz / rate_out_hz - 1) > 1e-9:
            raise ClisonixError(
                f"{rate_in_hz:.12g} Hz cannot be resampled to {rate_out_hz:.12g} Hz: the ratio is none of whole "
                f"numbers up to {_MOST}; bring the stream onto a grid of its nominal rate first"
            )
        self.up, self.down = up, down
        taps = kaiser_sinc(up, down)
        self._half = (len(taps) - 1) // 2
        self.reach = -(-self._half // up)
        self._block = up * -(-_OUTPUTS // up)
        self._advance = self._block // up * down
        first = -(self._half // up)
        last = ((self._block - 1) * down + self._half) // up
        self._first, self._width = first, last - first + 1
        j = np.arange(first, last + 1)[:, None]
        at = self._half + np.arange(self._block) * down - j * up
        inside = (at >= 0) & (at < len(taps))
        matrix = np.where(inside, taps[np.clip(at, 0, len(taps) - 1)], 0.0)
        self._matrix = matrix.astype(np.float32)

    @property
    def block(self) -> int:
        """Outputs that are computed together; a run of outputs costs least if it begins at a multiple of it."""
        return self._block

    def span(self, begin: int, samples: int) -> tuple[int, int]:
        """The input samples `[low, high)` that the outputs `[begin, begin + samples)` are computed from."""
        low = begin // self._block * self._advance + self._first
        return low, low + (self._blocks(samples) - 1) * self._advance + self._width

    def lows(self, begins: IntArray) -> IntArray:
        """The first input of `span` for each of several first outputs."""
        found: IntArray = begins // self._block * self._advance + self._first
        return found

    def outputs(self, begins: IntArray, x: FloatArray, into: FloatArray, scratch: Buffers) -> None:
        """Compute the outputs of several windows.

        Args:
            begins: `(windows,)` index of the first output.
            x: `(windows, channels, high - low)` inputs of `span`, 0 where nothing was measured.
            into: `(windows, channels, samples)`, is written.
            scratch: where memory for what lies between comes from.
        """
        windows, channels, samples = into.shape
        blocks = self._blocks(samples)
        per_window, per_channel, step = x.strides
        every = np.lib.stride_tricks.as_strided(
            x,
            (windows, channels, blocks, self._width),
            (per_window, per_channel, step * self._advance, step),
            writeable=False,
        )
        # The same pieces for every window: its bits do not depend on where in a batch it stands.
        rows = channels * blocks
        pieces = -(-rows * self._matrix.size // _SERIAL)
        each = -(-rows // pieces)
        stretches, _ = scratch.take("stretches", (windows, pieces * each, self._width))
        stretches[:, rows:] = 0.0
        stretches[:, :rows].reshape(windows, channels, blocks, self._width)[...] = every
        y, _ = scratch.take("outputs", (windows * pieces, each, self._block))
        np.matmul(stretches.reshape(windows * pieces, each, self._width), self._matrix, out=y)
        y = y.reshape(windows, pieces * each, self._block)[:, :rows].reshape(windows, channels, -1)
        for row, made, begin in zip(into, y, begins.tolist(), strict=True):
            skip = begin % self._block
            row[...] = made[:, skip : skip + samples]

    def trusted(self, begin: int, measured: BoolArray, samples: int) -> BoolArray:
        """Which outputs rest on measured inputs alone, `(channels, samples)`.

        Args:
            begin: index of the first output.
            measured: `(channels, high - low)` mask of the inputs of `span`.
            samples: number of outputs.
        """
        low, _ = self.span(begin, samples)
        missing = np.zeros((len(measured), measured.shape[1] + 1), np.int64)
        np.cumsum(~measured, axis=1, out=missing[:, 1:])
        at = (begin + np.arange(samples)) * self.down
        first = -((self._half - at) // self.up) - low
        last = (at + self._half) // self.up - low
        found: BoolArray = missing[:, last + 1] == missing[:, first]
        return found

    def _blocks(self, samples: int) -> int:
        """Blocks that hold any run of `samples` outputs."""
        return -(-(samples - 1) // self._block) + 1


@lru_cache(maxsize=64)
def resampler(rate_in_hz: float, rate_out_hz: float) -> Resampler:
    """The resampler of two rates; streams of equal rates share one."""
    return Resampler(rate_in_hz, rate_out_hz)
