"""Which module of a model used how much of the energy of a block of code."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from clisonix.errors import ClisonixError
from clisonix.meter.attribution.shares import Piece, shared
from clisonix.meter.attribution.timers import CpuTimer, CudaTimer, Timer
from clisonix.meter.energy import Energy, best

if TYPE_CHECKING:
    from clisonix.meter.meter import Meter

WINDOW = "attribute"
OUTSIDE = "(outside)"
"""The residual: everything in the block that runs in no module: loss, optimiser, loading of data."""
MEASURING = "(measuring)"
"""What the hooks themselves use."""
_serial = itertools.count()


@dataclass(frozen=True)
class ModuleCost:
    """What one module used itself, without the modules inside it.

    Attributes:
        name: as in `model.named_modules()`; empty for the model itself, `(outside)` for the residual, `(measuring)`
            for the hooks.
        kind: its class.
        calls: how often it ran forward.
        forward_s: seconds of `unit` in its forward pass.
        backward_s: seconds in the backward pass of what it computed.
        energy: its part of the block's energy.
    """

    name: str
    kind: str
    calls: int
    forward_s: float
    backward_s: float
    energy: Energy


class Attribution:
    """Shares the energy of a block among the modules that run in it; a context manager.

    ```python
    with meter.attribute(model) as attribution:
        for batch in batches:
            loss(model(batch)).backward()
    print(attribution.table())
    ```

    Hooks note when a module's forward pass begins and ends, and when each autograd node that it created runs; each
    moment belongs to the innermost. On a CPU a module's share is its share of the thread's CPU time; on a GPU it is
    the energy that the device's power trace shows between the CUDA events. All parts and the residual add up to the
    block. The hooks cost some microseconds for each module and each autograd node, shown on a line of their own:
    attribute some steps and not a whole run.

    Args:
        meter: a meter that runs.
        model: whose modules to tell apart.
        timer: None takes CUDA events for a model on a CUDA device, else CPU time.

    Attributes:
        modules: by energy, largest first; filled when the block ends.
        residual: what ran in no module.
        measuring: what the hooks used.
        total: the whole block.
        unit: what the seconds are of.
    """

    def __init__(self, meter: Meter, model: nn.Module, timer: Timer | None = None) -> None:
        self._meter, self._model, self._timer = meter, model, timer
        self._names = {module: name for name, module in model.named_modules()}
        # Fork, resume or a second attribution: marks of one must not be taken for another's.
        self._token = f"clisonix-attribution-{next(_serial)}"
        self._marks: list[Any] = []
        self._pieces: list[Piece] = []
        self._stack: list[Piece] = []
        self._handles: list[Any] = []
        self._calls: dict[str, int] = {}
        self._active = False
        self.modules: list[ModuleCost] = []
        self.residual: ModuleCost | None = None
        self.measuring: ModuleCost | None = None
        self.total: Energy | None = None
        self.unit = ""

    def __enter__(self) -> Attribution:
        if self._marks:
            raise ClisonixError("an attribution is used once: call meter.attribute(model) again for each block")
        if self._timer is None:
            cuda = any(parameter.is_cuda for parameter in self._model.parameters())
            self._timer = CudaTimer() if cuda else CpuTimer()
        self.unit = self._timer.unit
        for module in self._names:
            self._handles += [
                module.register_forward_pre_hook(self._before, prepend=True, with_kwargs=True),
                module.register_forward_hook(self._after, always_call=True),
            ]
        self._detail = self._meter.closely()
        self._detail.__enter__()
        self._window = self._meter.window(WINDOW, sync=self._timer.unit == "GPU time")
        self._window.__enter__()
        self._active = True
        self._mark(Piece(OUTSIDE, False))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._timer is not None
        self._marks.append(self._timer.mark())
        self._active = False
        for handle in self._handles:
            handle.remove()
        self._window.__exit__(kind, error, trace)
        self._detail.__exit__(None, None, None)
        if error is None:
            self._share(self._timer)

    def of(self, name: str) -> Energy:
        """Energy of a module and all modules inside it.

        Raises:
            ClisonixError: no module of that name ran.
        """
        found = [m.energy for m in self.modules if m.name == name or m.name.startswith(f"{name}.") or name == ""]
        if not found:
            names = ", ".join(m.name or "''" for m in self.modules) or "none; the block has not ended"
            raise ClisonixError(f"no module {name!r} ran in the block; those that did: {names}")
        return replace(Energy.total(found), device=found[0].device, source=found[0].source)

    def table(self) -> str:
        """One line per module and one for the residual."""
        if self.total is None or self.residual is None:
            return "nothing was attributed: the block has not ended"
        rows = [*self.modules, self.residual, *([self.measuring] if self.measuring else [])]
        whole = self.total.joules
        width = max(len(row.name or row.kind) for row in rows)
        lines = [f"{'module':{width}}  calls  forward s  backward s  {'joules':>10}  share  ({self.unit})"]
        for row in rows:
            joules = row.energy.joules
            amount = f"{'unknown':>10}" if joules is None else f"{joules:10.4g}"
            share = f"{100 * joules / whole:4.1f} %" if joules is not None and whole else "   –  "
            lines.append(
                f"{row.name or row.kind:{width}}  {row.calls:5d}  {row.forward_s:9.4f}  {row.backward_s:10.4f}  "
                f"{amount}  {share}"
            )
        return "\n".join([*lines, f"total: {self.total.how()}"])

    def _mark(self, piece: Piece) -> None:
        assert self._timer is not None
        self._marks.append(self._timer.mark())
        self._pieces.append(piece)

    def _push(self, piece: Piece) -> None:
        self._stack.append(piece)
        self._mark(piece)

    def _pop(self) -> None:
        if self._stack:
            self._stack.pop()
        self._mark(self._stack[-1] if self._stack else Piece(OUTSIDE, False))

    def _before(self, module: nn.Module, args: Any, kwargs: Any) -> None:  # noqa: ANN401
        if not self._active:
            return
        self._mark(Piece(MEASURING, False))
        # What produced the inputs is not this module's doing.
        owner = self._stack[-1].owner if self._stack else OUTSIDE
        for tensor in _tensors((args, kwargs)):
            self._claim(tensor, owner)
        name = self._names[module]
        self._calls[name] = self._calls.get(name, 0) + 1
        self._push(Piece(name, False))

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:  # noqa: ANN401
        if not self._active:
            return
        self._mark(Piece(MEASURING, False))
        for tensor in _tensors(output):
            self._claim(tensor, self._names[module])
        self._pop()

    def _claim(self, tensor: Tensor, owner: str) -> None:
        """Give the autograd nodes behind a tensor that no one has claimed yet to a module."""
        waiting = [tensor.grad_fn]
        piece = Piece(owner, True)
        while waiting:
            node = waiting.pop()
            if node is None:
                continue
            metadata: Any = node.metadata
            if self._token in metadata:
                continue
            metadata[self._token] = owner

            def begin(_gradients: Any) -> None:  # noqa: ANN401
                if self._active:
                    self._push(piece)

            def end(_inputs: Any, _outputs: Any) -> None:  # noqa: ANN401
                if self._active:
                    self._pop()

            handles = [node.register_prehook(begin), node.register_hook(end)]
            if not node.next_functions:
                # The node that adds up a parameter's gradient outlives the step.
                self._handles += handles
            waiting += [following for following, _ in node.next_functions]

    def _share(self, timer: Timer) -> None:
        trace = self._meter.trace()
        assert self._window.start_s is not None
        spans = [span for span in trace.windows if span.name == WINDOW and span.start_s == self._window.start_s]
        parts = best(trace.readings_during(spans))
        moments = timer.moments(self._marks)
        lengths = timer.seconds(self._marks)
        spent: dict[Piece, float] = {}
        for piece, begin, end in zip(self._pieces, lengths[:-1], lengths[1:], strict=True):
            spent[piece] = spent.get(piece, 0.0) + end - begin
        self.total = Energy.total(parts)
        energies = shared(trace, parts, self._pieces, moments, spent)
        kinds = {name: type(module).__name__ for module, name in self._names.items()}
        costs = [
            ModuleCost(
                owner, kinds.get(owner, ""), self._calls.get(owner, 0),
                spent.get(Piece(owner, False), 0.0), spent.get(Piece(owner, True), 0.0), energies[owner],
            )
            for owner in dict.fromkeys(piece.owner for piece in spent)
        ]  # fmt: skip
        self.residual = next(cost for cost in costs if cost.name == OUTSIDE)
        self.measuring = next((cost for cost in costs if cost.name == MEASURING), None)
        inside = [cost for cost in costs if cost.name not in (OUTSIDE, MEASURING)]
        self.modules = sorted(inside, key=lambda cost: -(cost.energy.joules or cost.forward_s + cost.backward_s))


def _tensors(value: Any) -> Iterator[Tensor]:  # noqa: ANN401 - whatever modules take and give
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(value.values())
    elif isinstance(value, Iterable) and not isinstance(value, str | bytes):
        for part in value:
            yield from _tensors(part)
