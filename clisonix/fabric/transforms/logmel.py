"""Sound as the ear roughly hears it."""

from __future__ import annotations

import torch
from torch import Tensor

from clisonix.errors import ClisonixError
from clisonix.fabric.transforms.chain import Transform


class LogMel(Transform):
    """Log power in bands that are evenly spaced in mel, over short frames.

    Gives `(batch, channels * bands, frames)`, the bands of each channel together. Frames lie wholly inside the window
    and have a Hann window; a frame with any value that was not measured is masked. Triangular bands of unit height,
    on the mel scale of O'Shaughnessy (1987), `2595 log10(1 + f / 700)`.
    """

    bands_matrix: Tensor
    taper: Tensor

    def __init__(
        self,
        rate_hz: float,
        *,
        bands: int = 40,
        frame_s: float = 0.025,
        hop_s: float = 0.010,
        low_hz: float = 0.0,
        high_hz: float | None = None,
        floor: float = 1e-10,
    ) -> None:
        """Prepare frames and bands.

        Args:
            rate_hz: of the modality.
            bands: how many.
            frame_s: length of a frame.
            hop_s: step between frames.
            low_hz: where the first band begins.
            high_hz: where the last one ends; None is half the rate.
            floor: power below which nothing is told apart.

        Raises:
            ClisonixError: frequencies out of order, or bands so narrow that a frame does not resolve them.
        """
        super().__init__()
        top_hz = rate_hz / 2 if high_hz is None else high_hz
        if not 0 <= low_hz < top_hz <= rate_hz / 2:
            raise ClisonixError(f"bands from {low_hz} to {top_hz} Hz do not lie between 0 and {rate_hz / 2:g} Hz")
        self.frame, self.hop, self.floor = round(frame_s * rate_hz), max(1, round(hop_s * rate_hz)), floor
        frequencies = torch.fft.rfftfreq(self.frame, 1 / rate_hz, dtype=torch.float64)
        edges = _to_hz(torch.linspace(_to_mel(low_hz), _to_mel(top_hz), bands + 2, dtype=torch.float64))
        rising = (frequencies - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
        falling = (edges[2:, None] - frequencies) / (edges[2:] - edges[1:-1])[:, None]
        matrix = torch.minimum(rising, falling).clamp(min=0)
        if (empty := (matrix.sum(1) == 0)).any():
            raise ClisonixError(
                f"{int(empty.sum())} of {bands} mel bands hold no frequency of a frame of {self.frame} samples: take "
                "fewer bands or longer frames"
            )
        self.register_buffer("bands_matrix", matrix.float())
        self.register_buffer("taper", torch.hann_window(self.frame))

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """See `Transform`.

        Raises:
            ClisonixError: a window that is shorter than a frame.
        """
        if x.shape[-1] < self.frame:
            raise ClisonixError(f"a window of {x.shape[-1]} samples is shorter than a frame of {self.frame}")
        frames = x.unfold(-1, self.frame, self.hop) * self.taper
        power = torch.fft.rfft(frames).abs().square() @ self.bands_matrix.T
        kept = mask.unfold(-1, self.frame, self.hop).all(-1)
        y = power.clamp(min=self.floor).log().transpose(-1, -2)
        y = torch.where(kept[:, :, None], y, 0.0)
        return y.flatten(1, 2), kept[:, :, None].expand(y.shape).flatten(1, 2)


def _to_mel(hz: float) -> float:
    return float(2595 * torch.log10(torch.tensor(1 + hz / 700, dtype=torch.float64)))


def _to_hz(mel: Tensor) -> Tensor:
    return 700 * (10 ** (mel / 2595) - 1)
