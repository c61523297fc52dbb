"""Reconstruction of a compressed model block by block: each makes up for what the ones before it got wrong."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from clisonix.compress.batches import Feeder
from clisonix.compress.recover_data import first_batches
from clisonix.compress.recover_fit import Allowance, Progress, eval_mode, fit
from clisonix.compress.recover_latent import Learning
from clisonix.compress.recover_losses import relative_mse
from clisonix.errors import ClisonixError, nearest
from clisonix.liam.matrix import Matrix

M = TypeVar("M", bound=nn.Module)
Call = tuple[tuple[Any, ...], dict[str, Any]]
Case = tuple[Call, Any]

# Of the captured batches one in so many judges the fit of a block.
ONE_IN = 5
# Steps from one judgement to the next.
EVERY = 10


def reconstruct(
    model: M,
    teacher: nn.Module,
    data: Iterable[Any],
    *,
    blocks: Sequence[str] | None = None,
    steps: int | None = 100,
    minutes: float | None = None,
    straight_through: bool = False,
    lr: float = 1e-2,
    memory: int = 1 << 30,
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
) -> M:
    """A copy of `model` whose blocks give, one after the other, what those of `teacher` give.

    Blocks are taken in the order in which they run. The inputs of a block are what the compressed model
    feeds it, after the blocks before it were fitted; its targets are what the same block of the teacher gives in
    the teacher. Its floating-point parameters are fitted to that: scales, factors, biases, norms (Li et al.,
    "BRECQ", ICLR 2021, with the asymmetric calibration of later work). No loss of the whole model is needed, and
    memory holds the inputs of one block only.

    Args:
        model: compressed, or any other with the block names of the teacher; it is not changed.
        teacher: the dense model; it is not changed.
        data: batches as `recover` takes them. As many as fit into `memory` are used.
        blocks: names of modules; by default the members of the longest list of modules (`nn.ModuleList` or
            `nn.Sequential`) that has weights in more than one of them.
        steps: for each block, one batch each.
        minutes: of the wall clock, for all blocks together.
        straight_through: train packed signs and levels as well, as `recover` does.
        lr: as in `recover`.
        memory: bytes that inputs and targets of one block may take.
        seed: of the order of batches.
        progress: called with a `Progress` whose `where` is the block.

    Returns:
        A new model. A block is left as it was where fitting did not bring its outputs closer on batches held out.

    Raises:
        ClisonixError: no data, a name that is no module of both, blocks that never run, or no blocks to be found.
    """
    student = copy.deepcopy(model)
    names = list(blocks) if blocks is not None else find_blocks(student)
    _check(names, student, teacher)
    batches = first_batches(data, memory)
    with torch.enable_grad(), eval_mode(student, teacher):
        counts = _counts(student, names, batches[0])
        if not counts:
            raise ClisonixError(f"none of the blocks {', '.join(names)} runs when the model is called; name others")
        for place, (name, count) in enumerate(counts.items()):
            allowance = Allowance(steps, None if minutes is None else minutes / len(counts), None)
            block = student.get_submodule(name)
            learning = Learning(block, straight_through, within=student)
            parameters = [p for p in block.parameters() if p.requires_grad]
            if parameters:
                losses, judge = _goal(block, _cases(student, teacher, name, count, batches, memory), seed + place)
                fit(
                    parameters, losses, judge, allowance,
                    lr=lr, every=EVERY, stored=learning.stored, where=name, progress=progress,
                )  # fmt: skip
            learning.finish()
    return student


def find_blocks(model: nn.Module) -> list[str]:
    """Names of the members of the longest list of modules in which more than one has weights.

    Raises:
        ClisonixError: there is no such list.
    """
    best: list[str] = []
    within = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, Matrix))
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList | nn.Sequential) and not name.startswith(within):
            children = [
                f"{name}.{key}" if name else key
                for key, child in module.named_children()
                if any(p.ndim > 1 for p in child.parameters()) or any(isinstance(m, Matrix) for m in child.modules())
            ]
            if len(children) > max(1, len(best)):
                best = children
    if not best:
        raise ClisonixError(
            "the model has no list of blocks (nn.ModuleList or nn.Sequential); name the modules to fit in blocks"
        )
    return best


def _cases(
    student: nn.Module, teacher: nn.Module, name: str, count: int, batches: Sequence[Any], memory: int
) -> list[Case]:
    """What the student gives a block and what the teacher's block gives, for as many batches as fit into `memory`."""
    cases: list[Case] = []
    held = 0
    for batch in batches:
        ours, theirs = (_captured(which, name, batch, count) for which in (student, teacher))
        if len(ours) != len(theirs):
            raise ClisonixError(
                f"the block {name!r} runs {len(ours)} times in the model and {len(theirs)} times in its teacher; "
                "leave it out of blocks"
            )
        new = [(given, target) for (given, _), (_, target) in zip(ours, theirs, strict=True)]
        held += sum(tensor.nbytes for tensor in tree_flatten(new)[0] if isinstance(tensor, Tensor))
        if cases and held > memory:
            break
        cases += new
    return cases


def _goal(block: nn.Module, cases: Sequence[Case], seed: int) -> tuple[Iterator[Tensor], Callable[[], float]]:
    """The loss of one case after another, and the mean loss of those that are held out."""
    judged = cases[::ONE_IN] if len(cases) > 1 else cases
    trained = [case for index, case in enumerate(cases) if index % ONE_IN] or cases
    generator = torch.Generator().manual_seed(seed)

    def distance(case: Case) -> Tensor:
        (args, kwargs), target = case
        return relative_mse(block(*_copied(args), **_copied(kwargs)), target)

    def losses() -> Iterator[Tensor]:
        while True:
            for index in torch.randperm(len(trained), generator=generator).tolist():
                yield distance(trained[index])

    @torch.no_grad()
    def judge() -> float:
        return sum(float(distance(case)) for case in judged) / len(judged)

    return losses(), judge


class _Enough(Exception):  # noqa: N818 - no error: the rest of the model need not run
    pass


@torch.no_grad()
def _captured(model: nn.Module, name: str, batch: Any, count: int) -> list[Case]:  # noqa: ANN401
    """What a block is given and gives, each time that it runs, for a batch; the model ends after `count` times."""
    given: list[Call] = []
    found: list[Case] = []

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # The block, or what follows, may write into it.
        given.append((_copied(args), _copied(kwargs)))

    def after(_: nn.Module, args: Any, output: Any) -> None:  # noqa: ANN401
        found.append((given.pop(), _copied(output)))
        if len(found) == count:
            raise _Enough

    block = model.get_submodule(name)
    handles = [block.register_forward_pre_hook(before, with_kwargs=True), block.register_forward_hook(after)]
    try:
        Feeder(model).output(batch)
    except _Enough:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return found


@torch.no_grad()
def _counts(model: nn.Module, names: Sequence[str], batch: Any) -> dict[str, int]:  # noqa: ANN401
    """How often each block runs for a batch, in the order in which they begin to."""
    counts: dict[str, int] = {}
    handles = []
    for name in names:

        def hook(_: nn.Module, args: Any, name: str = name) -> None:  # noqa: ANN401
            counts[name] = counts.get(name, 0) + 1

        handles.append(model.get_submodule(name).register_forward_pre_hook(hook))
    try:
        Feeder(model).output(batch)
    finally:
        for handle in handles:
            handle.remove()
    return counts


def _check(names: Sequence[str], student: nn.Module, teacher: nn.Module) -> None:
    for whose, model in (("model", student), ("teacher", teacher)):
        modules = dict(model.named_modules())
        for name in names:
            if name not in modules:
                raise ClisonixError(
                    f"blocks names {name!r}, which is no module of the {whose}{nearest(name, modules)}"
                )


def _copied(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return type(value)({key: _copied(item) for key, item in value.items()})
    if type(value) in (tuple, list):
        return type(value)(_copied(item) for item in value)
    return value
