"""What comes out of the fabric: one window, or a batch of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NotRequired, TypedDict

import torch
from torch import Tensor


class Window(TypedDict):
    """One window, or a batch of them with a leading batch dimension.

    `streams[m]` is `(channels, time)` float32 with 0 where nothing was measured, `masks[m]` is the same shape,
    True where a value was measured; it is a view of a single True where everything was, so `clone` it to write into
    it. `t0_s` is the start on the recording's clock, `label` the class index or -1, `window` the row of the window
    table (provenance: `fabric.table`), `weight` is 1, or 0 for a window that only fills up the last batch of a rank.
    """

    streams: dict[str, Tensor]
    masks: dict[str, Tensor]
    t0_s: Tensor
    label: Tensor
    window: Tensor
    weight: NotRequired[Tensor]


def apart(batch: Window, sizes: list[int] | None = None) -> list[Window]:
    """Batches of the given sizes out of one, or its windows without a batch dimension."""

    def parts(x: Tensor) -> Sequence[Tensor]:
        return x.unbind() if sizes is None else torch.split(x, sizes)

    count = len(batch["label"]) if sizes is None else len(sizes)
    streams = {name: parts(x) for name, x in batch["streams"].items()}
    masks = {name: parts(x) for name, x in batch["masks"].items()}
    rest = zip(*(parts(batch[k]) for k in ("t0_s", "label", "window", "weight")), strict=True)
    return [
        Window(
            streams={name: x[i] for name, x in streams.items()},
            masks={name: x[i] for name, x in masks.items()},
            t0_s=t0_s,
            label=label,
            window=window,
            weight=weight,
        )
        for i, (t0_s, label, window, weight) in zip(range(count), rest, strict=True)
    ]
