"""The outer step where every node hears every other: from where all started and arrived to where all go on."""

from __future__ import annotations

import torch

from clisonix.tide.exchange import average, spread
from clisonix.tide.nodes import Nodes
from clisonix.tide.outer import nesterov_
from clisonix.tide.settings import TideSettings
from clisonix.tide.shared import Shared, State, host_copy, real_view


@torch.no_grad()
def outer_step(nodes: Nodes, shared: Shared, state: State, settings: TideSettings) -> State:
    """One DiLoCo step (Douillard et al. 2023, arXiv 2311.08105), bitwise the same on every node.

    Args:
        nodes: the group.
        shared: the live tensors, where the inner steps left them.
        state: the agreed state those steps started from; not changed, so a failed exchange costs nothing.
        settings: learning rate and momentum.

    Returns:
        The next state.
    """
    after = {name: tensor.clone() for name, tensor in state.items()}
    after["syncs"] += 1
    for piece, mean in average(nodes, shared.trained):
        span = slice(piece.start, piece.stop)
        outer = after[f"outer/{piece.name}"].view(-1)[span]
        momentum = after[f"momentum/{piece.name}"].view(-1)[span]
        # In half precision the inner steps started from the rounded weights; measured from the unrounded
        # ones, the rounding itself would pass for progress and undo every outer step below half an ulp.
        start = outer.to(real_view(shared.trained[piece.name]).dtype)
        gradient = start.to(torch.float64) - mean
        nesterov_(outer.numpy(), momentum.numpy(), gradient.numpy(), settings.outer_lr, settings.outer_momentum)
    for piece, mean in average(nodes, shared.averaged):
        after[f"buffer/{piece.name}"].view(-1)[piece.start : piece.stop] = mean
    copied = {f"buffer/{name}": host_copy(tensor) for name, tensor in shared.copied.items()}
    spread(nodes, copied, source=0)
    return after | copied
