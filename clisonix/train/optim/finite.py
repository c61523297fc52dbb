"""Whether gradients are finite, with one wait for the device."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from clisonix.train.optim.work import Work, is_sharded


def not_finite(works: Sequence[Work]) -> str | None:
    """The name of the first parameter whose gradient has a NaN or an infinity, or None.

    With `DTensor`s all ranks answer alike, so that none waits for another that has stopped; a rank on which nothing
    is wrong names nobody in particular.
    """
    if not works:
        return None
    by_device: dict[torch.device, list[Work]] = {}
    for work in works:
        if work.grad.numel():
            by_device.setdefault(work.grad.device, []).append(work)
    bad: str | None = None
    for there in by_device.values():
        sizes = torch.stack(torch._foreach_norm([work.grad for work in there], math.inf))
        finite = sizes.isfinite()
        if not bool(finite.all()):
            bad = bad or there[finite.tolist().index(False)].name
    return _agreed(works, bad)


def _agreed(works: Sequence[Work], bad: str | None) -> str | None:
    meshes = {work.parameter.device_mesh for work in works if is_sharded(work.parameter)}  # type: ignore[attr-defined]
    if not meshes:
        return bad
    import torch.distributed as dist

    for mesh in sorted(meshes, key=str):
        flag = torch.tensor(float(bad is not None), device=mesh.device_type)
        for dim in range(mesh.ndim):
            dist.all_reduce(flag, dist.ReduceOp.MAX, group=mesh.get_group(dim))
        if bool(flag) and bad is None:
            bad = "a parameter on another rank"
    return bad
