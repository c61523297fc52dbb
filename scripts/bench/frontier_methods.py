"""Ways to bring the layers of a model to so many bits a weight: the published ones and ours, one layer at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clisonix.compress.layers import LiamLinear
from clisonix.liam import LowRank, Matrix, svd_compress
from clisonix.liam.factorize import factorize

PLACES = ("attention.qkv", "attention.out", "wide", "narrow")


@dataclass
class Seen:
    """What a layer saw: `inputs (n, n)` is the second moment of its inputs, `outputs (m,)` its gradients' squares."""

    inputs: Tensor
    outputs: Tensor


@dataclass
class Packed:
    """A weight as its storage gives it back, and the bits it takes, scales and all."""

    weight: Tensor | Matrix
    bits: int


Method = Callable[[Tensor, Seen], Packed]


def layers(block: nn.Module) -> dict[str, nn.Linear]:
    """The layers of a block that are compressed."""
    return {name: block.get_submodule(name) for name in PLACES}  # type: ignore[misc]


def inputs_of(model: nn.Module, block: nn.Module, calibration: Tensor) -> dict[str, Tensor]:
    """The second moments of the inputs of each layer of `block`, as they are now."""
    moments: dict[str, Tensor] = {}
    count = 0

    def hook(_: nn.Module, args: tuple[Tensor], name: str) -> None:
        rows = args[0].detach().flatten(0, -2).double()
        moments[name] = moments.get(name, 0) + rows.mT @ rows

    handles = [m.register_forward_pre_hook(partial(hook, name=n)) for n, m in layers(block).items()]
    with torch.no_grad():
        for batch in calibration.split(32):
            model(batch[:, :-1])
            count += batch[:, :-1].numel()
    for handle in handles:
        handle.remove()
    return {name: (moment / count).float() for name, moment in moments.items()}


def output_weights(model: nn.Module, calibration: Tensor) -> list[dict[str, Tensor]]:
    """For each block and layer the mean square of the loss's gradient by each output: `(m,)`."""
    found: list[dict[str, Tensor]] = []
    handles = []
    for block in model.blocks:
        squares: dict[str, Tensor] = {}
        found.append(squares)
        for name, layer in layers(block).items():

            def hook(_: nn.Module, args: object, out: tuple[Tensor], name: str = name, into: dict = squares) -> None:
                into[name] = into.get(name, 0) + out[0].flatten(0, -2).double().square().sum(0)

            handles.append(layer.register_full_backward_hook(hook))
    for batch in calibration.split(16):
        # The model's own distribution, not the label, says what matters: the Fisher information.
        logits = model(batch[:, :-1])
        drawn = torch.distributions.Categorical(logits=logits.detach()).sample()
        F.cross_entropy(logits.flatten(0, 1), drawn.flatten(), reduction="sum").backward()
    model.zero_grad(set_to_none=True)
    for handle in handles:
        handle.remove()
    return [{name: value.float() for name, value in squares.items()} for squares in found]


def compressed(model: nn.Module, calibration: Tensor, outputs: list[dict[str, Tensor]], method: Method) -> nn.Module:
    """`model` block by block, each seeing what the blocks before it give once they are compressed.

    The result's `bits` is what all compressed weights take together, divided by their number.
    """
    small = copy.deepcopy(model)
    bits = entries = 0
    for block, weights in zip(small.blocks, outputs, strict=True):
        moments = inputs_of(small, block, calibration)
        for name, layer in layers(block).items():
            weight = layer.weight.detach()
            packed = method(weight, Seen(moments[name], weights[name]))
            bits, entries = bits + packed.bits, entries + weight.numel()
            if isinstance(packed.weight, Matrix):
                parent, _, child = name.rpartition(".")
                setattr(
                    block.get_submodule(parent),
                    child,
                    LiamLinear(packed.weight, layer.bias, dtype=layer.weight.dtype),
                )
            else:
                layer.weight = nn.Parameter(packed.weight)
    small.bits = bits / entries
    return small


def ours(weight: Tensor, seen: Seen, bits: float, forms: tuple[str, ...] | None = None) -> Packed:
    """The best form of the algebra; numbers that are not packed are float16 in storage."""
    found = factorize(
        weight, bits, moments=seen.inputs, output_weights=seen.outputs, forms=forms, dtype=torch.float16
    )
    return Packed(found, 8 * found.nbytes)


def svd(weight: Tensor, seen: Seen, bits: float, whiten: bool) -> Packed:
    """Two float16 factors of the largest rank that fits; whitened as in SVD-LLM (Wang et al., ICLR 2025)."""
    m, n = weight.shape
    rank = max(1, int(bits * m * n / 16 / (m + n)))
    found: LowRank = svd_compress(weight, k=rank, whiten=seen.inputs if whiten else None).half()
    return Packed(found.left.detach().float() @ found.right.detach().float(), 16 * rank * (m + n))


def gptq(weight: Tensor, seen: Seen, bits: int, group: int, symmetric: bool, act_order: bool) -> Packed:
    """Frantar et al., "GPTQ", ICLR 2023: columns in turn, the error of each passed on to those not yet rounded.

    As in the authors' program: 1 % of the mean diagonal is added to the Hessian, scales of a group are taken
    from its weights as they are when it is reached (from the original ones with `act_order`, which goes from
    the largest diagonal entry down), and each is the best of a few that clip the range.
    """
    w, h = weight.double().clone(), seen.inputs.double().clone()
    m, n = w.shape
    dead = h.diagonal() == 0
    h.diagonal()[dead] = 1
    w[:, dead] = 0
    order = h.diagonal().argsort(descending=True) if act_order else torch.arange(n)
    fixed = [_grid(w[:, start : start + group], bits, symmetric) for start in range(0, n, group)] if act_order else []
    w, h = w[:, order], h[order][:, order]
    h.diagonal().add_(0.01 * h.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(h))
    upper = torch.linalg.cholesky(inverse, upper=True)
    out = torch.empty_like(w)
    for i in range(n):
        if act_order:
            scale, zero = fixed[int(order[i]) // group]
        elif i % group == 0:
            scale, zero = _grid(w[:, i : i + group], bits, symmetric)
        out[:, i] = _rounded(w[:, i : i + 1], scale, zero, bits)[:, 0]
        passed_on = (w[:, i] - out[:, i]) / upper[i, i]
        w[:, i + 1 :] -= passed_on[:, None] * upper[i, i + 1 :]
    groups = -(-n // group)
    taken = bits * m * n + m * groups * (16 if symmetric else 16 + bits)
    return Packed(out[:, order.argsort()].to(weight.dtype), taken)


def _grid(w: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    """Scale and zero point `(m, 1)` of each row with the least error |w - rounded|^2.4, the authors' choice."""
    top = 2**bits - 1
    low, high = w.amin(1, keepdim=True).clamp(max=0), w.amax(1, keepdim=True).clamp(min=0)
    if symmetric:
        high = torch.maximum(low.abs(), high)
        low = -high
    best, scale, zero = torch.full_like(low, torch.inf), torch.ones_like(low), torch.zeros_like(low)
    for shrink in torch.linspace(1.0, 0.2, 81).tolist():
        # Scales are stored in float16, so they are tried as such.
        size = ((high - low) * shrink / top).half().double()
        size = torch.where(size == 0, 1.0, size)
        middle = torch.full_like(size, (top + 1) / 2) if symmetric else (-low * shrink / size).round().clamp(0, top)
        error = (_rounded(w, size, middle, bits) - w).abs().pow(2.4).sum(1, keepdim=True)
        better = error < best
        best, scale, zero = (torch.where(better, a, b) for a, b in ((error, best), (size, scale), (middle, zero)))
    return scale, zero


def _rounded(w: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    return scale * ((w / scale + zero).round().clamp(0, 2**bits - 1) - zero)


def gptq_kinds(bits: float) -> dict[str, Method]:
    """Every setting of GPTQ that fits so many bits: the best of them is what ours is held against."""
    whole = int(bits)
    if bits - whole < 0.25 or whole < 2:
        return {}
    kinds = {}
    for act_order in (False, True):
        tail = ", act order" if act_order else ""
        kinds[f"GPTQ group 64, symmetric{tail}"] = partial(
            gptq, bits=whole, group=64, symmetric=True, act_order=act_order
        )
        kinds[f"GPTQ group 96, asymmetric{tail}"] = partial(
            gptq, bits=whole, group=96, symmetric=False, act_order=act_order
        )
    return kinds
