"""One scale for a modality, found once and kept."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from clisonix.errors import ClisonixError
from clisonix.fabric.transforms.chain import Transform
from clisonix.fabric.window import Window


class RobustScale(Transform):
    """Subtract each channel's median and divide by its interquartile range, found once on training windows.

    Outliers hardly move either. What was found is saved with `state_dict`, so test windows and later runs are scaled
    by the same numbers.
    """

    center: Tensor
    spread: Tensor
    fitted: Tensor

    def __init__(self, channels: int, *, limit: float | None = None) -> None:
        """Begin unfitted.

        Args:
            channels: of the modality.
            limit: results are clipped to within plus and minus this; None leaves them.
        """
        super().__init__()
        self.limit = limit
        self.register_buffer("center", torch.zeros(channels))
        self.register_buffer("spread", torch.ones(channels))
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))

    @torch.no_grad()
    def fit(self, batches: Iterable[Window], modality: str, *, values: int = 200_000) -> RobustScale:
        """Find median and interquartile range of the measured values.

        Args:
            batches: of training windows; no more are taken than needed.
            modality: its name.
            values: enough for each channel; memory grows with it.

        Raises:
            ClisonixError: another number of channels, or a channel without any measured value.
        """
        channels = len(self.center)
        found: list[list[Tensor]] = [[] for _ in range(channels)]
        count = [0] * channels
        for batch in batches:
            x, mask = batch["streams"][modality], batch["masks"][modality]
            if x.shape[1] != channels:
                raise ClisonixError(f"{modality} has {x.shape[1]} channels, this scale has {channels}")
            for c in range(channels):
                if count[c] < values:
                    found[c].append(x[:, c][mask[:, c]][: values - count[c]].double().cpu())
                    count[c] += len(found[c][-1])
            if min(count) >= values:
                break
        for c in range(channels):
            if not count[c]:
                raise ClisonixError(f"channel {c} of {modality} has no measured value to fit a scale to")
            ordered = torch.cat(found[c]).sort().values
            low, middle, high = (_quantile(ordered, q) for q in (0.25, 0.5, 0.75))
            self.center[c] = middle
            # A channel that never changes has nothing to be scaled by.
            self.spread[c] = high - low if high > low else 1.0
        self.fitted.fill_(True)
        return self

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """See `Transform`.

        Raises:
            ClisonixError: `fit` was not called and no fitted state was loaded.
        """
        if not self.fitted:
            raise ClisonixError("this RobustScale was not fitted: call fit, or load the state of one that was")
        y = (x - self.center[:, None]) / self.spread[:, None]
        if self.limit is not None:
            y = y.clamp(-self.limit, self.limit)
        return torch.where(mask, y, 0.0), mask


def _quantile(ordered: Tensor, q: float) -> float:
    """With linear interpolation; `torch.quantile` refuses more than 16 million values."""
    at = q * (len(ordered) - 1)
    below = int(at)
    above = min(below + 1, len(ordered) - 1)
    return float(ordered[below] + (at - below) * (ordered[above] - ordered[below]))
