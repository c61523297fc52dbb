"""Which tokens of a window a model looks at while it learns from a part of them."""

from __future__ import annotations

import torch
from torch import Tensor


def choose_tokens(seen: Tensor, times: Tensor, starts: Tensor, *, keep: float, span: float) -> Tensor:
    """A random share of the tokens of each window, as many for every window, so that none is computed in vain.

    First come measured tokens inside a stretch of the window, then measured ones outside of it, and only then tokens
    with nothing behind them; within each of these every token is as likely. Koutini et al., "Efficient Training of
    Audio Transformers with Patchout" (Interspeech 2022), drop tokens this way; the stretch makes windows short.
    Draws come from torch's generator of the device.

    Args:
        seen: `(batch, tokens)` bool, True where a token was measured.
        times: `(tokens,)` places of the tokens in the window, from 0 to 1.
        starts: `(batch, 1)` where the stretch begins, as a share of the room that it has.
        keep: share of the stretch's tokens to take, above 0, at most 1.
        span: length of the stretch as a share of the window, above 0, at most 1.

    Returns:
        `(batch, k)` indices in rising order, with `k = round(tokens * keep * span)`, at least 1.
    """
    tokens = seen.shape[1]
    begin = starts * (1 - span)
    outside = (times < begin) | (times > begin + span)
    rank = torch.rand(seen.shape, device=seen.device) + outside + 2.0 * ~seen
    chosen = rank.topk(max(1, round(tokens * keep * span)), dim=1, largest=False).indices
    return chosen.sort(dim=1).values
