"""Filters without a shift in time, applied to each window by itself."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from clisonix.errors import ClisonixError
from clisonix.fabric.transforms.chain import Transform


class Fir(Transform):
    """A symmetric filter, so every frequency stays where it is in time.

    Windows are filtered by themselves, since a shuffled order has no neighbours that a recursive filter's state could
    come from. A result that is closer to a value that was not measured than `reach` samples is masked, so nothing
    unmeasured enters a result. What counts beyond the ends of a window is for `edge` to say: `reflect` continues the
    signal by point reflection, as is usual; `mask` masks `reach` samples at each end, for windows cut that much
    longer.
    """

    taps: Tensor

    def __init__(self, taps: Tensor, *, edge: Literal["reflect", "mask"] = "reflect") -> None:
        """Take the taps.

        Args:
            taps: `(length,)` symmetric, odd length.
            edge: what lies beyond a window.

        Raises:
            ClisonixError: an even number of taps, taps that are not symmetric, or an unknown edge.
        """
        super().__init__()
        if taps.ndim != 1 or len(taps) % 2 == 0 or not torch.allclose(taps, taps.flip(0)):
            raise ClisonixError(f"filter taps have shape {tuple(taps.shape)}, expected an odd symmetric vector")
        if edge not in ("reflect", "mask"):
            raise ClisonixError(f"edge is {edge!r}, expected 'reflect' or 'mask'")
        self.register_buffer("taps", taps.to(torch.float32))
        self.edge = edge

    @property
    def reach(self) -> int:
        """Samples on each side that a result depends on."""
        return len(self.taps) // 2

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """See `Transform`.

        Raises:
            ClisonixError: a window that is not longer than the filter reaches.
        """
        reach, samples = self.reach, x.shape[-1]
        if samples <= reach:
            raise ClisonixError(
                f"a window of {samples} samples is too short for a filter that reaches {reach} to each side: cut "
                "longer windows or allow a wider transition"
            )
        lost = (~mask).to(x.dtype)
        if self.edge == "reflect":
            # Reflecting about a value that was not measured would spread its 0; those results are masked below.
            head = 2 * x[..., :1] - x[..., 1 : reach + 1].flip(-1)
            tail = 2 * x[..., -1:] - x[..., -reach - 1 : -1].flip(-1)
            padded = torch.cat([head, x, tail], -1)
            lost = torch.cat([lost[..., 1 : reach + 1].flip(-1), lost, lost[..., -reach - 1 : -1].flip(-1)], -1)
        else:
            padded, lost = F.pad(x, (reach, reach)), F.pad(lost, (reach, reach), value=1.0)
        size = 1 << math.ceil(math.log2(padded.shape[-1] + 2 * reach))
        spectrum = torch.fft.rfft(padded, size) * torch.fft.rfft(self.taps, size)
        y = torch.fft.irfft(spectrum, size)[..., 2 * reach : 2 * reach + samples]
        near = F.max_pool1d(lost, 2 * reach + 1, stride=1) if reach else lost
        kept = near == 0
        return torch.where(kept, y, 0.0), kept


def band_pass(
    rate_hz: float,
    low_hz: float | None,
    high_hz: float | None,
    *,
    transition_hz: float | None = None,
    edge: Literal["reflect", "mask"] = "reflect",
) -> Fir:
    """Keep what lies between two frequencies.

    A sinc with a Hamming window (Oppenheim and Schafer), 53 dB down beyond the transition, of `3.3 / transition_hz`
    seconds; half its gain at the frequencies given.

    Args:
        rate_hz: of the modality.
        low_hz: lower edge; None keeps everything below `high_hz`.
        high_hz: upper edge; None keeps everything above `low_hz`.
        transition_hz: width from passing to stopping; None takes half the lower edge, at least 1 Hz.
        edge: see `Fir`.

    Raises:
        ClisonixError: edges that are not ordered between 0 and half the rate.
    """
    edges = [f for f in (low_hz, high_hz) if f is not None]
    if not edges or not all(a < b for a, b in zip([0.0, *edges], [*edges, rate_hz / 2], strict=True)):
        raise ClisonixError(f"a band from {low_hz} to {high_hz} Hz does not lie between 0 and {rate_hz / 2:g} Hz")
    width_hz = max(1.0, (low_hz or edges[0]) / 2) if transition_hz is None else transition_hz
    half = _half_length(rate_hz, width_hz)
    high = _low_pass(high_hz, rate_hz, half) if high_hz is not None else _delta(half)
    taps = high if low_hz is None else high - _low_pass(low_hz, rate_hz, half)
    return Fir(taps, edge=edge)


def notch(
    rate_hz: float,
    line_hz: float,
    *,
    width_hz: float = 2.0,
    transition_hz: float = 2.0,
    edge: Literal["reflect", "mask"] = "reflect",
) -> Fir:
    """Take out the hum of the mains: a band-stop of `width_hz` about `line_hz`, designed like `band_pass`.

    Raises:
        ClisonixError: a band that does not lie between 0 and half the rate.
    """
    low_hz, high_hz = line_hz - width_hz / 2, line_hz + width_hz / 2
    if not 0 < low_hz < high_hz < rate_hz / 2:
        raise ClisonixError(f"a notch at {low_hz:g} to {high_hz:g} Hz does not lie between 0 and {rate_hz / 2:g} Hz")
    half = _half_length(rate_hz, transition_hz)
    return Fir(_delta(half) - _low_pass(high_hz, rate_hz, half) + _low_pass(low_hz, rate_hz, half), edge=edge)


def _half_length(rate_hz: float, transition_hz: float) -> int:
    if not transition_hz > 0:
        raise ClisonixError(f"transition_hz is {transition_hz}, expected a positive number of Hz")
    return math.ceil(1.65 / transition_hz * rate_hz)


def _low_pass(cut_hz: float, rate_hz: float, half: int) -> Tensor:
    """Unit gain at 0 Hz."""
    n = torch.arange(-half, half + 1, dtype=torch.float64)
    share = 2 * cut_hz / rate_hz
    window = 0.54 + 0.46 * torch.cos(math.pi * n / half)
    taps = share * torch.sinc(share * n) * window
    return taps / taps.sum()


def _delta(half: int) -> Tensor:
    return F.one_hot(torch.tensor(half), 2 * half + 1).to(torch.float64)
