"""The optimiser `Spectral`: orthogonalised momentum for matrices and products of factors, AdamW for the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any, Literal, cast, overload

import torch
from torch import Tensor, nn

from clisonix.errors import ClisonixError, nearest
from clisonix.kernels.newton_schulz import COEFFICIENTS
from clisonix.train.optim.adamw import step_adamw
from clisonix.train.optim.finite import not_finite
from clisonix.train.optim.groups import parameter_groups
from clisonix.train.optim.matrices import step_matrices
from clisonix.train.optim.pairs import step_pairs
from clisonix.train.optim.work import Group, Work, is_sharded, local, name_of, open_works

KINDS = ("matrix", "lowrank", "adamw")
NonFinite = Literal["raise", "skip", "ignore"]


class Spectral(torch.optim.Optimizer):
    """Muon for the matrices of a model, its form for low-rank factors, and AdamW for everything else.

    A matrix moves by `lr * ratio` times its orthogonalised momentum (Jordan et al., "Muon: an optimizer for hidden
    layers in neural networks", 2024), whatever the size of its gradient; all matrices of one shape are iterated at
    once. Factors of a `LowRank` move so that their product does the same. Weight decay is decoupled.

    Every step computes in float32 or wider and keeps state in that type; parameters of bfloat16 or float16 are
    rounded once at its end. Parameters may be `DTensor`s (`fully_shard`, tensor parallelism).

    Args:
        params: a model, which is grouped by `parameter_groups`; groups of it or of your own, with `kind` one of
            `"matrix"`, `"lowrank"` (left factor, right factor, left factor, ...) and `"adamw"`; or parameters, named
            or not, of which those with two or more axes are matrices. A matrix group may say `pieces` and `stack`, as
            those of `parameter_groups` do.
        lr: learning rate. With the default `adjust_lr` one that suits AdamW suits all groups.
        adamw_lr: of the AdamW groups; None is `lr`.
        momentum: of matrices and factors.
        nesterov: look one step ahead.
        weight_decay: as in `torch.optim.AdamW`: each step takes `lr * weight_decay` of a parameter away.
        betas: of AdamW.
        eps: of AdamW.
        adjust_lr: `"match_rms_adamw"`: the ratio is `0.2 sqrt(max(m, n))`, at which entries move as far as they do
            under AdamW (Liu et al., arXiv 2502.16982). `"original"`: `sqrt(max(1, m / n))`. None: 1.
        ns_steps: Newton-Schulz steps.
        ns_coefficients: of its quintic.
        ns_eps: the least norm that a matrix is divided by.
        ns_dtype: it computes in; None is bfloat16 on a GPU and the type of the step elsewhere.
        state_bits: 32, or 8 to keep momentum and AdamW's averages of parameters with 4096 or more entries in one byte
            an entry. State of `DTensor`s is not packed.
        nonfinite: what a NaN or an infinity among the gradients does: `"raise"` names the parameter, with nothing
            changed; `"skip"` leaves this step out and counts it in `skipped`; `"ignore"` does not look, which saves a
            GPU one wait a step.
        ranks: process group over which replicated parameters (DDP) are dealt out, so that each rank orthogonalises
            its share; None does all on every rank.

    Attributes:
        skipped: steps left out because of gradients that were not finite.

    Raises:
        ClisonixError: a setting or a group that makes no sense.
    """

    def __init__(
        self,
        params: nn.Module | Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Iterable[dict[str, Any]],
        lr: float | Tensor = 1e-3,
        *,
        adamw_lr: float | None = None,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        adjust_lr: Literal["match_rms_adamw", "original"] | None = "match_rms_adamw",
        ns_steps: int = 5,
        ns_coefficients: tuple[float, float, float] = COEFFICIENTS,
        ns_eps: float = 1e-7,
        ns_dtype: torch.dtype | None = None,
        state_bits: Literal[8, 32] = 32,
        nonfinite: NonFinite = "raise",
        ranks: Any = None,  # noqa: ANN401 - a process group has no public type
    ) -> None:
        if nonfinite not in ("raise", "skip", "ignore"):
            raise ClisonixError(
                f"nonfinite={nonfinite!r} is unknown{nearest(nonfinite, ('raise', 'skip', 'ignore'))}."
            )
        self.nonfinite, self.ranks, self.skipped = nonfinite, ranks, 0
        self._adamw_lr = adamw_lr
        settings = {
            "kind": "matrix",
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "betas": betas,
            "eps": eps,
            "adjust_lr": adjust_lr,
            "ns_steps": ns_steps,
            "ns_coefficients": ns_coefficients,
            "ns_eps": ns_eps,
            "ns_dtype": ns_dtype,
            "state_bits": state_bits,
            "pieces": 1,
            "stack": False,
        }
        super().__init__(_as_groups(params), settings)

    groups = staticmethod(parameter_groups)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; without `kind`, parameters that all have two or more axes are matrices.

        Raises:
            ClisonixError: a setting or a parameter that makes no sense.
        """
        group = dict(param_group)
        params = group["params"]
        group["params"] = [params] if isinstance(params, Tensor) else list(params)
        if "kind" not in group:
            group["kind"] = _kind_of(group["params"])
        if group["kind"] == "adamw" and self._adamw_lr is not None:
            group.setdefault("lr", self._adamw_lr)
        super().add_param_group(group)
        try:
            _check(self.param_groups[-1], len(self.param_groups) - 1)
        except ClisonixError:
            self.param_groups.pop()
            raise

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step with the gradients as they are; a parameter without one is left alone.

        Args:
            closure: computes the loss and the gradients again.

        Returns:
            What the closure returned.

        Raises:
            ClisonixError: a sparse gradient, or with `nonfinite="raise"` one that is not finite; nothing is changed.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        opened = [(group, open_works(group, i, self.state)) for i, group in enumerate(self.param_groups)]
        present = [(group, [work for work in works if work is not None]) for group, works in opened]
        if self.nonfinite != "ignore" and not self._may_go_on([work for _, works in present for work in works]):
            return loss
        step_matrices([(group, works) for group, works in present if group["kind"] == "matrix"], self.ranks)
        for group, works in opened:
            if group["kind"] == "lowrank":
                step_pairs(works, group)
        for group, there in present:
            if group["kind"] == "adamw":
                step_adamw(there, group)
            for work in there:
                work.close()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over state; what is loaded keeps its dtype and shares no memory with `state_dict`."""
        seen: list[dict[str, Any]] = []
        # Registered last, so it sees what other hooks have made of it.
        handle = self.register_load_state_dict_pre_hook(lambda _, given: seen.append(given))
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()
        # torch casts state to the parameter's dtype, which would spoil codes and round float32 momentum.
        keys = chain.from_iterable(group["params"] for group in seen[-1]["param_groups"])
        parameters = chain.from_iterable(group["params"] for group in self.param_groups)
        for key, parameter in zip(keys, parameters, strict=True):
            for slot, value in seen[-1]["state"].get(key, {}).items():
                if isinstance(value, Tensor):
                    # Counters stay where they are, as in torch's optimisers.
                    moved = value if slot in ("step", "momentum_step") else value.to(parameter.device)
                    self.state[parameter][slot] = moved.clone()

    @property
    def state_bytes(self) -> int:
        """Bytes of the state kept between steps, on this rank."""
        held = (value for state in self.state.values() for value in state.values() if isinstance(value, Tensor))
        return sum(local(x).nbytes for x in held)

    def _may_go_on(self, works: list[Work]) -> bool:
        bad = not_finite(works)
        if bad is None:
            return True
        if self.nonfinite == "raise":
            raise ClisonixError(
                f"the gradient of {bad} has entries that are NaN or infinite, and nothing was changed; lower the "
                'learning rate or look at the batch, or set nonfinite="skip" to leave such steps out.'
            )
        self.skipped += 1
        return False


def _as_groups(params: Any) -> list[Any]:  # noqa: ANN401
    if isinstance(params, nn.Module):
        return parameter_groups(params)
    if isinstance(params, Tensor):
        raise ClisonixError("Spectral was given one tensor; give a model, a list of parameters or groups.")
    entries: list[Any] = list(params)
    if not entries or isinstance(entries[0], Mapping):
        return entries
    matrices = [entry for entry in entries if _tensor(entry).ndim >= 2]
    rest = [entry for entry in entries if _tensor(entry).ndim < 2]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "kind": "matrix"},
        {"params": rest, "kind": "adamw", "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _tensor(entry: Any) -> Tensor:  # noqa: ANN401
    return cast(Tensor, entry[1] if isinstance(entry, tuple) else entry)


def _kind_of(params: list[Any]) -> str:
    axes = {_tensor(entry).ndim >= 2 for entry in params}
    if len(axes) > 1:
        raise ClisonixError(
            "a group without kind holds matrices and vectors; split it or say kind='adamw', as "
            "Spectral.groups(model) does."
        )
    return "matrix" if axes == {True} else "adamw"


def _check(group: Group, number: int) -> None:
    """Raise where a group makes no sense."""
    if group["kind"] not in KINDS:
        raise ClisonixError(f"group {number} has kind={group['kind']!r}{nearest(str(group['kind']), KINDS)}.")
    wrong = {
        "lr": not float(group["lr"]) >= 0,
        "momentum": not 0 <= group["momentum"] < 1,
        "weight_decay": not group["weight_decay"] >= 0,
        "betas": not all(0 <= beta < 1 for beta in group["betas"]),
        "eps": not group["eps"] >= 0,
        "adjust_lr": group["adjust_lr"] not in ("match_rms_adamw", "original", None),
        "ns_steps": not group["ns_steps"] >= 1,
        "state_bits": group["state_bits"] not in (8, 32),
        "pieces": not group["pieces"] >= 1,
    }
    for key, is_wrong in wrong.items():
        if is_wrong:
            raise ClisonixError(f"group {number} has {key}={group[key]!r}, which Spectral cannot take; see its help.")
    params = group["params"]
    for i, p in enumerate(params):
        name = name_of(group, number, i)
        if not p.is_floating_point():
            raise ClisonixError(f"{name} is {p.dtype}; Spectral takes real floating-point parameters.")
        if group["kind"] == "matrix" and (p.ndim < 2 or p.shape[0] % group["pieces"]):
            raise ClisonixError(
                f"{name} of shape {tuple(p.shape)} cannot be {group['pieces']} matrices; give it kind='adamw' or "
                "pieces that divide its first axis."
            )
        if group["state_bits"] == 8 and is_sharded(p):
            raise ClisonixError(f"{name} is a DTensor, whose state cannot be packed; use state_bits=32.")
    if group["kind"] == "lowrank":
        fits = len(params) % 2 == 0 and all(
            left.ndim == right.ndim == 2 and left.shape[1] == right.shape[0]
            for left, right in zip(params[::2], params[1::2], strict=True)
        )
        if not fits:
            raise ClisonixError(
                f"group {number} of kind='lowrank' must list factors in turn, left (m, r), right (r, n), left ..."
            )
