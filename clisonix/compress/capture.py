"""Where in a module the inputs and outputs of its weights can be seen, module type by module type."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.rnn import PackedSequence
from torch.utils.hooks import RemovableHandle

from clisonix.compress.moments import Moment, flat_blocks, patch_blocks

Convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
Recurrent = (nn.LSTM, nn.GRU, nn.RNN)
Watched = Mapping[str, Moment]
Handler = Callable[[tuple[Any, ...], dict[str, Any], Any], None]


class Capture:
    """Hooks on one module that feed the moments of its weights.

    Args:
        module: Linear and what is called like it, a convolution, an embedding, MultiheadAttention, LSTM or GRU.
        moments: of its parameters, by their names in the module.
        grams: shared by all modules of a model, so that an input given to several is multiplied once.
        weighing: whether gradients by the outputs are taken in as well.
    """

    def __init__(self, module: nn.Module, moments: Watched, grams: Grams, weighing: bool) -> None:
        self.module, self.moments, self.grams, self.weighing = module, dict(moments), grams, weighing
        self._busy = False

    def hook(self) -> RemovableHandle:
        """Begin to watch."""
        return self.module.register_forward_hook(self._called, with_kwargs=True, always_call=False)

    def _called(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:  # noqa: ANN401
        if self._busy:
            return None
        self._busy = True
        try:
            with torch.no_grad():
                self._inputs(args, kwargs, output)
        finally:
            self._busy = False
        return self._weighed(output) if self.weighing else None

    def _inputs(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:  # noqa: ANN401
        match self.module:
            case nn.MultiheadAttention():
                self._attention(args, kwargs)
            case nn.LSTM() | nn.GRU() | nn.RNN():
                self._recurrent(args, kwargs, output)
            case nn.Embedding() | nn.EmbeddingBag():
                for moment in self.moments.values():
                    moment.look_up(_first(args, kwargs))
            case nn.Conv1d() | nn.Conv2d() | nn.Conv3d():
                conv, x = self.module, _first(args, kwargs)
                positions = _positions(output, conv)
                for moment in self.moments.values():
                    blocks = partial(patch_blocks, x, conv, moment.worth())
                    self.grams.add(moment, x, blocks, conv, positions)
            case _:
                for moment in self.moments.values():
                    self._flat(moment, _first(args, kwargs))

    def _flat(self, moment: Moment, x: Tensor) -> None:
        self.grams.add(moment, x, lambda: flat_blocks(x))

    def _attention(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        module = self.module
        assert isinstance(module, nn.MultiheadAttention)
        given = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
        inputs = {name: given[name] for name in ("query", "key", "value")}
        for short, x in zip(("q", "k", "v"), inputs.values(), strict=True):
            for name in (f"{short}_proj_weight", "in_proj_weight"):
                if name in self.moments:
                    self._flat(self.moments[name], x)
        if "out_proj.weight" in self.moments:
            # With an identity for the last projection the module gives what that projection is given.
            last = module.out_proj.weight
            held = {"out_proj.weight": torch.eye(len(last), dtype=last.dtype, device=last.device)}
            if module.out_proj.bias is not None:
                held["out_proj.bias"] = torch.zeros_like(module.out_proj.bias)
            mixed = functional_call(module, held, args, {**kwargs, "need_weights": False})[0]
            self._flat(self.moments["out_proj.weight"], mixed)

    def _recurrent(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:  # noqa: ANN401
        module = self.module
        assert isinstance(module, Recurrent)
        x, sides = _first(args, kwargs), ("", "_reverse")[: 1 + module.bidirectional]
        hidden = args[1] if len(args) > 1 else kwargs.get("hx")
        for layer in range(module.num_layers):
            last = layer == module.num_layers - 1
            y = output[0] if last else self._one_layer(layer, x, hidden)
            for place, side in enumerate(sides):
                if f"weight_ih_l{layer}{side}" in self.moments:
                    self._flat(self.moments[f"weight_ih_l{layer}{side}"], _data(x))
                if f"weight_hh_l{layer}{side}" in self.moments:
                    # What a step is given is what the step before it gave: over a sequence almost the same set.
                    states = _data(y).chunk(len(sides), -1)[place].contiguous()
                    self._flat(self.moments[f"weight_hh_l{layer}{side}"], states)
            x = y

    def _one_layer(self, layer: int, x: Any, hidden: Any) -> Any:  # noqa: ANN401
        """What layer `layer` makes of `x`."""
        module = self.module
        assert isinstance(module, Recurrent)
        sides = ("", "_reverse")[: 1 + module.bidirectional]
        options: dict[str, Any] = {"bias": module.bias, "batch_first": module.batch_first}
        options |= {"bidirectional": module.bidirectional}
        if isinstance(module, nn.LSTM):
            options["proj_size"] = module.proj_size
        if isinstance(module, nn.RNN):
            options["nonlinearity"] = module.nonlinearity
        width = getattr(module, f"weight_ih_l{layer}").shape[1]
        weights, some = {}, next(module.parameters())
        for side in sides:
            for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr"):
                if f"{kind}_l{layer}{side}" in module._parameters or hasattr(module, f"{kind}_l{layer}{side}"):
                    weights[f"{kind}_l0{side}"] = getattr(module, f"{kind}_l{layer}{side}")
        single = type(module)(width, module.hidden_size, device=some.device, dtype=some.dtype, **options)
        part = slice(layer * len(sides), (layer + 1) * len(sides))
        start = tuple(h[part] for h in hidden) if isinstance(hidden, tuple) else hidden
        start = hidden[part] if isinstance(hidden, Tensor) else start
        return functional_call(single, weights, (x, start))[0]

    def _weighed(self, output: Any) -> Any:  # noqa: ANN401
        """`output`, its main tensor replaced by a copy whose gradient will be taken in."""
        main = output[0] if isinstance(output, tuple) else output
        packed = isinstance(main, PackedSequence)
        y = main.data if packed else main
        if not isinstance(y, Tensor) or not y.is_floating_point():
            return None
        if not y.requires_grad:
            y = y.detach().requires_grad_()
        y.register_hook(self._gradient(y.detach()))  # type: ignore[no-untyped-call]
        # What follows may work in place, which would change what was watched.
        copy: Any = y.clone()
        if packed:
            copy = PackedSequence(copy, main.batch_sizes, main.sorted_indices, main.unsorted_indices)
        return (copy, *output[1:]) if isinstance(output, tuple) else copy

    def _gradient(self, y: Tensor) -> Callable[[Tensor], None]:
        module = self.module

        @torch.no_grad()
        def take(gradient: Tensor) -> None:
            axis = 1 + y.ndim - 2 - len(module.kernel_size) if isinstance(module, Convolution) else -1
            g, out = (z.movedim(axis, -1).reshape(-1, z.shape[axis]) for z in (gradient, y))
            for name, moment in self.moments.items():
                if isinstance(module, nn.Embedding | nn.EmbeddingBag):
                    moment.weigh_depth(g)
                elif isinstance(module, Recurrent) or "in_proj" in name or "_proj_weight" in name:
                    moment.sensitivity += float((g.double() * out.double()).square().sum())
                else:
                    moment.weigh(g)

        return take


class Grams:
    """The last sum of `x xᵀ`, for the case that the next layer is given the very same tensor."""

    def __init__(self) -> None:
        self._key: tuple[Any, ...] = ()
        self._held: tuple[Any, ...] = ()

    def add(
        self,
        moment: Moment,
        x: Tensor,
        blocks: Callable[[], Iterator[Tensor]],
        conv: nn.Module | None = None,
        positions: int | None = None,
    ) -> None:
        """Add what `blocks()` of `x` give to `moment`, which stands for so many positions."""
        geometry = tuple(getattr(conv, field, None) for field in ("kernel_size", "stride", "padding", "dilation"))
        key = (id(x), x._version, moment.shape[1], moment.width, geometry)
        if key != self._key:
            # `x` is held too: while it lives no other tensor has its identity.
            self._key, self._held = (
                key,
                (x, moment.gram(blocks()) if positions is None else moment.gram(blocks(), positions)),
            )
        found = self._held[1]
        if found is not None:
            moment.add(*found)

    def forget(self) -> None:
        """Let go of the last input."""
        self._key, self._held = (), ()


def _first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
    return args[0] if args else next(iter(kwargs.values()))


def _positions(output: Tensor, conv: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> int:
    """Outputs of each channel."""
    return output.numel() // conv.out_channels


def _data(x: Any) -> Tensor:  # noqa: ANN401
    tensor: Tensor = x.data if isinstance(x, PackedSequence) else x
    return tensor
