"""AdamW for the parameters that are not matrices, by torch's own multi-tensor function."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from clisonix.train.optim.eightbit import MEAN, SQUARE, pack, unpack
from clisonix.train.optim.work import Group, Work, in_bytes, local, zeros_for


def step_adamw(works: list[Work], group: Group) -> None:
    """Loshchilov and Hutter, "Decoupled Weight Decay Regularization" (ICLR 2019)."""
    whole = [work for work in works if not in_bytes(work, group)]
    for work in whole:
        if "exp_avg" not in work.state:
            work.state.update(step=torch.tensor(0.0), exp_avg=zeros_for(work), exp_avg_sq=zeros_for(work))
    if whole:
        means, squares = ([local(work.state[key]) for work in whole] for key in ("exp_avg", "exp_avg_sq"))
        _run(whole, means, squares, group)
    # One after the other, so that only one of them is unpacked at a time.
    for work in works:
        if in_bytes(work, group):
            _step_packed(work, group)


def _step_packed(work: Work, group: Group) -> None:
    state = work.state
    if "exp_avg" in state:
        mean = unpack(state["exp_avg"], state["exp_avg_scale"], MEAN)
        square = unpack(state["exp_avg_sq"], state["exp_avg_sq_scale"], SQUARE)
    else:
        mean, square = torch.zeros_like(work.value), torch.zeros_like(work.value)
        state["step"] = torch.tensor(0.0)
    _run([work], [mean], [square], group)
    step = int(state["step"])
    state["exp_avg"], state["exp_avg_scale"] = pack(mean, step, MEAN)
    state["exp_avg_sq"], state["exp_avg_sq_scale"] = pack(square, step, SQUARE)


def _run(works: list[Work], means: list[Tensor], squares: list[Tensor], group: Group) -> None:
    adamw(
        [work.value for work in works],
        [work.grad for work in works],
        means,
        squares,
        [],
        [work.state["step"] for work in works],
        foreach=True,
        amsgrad=False,
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        lr=float(group["lr"]),
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=False,
    )
