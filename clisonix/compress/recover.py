"""Distillation of a compressed model to the one that it was made from."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from clisonix.compress.batches import Feeder, tensors_in
from clisonix.compress.recover_data import Batches
from clisonix.compress.recover_fit import Allowance, Progress, eval_mode, fit
from clisonix.compress.recover_latent import Learning
from clisonix.compress.recover_losses import Loss, loss_named, relative_mse
from clisonix.errors import ClisonixError, nearest

M = TypeVar("M", bound=nn.Module)


def recover(
    model: M,
    teacher: nn.Module,
    data: Iterable[Any],
    *,
    steps: int | None = None,
    minutes: float | None = None,
    cpu_minutes: float | None = None,
    loss: str | Loss | None = None,
    hidden: Sequence[str] = (),
    held_out: Iterable[Any] | None = None,
    straight_through: bool = True,
    lr: float = 1e-2,
    every: int = 25,
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
) -> M:
    """A copy of `model` trained to give what `teacher` gives; no labels are needed.

    Factors, scales, biases, norms and all other parameters that require gradients train. So do packed signs and
    levels, through latent copies whose rounding gradients pass (the straight-through estimator); they are packed
    again at the end, so the result has the same structure and weighs the same. Dropout is off and the statistics
    of batch norms stay.

    The result is the best state by the loss on held-out batches, and never worse there than `model`. With `steps`
    it is the same for the same seed; with an end by the clock the number of steps depends on the machine.

    Args:
        model: compressed, or any other; it is not changed.
        teacher: the model to follow, such as the dense one; it is not changed. Same inputs, same kind of outputs.
        data: batches: each a tensor `model(batch)`, a tuple or list `model(*batch)`, or a dict of named inputs.
            A list is shuffled and a tenth of it held out; another iterable is walked in its order, and its first
            few batches are held out.
        steps: end after so many batches. Give at least one of the three ends; the first reached counts.
        minutes: of the wall clock.
        cpu_minutes: of processor time, all threads of this process together.
        loss: "mse", the default: squared deviation of all outputs, relative to the teacher's; "kl": divergence of
            the distributions that logits give; or a function of (output, teacher's output, batch).
        hidden: names of modules whose outputs shall agree as well; their relative squared deviation is added.
        held_out: batches to judge by, instead of a part of `data`.
        straight_through: whether packed signs and levels train, which takes four bytes for each and as much again
            three times for the optimiser.
        lr: by what part of its own size (root mean square) a parameter may move in one step, at first.
        every: steps from one judgement on held-out batches to the next.
        seed: of the order of batches.
        progress: called with a `Progress` at every judgement.

    Returns:
        A new model, in the training mode of the one given.

    Raises:
        ClisonixError: no end or no data, outputs that do not correspond, nothing to train, or a loss that is not
            finite at the start. If it stops being finite later, a warning names step and cause, and the best state
            until then is returned.
    """
    allowance = Allowance(steps, minutes, cpu_minutes)
    measure, batches = loss_named(loss), Batches(data, held_out, seed)
    if every < 1 or not lr > 0:
        raise ClisonixError(f"every={every!r} and lr={lr!r} were given; give at least 1 step and a rate above 0")
    student = copy.deepcopy(model)
    with torch.enable_grad():
        learning = Learning(student, straight_through)
        parameters = [p for p in student.parameters() if p.requires_grad]
        if not parameters:
            raise ClisonixError("no parameter of the model requires a gradient; call requires_grad_(True) on it")
        with eval_mode(student, teacher), _watched(student, hidden) as ours, _watched(teacher, hidden) as theirs:
            pupil, guide = Feeder(student), Feeder(teacher)

            def distance(batch: Any) -> Tensor:  # noqa: ANN401
                with torch.no_grad():
                    target = guide.output(batch)
                total = measure(pupil.output(batch), target, batch)
                for name in hidden:
                    total = total + relative_mse(_taken(ours, name), _taken(theirs, name))
                return total

            @torch.no_grad()
            def judge() -> float:
                return sum(float(distance(batch)) for batch in batches.held_out) / len(batches.held_out)

            losses = (distance(batch) for batch in batches)
            fit(parameters, losses, judge, allowance, lr=lr, every=every, stored=learning.stored, progress=progress)
    learning.finish()
    return student


@contextmanager
def _watched(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """What the modules of these names gave in the last call."""
    modules = dict(model.named_modules())
    taken: dict[str, Any] = {}
    handles = []
    try:
        for name in names:
            if name not in modules:
                raise ClisonixError(f"hidden names {name!r}, which is no module of the model{nearest(name, modules)}")

            def hook(_: nn.Module, args: Any, output: Any, name: str = name) -> None:  # noqa: ANN401
                taken[name] = output

            handles.append(modules[name].register_forward_hook(hook))
        yield taken
    finally:
        for handle in handles:
            handle.remove()


def _taken(found: dict[str, Any], name: str) -> Any:  # noqa: ANN401
    if not tensors_in(found.get(name)):
        raise ClisonixError(f"the module {name!r} was not called or gave no tensor; leave it out of hidden")
    return found[name]
