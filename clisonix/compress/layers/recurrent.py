"""LSTM and GRU whose weights are matrices of the algebra."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from clisonix.compress.layers.base import Dense, LiamLayer, held_matrices, parameter_of, saving
from clisonix.compress.layers.products import times
from clisonix.errors import ClisonixError
from clisonix.liam.matrix import Matrix

Recurrent = nn.LSTM | nn.GRU
# Up to so many steps (of one sequence each) the packed weights are multiplied step by step; unpacking them once for
# torch's own recurrence takes less time for more.
FEW_STEPS = 4
State = tuple[Tensor, ...]


class _LiamRecurrent(LiamLayer, nn.Module):
    """What `LiamLSTM` and `LiamGRU` share: everything but the equations of one step.

    Args:
        like: the layer whose sizes, biases and kept weights are taken over (shared, not copied).
        weights: matrices by the name of the parameter they replace, such as `weight_hh_l0_reverse`.
    """

    mode: str
    _original: type[nn.LSTM] | type[nn.GRU]

    def __init__(self, like: Recurrent, weights: Mapping[str, Matrix]) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.num_layers = like.input_size, like.hidden_size, like.num_layers
        self.bias, self.batch_first, self.dropout = like.bias, like.batch_first, like.dropout
        self.bidirectional, self.proj_size = like.bidirectional, like.proj_size
        dense = dict(like.named_parameters(recurse=False))
        for name in sorted(weights.keys() - dense.keys()):
            raise ClisonixError(f"{name!r} is no weight of a {type(like).__name__}; give one of {', '.join(dense)}")
        for name, parameter in dense.items():
            matrix = weights.get(name)
            if matrix is None:
                self.register_parameter(name, parameter)
            elif matrix.shape != tuple(parameter.shape):
                raise ClisonixError(
                    f"{name!r} is {matrix.shape} and must be {tuple(parameter.shape)}; give its own form"
                )
            else:
                self.add_module(name, matrix)
        self.keep_dtype(next(iter(dense.values())).dtype, *weights.values())

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Any = None,  # noqa: ANN401 - as in torch
    ) -> tuple[Tensor | PackedSequence, Any]:
        """As of the ordinary layer: `(time, batch, input_size)`, or as `batch_first` says, or a packed sequence.

        Returns:
            Outputs `(time, batch, directions · size)` and the last state, in the order of the ordinary layer.
        """
        if isinstance(input, PackedSequence):
            return self._packed(input, hx)
        if input.ndim not in (2, 3) or input.shape[-1] != self.input_size:
            raise ClisonixError(
                f"the input of a {type(self).__name__} is {tuple(input.shape)}; give "
                f"(time, batch, {self.input_size}), in the order that batch_first says, or without the batch"
            )
        batched = input.ndim == 3
        x = input if batched else input[:, None]
        if batched and self.batch_first:
            x = x.transpose(0, 1)
        state = self._state(hx, x, x.shape[1], batched)
        y, last = self._layers(x, state, None)
        if not batched:
            return y[:, 0], self._returned(tuple(part[:, 0] for part in last))
        return y.transpose(0, 1) if self.batch_first else y, self._returned(last)

    def _packed(self, packed: PackedSequence, hx: Any) -> tuple[PackedSequence, Any]:  # noqa: ANN401
        x, sizes, order, back = packed
        state = self._state(hx, x, int(sizes[0]), True)
        if hx is not None and order is not None:
            state = tuple(part.index_select(1, order) for part in state)
        y, last = self._layers(x, state, sizes)
        if back is not None:
            last = tuple(part.index_select(1, back) for part in last)
        return PackedSequence(y, sizes, order, back), self._returned(last)

    def _returned(self, state: State) -> Any:  # noqa: ANN401
        return state if self.mode == "LSTM" else state[0]

    def _state(self, hx: Any, x: Tensor, batch: int, batched: bool) -> State:  # noqa: ANN401
        count = self.num_layers * (2 if self.bidirectional else 1)
        sizes = [self.proj_size or self.hidden_size, self.hidden_size][: 2 if self.mode == "LSTM" else 1]
        if hx is None:
            return tuple(x.new_zeros(count, batch, size) for size in sizes)
        given = tuple(hx) if self.mode == "LSTM" else (hx,)
        given = given if batched else tuple(part[:, None] for part in given)
        expected = [(count, batch, size) for size in sizes]
        if [tuple(part.shape) for part in given] != expected:
            raise ClisonixError(
                f"the state of a {type(self).__name__} is {[tuple(part.shape) for part in given]}; give {expected}"
            )
        return given

    def _layers(self, x: Tensor, state: State, sizes: Tensor | None) -> tuple[Tensor, State]:
        directions = 2 if self.bidirectional else 1
        steps = x.shape[0] * x.shape[1] if sizes is None else FEW_STEPS + 1
        ends: list[State] = []
        for layer in range(self.num_layers):
            if layer and self.dropout and self.training:
                x = F.dropout(x, self.dropout)
            begin = tuple(part[layer * directions : (layer + 1) * directions] for part in state)
            # One layer at a time, so that no more than one is unpacked at once.
            run = self._stepwise if steps <= FEW_STEPS else self._fused
            x, end = run(x, begin, layer, sizes)
            ends.append(end)
        return x, tuple(torch.cat(parts) for parts in zip(*ends, strict=True))

    def _fused(self, x: Tensor, state: State, layer: int, sizes: Tensor | None) -> tuple[Tensor, State]:
        weights = []
        for suffix in self._suffixes(layer):
            for name in self._names(suffix):
                held = getattr(self, name)
                weights.append(held.dense().to(self.dtype_for(held)) if isinstance(held, Matrix) else held)
        hx: Any = list(state) if self.mode == "LSTM" else state[0]
        function: Any = torch._VF.lstm if self.mode == "LSTM" else torch._VF.gru
        given = (x, hx) if sizes is None else (x, sizes, hx)
        order = (False,) if sizes is None else ()
        with warnings.catch_warnings():
            # cuDNN copies weights that do not lie in one piece, as these, made for one call, cannot.
            warnings.filterwarnings("ignore", message="RNN module weights are not part of single contiguous chunk")
            y, *last = function(*given, weights, self.bias, 1, 0.0, self.training, self.bidirectional, *order)
        return y, tuple(last)

    def _stepwise(self, x: Tensor, state: State, layer: int, _: Tensor | None) -> tuple[Tensor, State]:
        outputs, ends = [], []
        for direction, suffix in enumerate(self._suffixes(layer)):
            seen = self._times(f"weight_ih{suffix}", x, f"bias_ih{suffix}")
            now, found = tuple(part[direction] for part in state), []
            for step in seen.unbind(0) if not direction else reversed(seen.unbind(0)):
                now = self._step(step, now, suffix)
                found.append(now[0])
            outputs.append(torch.stack(found if not direction else found[::-1]))
            ends.append(now)
        return torch.cat(outputs, -1), tuple(torch.stack(parts) for parts in zip(*ends, strict=True))

    def _step(self, seen: Tensor, state: State, suffix: str) -> State:
        raise NotImplementedError

    def _times(self, name: str, x: Tensor, bias: str | None = None) -> Tensor:
        held = getattr(self, name)
        y = times(held, x) if isinstance(held, Matrix) else F.linear(x, held)
        return y + getattr(self, bias).to(y.dtype) if bias is not None and self.bias else y

    def _suffixes(self, layer: int) -> list[str]:
        return [f"_l{layer}", f"_l{layer}_reverse"][: 2 if self.bidirectional else 1]

    def _names(self, suffix: str) -> list[str]:
        names = [f"weight_ih{suffix}", f"weight_hh{suffix}"]
        names += [f"bias_ih{suffix}", f"bias_hh{suffix}"] if self.bias else []
        return names + ([f"weight_hr{suffix}"] if self.proj_size else [])

    def flatten_parameters(self) -> None:
        """Nothing to do, for code that calls it on every recurrent layer."""

    @torch.no_grad()
    def expand(self, made: Dense | None = None) -> nn.Module:
        sizes: dict[str, Any] = {"proj_size": self.proj_size} if self.proj_size else {}
        layer = self._original(
            self.input_size,
            self.hidden_size,
            self.num_layers,
            bias=self.bias,
            batch_first=self.batch_first,
            dropout=self.dropout,
            bidirectional=self.bidirectional,
            device="meta",
            **sizes,
        )
        held = dict(held_matrices(self))
        for name in dict(layer.named_parameters()):
            matrix = held.get(name)
            parameter = getattr(self, name) if matrix is None else parameter_of(self, matrix, matrix.shape, made)
            setattr(layer, name, parameter)
        layer.flatten_parameters()
        return layer.train(self.training)

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}"
        for name in ("batch_first", "bidirectional", "dropout", "proj_size"):
            if getattr(self, name):
                text += f", {name}={getattr(self, name)}"
        return f"{text}, {saving(*dict(held_matrices(self)).values())}"


class LiamLSTM(_LiamRecurrent):
    """`nn.LSTM` any of whose weights are matrices: bidirectional, projected, packed sequences and all.

    Over a few steps it multiplies by the weights as they are stored. Over more it unpacks one layer at a time,
    for the length of one call, for torch's own recurrence: the same numbers as of the expanded layer.
    """

    mode = "LSTM"
    _original = nn.LSTM

    def _step(self, seen: Tensor, state: State, suffix: str) -> State:
        h, c = state
        gates = seen + self._times(f"weight_hh{suffix}", h.to(seen.dtype), f"bias_hh{suffix}")
        i, f, g, o = gates.chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        return (self._times(f"weight_hr{suffix}", h) if self.proj_size else h), c


class LiamGRU(_LiamRecurrent):
    """`nn.GRU` any of whose weights are matrices, otherwise as `LiamLSTM`."""

    mode = "GRU"
    _original = nn.GRU

    def _step(self, seen: Tensor, state: State, suffix: str) -> State:
        (h,) = state
        kept = self._times(f"weight_hh{suffix}", h.to(seen.dtype), f"bias_hh{suffix}")
        (r, z, n), (hr, hz, hn) = seen.chunk(3, -1), kept.chunk(3, -1)
        z = (z + hz).sigmoid()
        new = (n + (r + hr).sigmoid() * hn).tanh()
        return ((1 - z) * new + z * h,)
