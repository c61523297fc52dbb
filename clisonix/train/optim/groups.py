"""Which parameters of a model are matrices to orthogonalise, which are factors of one, and which are neither."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from clisonix.compress.layers import LiamConv, LiamEmbedding
from clisonix.errors import ClisonixError
from clisonix.liam.blockdiagonal import Batch
from clisonix.liam.dense import Dense
from clisonix.liam.lowrank import LowRank
from clisonix.liam.matrix import Matrix

_CONVOLUTIONS = (nn.modules.conv._ConvNd,)


def parameter_groups(
    model: nn.Module,
    *,
    matrix: Sequence[str] = (),
    adamw: Sequence[str] = (),
    pieces: Mapping[str, int] | None = None,
    kernels: bool = True,
    pairs: bool = True,
    head: bool = True,
) -> list[dict[str, Any]]:
    """The trainable parameters of a model as groups for `Spectral`, each with its name.

    The rule, from the first that applies:

    1. embeddings, and the weight of the last linear layer in order of registration (the head), go to AdamW, in
       whatever form they are; so does what is tied to them;
    2. both factors of a `LowRank`, used nowhere else, are one product (`kind="lowrank"`);
    3. weights `(m, n)` of linear layers, recurrent layers, attention and `Dense` matrices, other parameters of two
       axes that stand in no matrix of the algebra, and convolution kernels flattened from axis 1 on are matrices
       (`kind="matrix"`) if both sides are longer than one; `nn.MultiheadAttention.in_proj_weight` is three of them,
       the kernel of a convolution with groups one for each group, the weight of a `Batch` a stack of them;
    4. the rest (biases, norms, scales, values of sparse matrices, depthwise kernels) goes to AdamW, without weight
       decay if it has fewer than two axes.

    Args:
        model: of any modules.
        matrix: patterns as in `fnmatch` of names that are to be matrices whatever the rule says.
        adamw: patterns of names that go to AdamW; they count before `matrix`. A factor takes the other one along.
        pieces: pattern to the number of matrices that the rows of a weight are cut into, such as 3 for queries, keys
            and values in one.
        kernels: False gives convolution kernels to AdamW.
        pairs: False treats each factor of a `LowRank` as a matrix of its own.
        head: False lets the rule for the last linear layer rest.

    Returns:
        Groups with `params` as `(name, parameter)`, `kind`, and what differs from the optimiser's settings.

    Raises:
        ClisonixError: a pattern that fits no parameter, or a parameter that cannot be what a pattern says.
    """
    names = {p: name for name, p in model.named_parameters() if p.requires_grad}
    _check_patterns(names.values(), {"matrix": matrix, "adamw": adamw, "pieces": tuple(pieces or ())})
    forced_adamw = {p for p, name in names.items() if _fits(name, adamw)}
    forced_matrix = {p for p, name in names.items() if _fits(name, matrix)} - forced_adamw
    rule = _Rule(model, kernels=kernels, head=head)
    barred = {id(p) for p in forced_adamw | forced_matrix} | rule.not_plain
    sides = _products(model, names, barred) if pairs else {}
    groups = _Groups(names)
    first_factors = {id(left): right for left, right in sides.values()}
    second_factors = {id(right) for _, right in sides.values()}
    for p, name in names.items():
        if id(p) in second_factors:
            continue
        if id(p) in first_factors:
            groups.add("lowrank", p, first_factors[id(p)])
            continue
        cut, stack = rule.shape_of(p)
        cut = next((n for pattern, n in (pieces or {}).items() if fnmatchcase(name, pattern)), cut)
        if p not in forced_adamw and (p in forced_matrix or rule.is_matrix(p, cut, stack)):
            _check_matrix(p, name, cut)
            groups.add("matrix", p, pieces=cut, stack=stack)
        else:
            groups.add("adamw", p, decayed=p.ndim >= 2)
    return groups.made


class _Rule:
    """What the places where a parameter stands say about it."""

    def __init__(self, model: nn.Module, *, kernels: bool, head: bool) -> None:
        self.plain: set[int] = set()
        self.not_plain: set[int] = set()
        self.cuts: dict[int, int] = {}
        self.stacks: set[int] = set()
        linear: nn.Module | None = None
        inside = {id(part) for m in model.modules() if isinstance(m, Matrix) for part in m.modules()}
        for module in model.modules():
            own = {id(p) for p in module.parameters(recurse=False)}
            if isinstance(module, nn.Linear):
                linear = module
            if isinstance(module, nn.Embedding | nn.EmbeddingBag | LiamEmbedding):
                self.not_plain |= {id(p) for p in module.parameters()}
            elif isinstance(module, Batch):
                self.stacks |= own
            elif id(module) in inside and not isinstance(module, Dense | LowRank):
                self.not_plain |= own
            elif isinstance(module, _CONVOLUTIONS):
                key = id(module.weight)
                self.cuts[key] = module.groups
                if not kernels:
                    self.not_plain.add(key)
            elif isinstance(module, LiamConv) and not kernels:
                self.not_plain |= {id(p) for p in module.parameters()}
            elif isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
                self.cuts[id(module.in_proj_weight)] = 3
        if head and linear is not None:
            self.not_plain |= {id(p) for p in linear.parameters()}

    def shape_of(self, p: nn.Parameter) -> tuple[int, bool]:
        """Pieces, and whether it is a stack."""
        return self.cuts.get(id(p), 1), id(p) in self.stacks

    def is_matrix(self, p: nn.Parameter, pieces: int, stack: bool) -> bool:
        if id(p) in self.not_plain or p.ndim < 2 or p.numel() == 0:
            return False
        if stack:
            return min(p.shape[-2:]) > 1
        known = p.ndim == 2 or id(p) in self.cuts
        return known and p.shape[0] % pieces == 0 and p.shape[0] // pieces > 1 and p[0].numel() > 1


class _Groups:
    """Groups in the making, one for each combination of settings."""

    def __init__(self, names: Mapping[nn.Parameter, str]) -> None:
        self.names = names
        self.made: list[dict[str, Any]] = []
        self._by_kind: dict[tuple[Any, ...], dict[str, Any]] = {}

    def add(
        self, kind: str, *parameters: nn.Parameter, pieces: int = 1, stack: bool = False, decayed: bool = True
    ) -> None:
        key = (kind, pieces, stack, decayed)
        if key not in self._by_kind:
            group: dict[str, Any] = {"params": [], "kind": kind}
            if kind == "matrix":
                group |= {"pieces": pieces, "stack": stack}
            if not decayed:
                group["weight_decay"] = 0.0
            self._by_kind[key] = group
            self.made.append(group)
        self._by_kind[key]["params"] += [(self.names[p], p) for p in parameters]


def _products(
    model: nn.Module, names: Mapping[nn.Parameter, str], barred: set[int]
) -> dict[int, tuple[nn.Parameter, nn.Parameter]]:
    """The factors of each `LowRank` that can be stepped as one product, by the `id` of the module."""
    uses: dict[int, int] = {}
    found: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}
    for module in model.modules():
        for p in module.parameters(recurse=False):
            uses[id(p)] = uses.get(id(p), 0) + 1
        if isinstance(module, LowRank) and not module.packed:
            left, right = module._parameters["left"], module._parameters["right"]
            assert left is not None
            assert right is not None
            found[id(module)] = (left, right)
    return {
        key: factors
        for key, factors in found.items()
        if all(p in names and uses[id(p)] == 1 and id(p) not in barred for p in factors)
    }


def _fits(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _check_patterns(names: Iterable[str], given: Mapping[str, Sequence[str]]) -> None:
    for argument, patterns in given.items():
        if isinstance(patterns, str):
            raise ClisonixError(f"{argument}={patterns!r} is one string; give a list of patterns, [{patterns!r}].")
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ClisonixError(
                    f"{argument}: {pattern!r} fits the name of no trainable parameter; give one such as "
                    f"{next(iter(names), 'none')!r}, with * for any part."
                )


def _check_matrix(p: nn.Parameter, name: str, pieces: int) -> None:
    if p.ndim < 2 or p.shape[0] % pieces:
        raise ClisonixError(
            f"{name} of shape {tuple(p.shape)} cannot be {pieces} matrices; give parameters with two or more axes "
            "and pieces that divide the first."
        )
