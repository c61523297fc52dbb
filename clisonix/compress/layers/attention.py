"""Multi-head attention whose weights are matrices of the algebra."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clisonix.compress.layers.base import Dense, LiamLayer, held_matrices, parameter_of, saving
from clisonix.compress.layers.linear import LiamLinear
from clisonix.compress.layers.products import times
from clisonix.errors import ClisonixError
from clisonix.liam.matrix import Matrix

_SEPARATE = ("q_proj_weight", "k_proj_weight", "v_proj_weight")


class LiamMultiheadAttention(LiamLayer, nn.Module):
    """`nn.MultiheadAttention` any of whose weights are matrices: same inputs, same outputs.

    The fused path of `nn.TransformerEncoderLayer`, which would read the weights past this layer, sees
    `_qkv_same_embed_dim` false and keeps away.

    Args:
        like: the layer whose sizes, biases and kept weights are taken over (shared, not copied).
        weights: matrices by the name of the parameter they replace: `in_proj_weight`, or `q_proj_weight` and so on.
        out_proj: the output layer; that of `like` by default.
    """

    in_proj_weight: Matrix | nn.Parameter
    in_proj_bias: nn.Parameter | None
    bias_k: nn.Parameter | None
    bias_v: nn.Parameter | None

    def __init__(
        self, like: nn.MultiheadAttention, weights: Mapping[str, Matrix], out_proj: nn.Linear | None = None
    ) -> None:
        super().__init__()
        self.embed_dim, self.kdim, self.vdim = like.embed_dim, like.kdim, like.vdim
        self.num_heads, self.head_dim, self.dropout = like.num_heads, like.head_dim, like.dropout
        self.batch_first, self.add_zero_attn = like.batch_first, like.add_zero_attn
        self._qkv_same_embed_dim = False
        self._joint = like._qkv_same_embed_dim
        # In the order of the ordinary layer, so that what is stored by its first name is stored by the same.
        for name in (*_SEPARATE, "in_proj_weight", "in_proj_bias", "bias_k", "bias_v"):
            parameter, matrix = getattr(like, name), weights.get(name)
            if matrix is None:
                self.register_parameter(name, parameter)
            elif parameter is None or matrix.shape != tuple(parameter.shape):
                expected = "absent" if parameter is None else tuple(parameter.shape)
                raise ClisonixError(f"{name!r} is {matrix.shape} and must be {expected}; give its own form")
            else:
                self.add_module(name, matrix)
        self.out_proj = like.out_proj if out_proj is None else out_proj
        self.keep_dtype(next(like.parameters()).dtype, *weights.values())

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As of `nn.MultiheadAttention`.

        Args:
            query: `(batch, queries, embed_dim)` if `batch_first`, else `(queries, batch, embed_dim)`; the batch may
                be left out.
            key: in the same way, `kdim` wide.
            value: in the same way, `vdim` wide.
            key_padding_mask: `(batch, keys)`: true, or added, where a key counts for nothing.
            need_weights: whether the weights are returned as well, which takes longer.
            attn_mask: `(queries, keys)` or `(batch · heads, queries, keys)`: true where nothing passes, or added.
            average_attn_weights: whether the weights returned are those of the mean head.
            is_causal: a hint that `attn_mask` is the causal one.

        Returns:
            The outputs in the order of `query`; the weights `(batch, queries, keys)`, or with a head axis, or None.
        """
        if is_causal and attn_mask is None:
            raise ClisonixError(
                "is_causal was given without attn_mask, whose kind it only tells; give the mask as well"
            )
        batched = query.ndim == 3
        if not batched:
            query, key, value = (x[None] for x in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask[None]
        elif not self.batch_first:
            query, key, value = _alike(query, key, value)
        q, k, v = self._projected(query, key, value)
        batch, length = q.shape[:2]
        # A mask for the keys makes the hint useless, as in torch.
        causal = is_causal and key_padding_mask is None and not need_weights
        mask = None if causal else self._mask(attn_mask, key_padding_mask, batch, length, k.shape[1], q.dtype)
        k, v, mask = self._extended(k, v, mask)
        q, k, v = (x.view(*x.shape[:2], self.num_heads, self.head_dim).transpose(1, 2) for x in (q, k, v))
        drop = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = (q * math.sqrt(1.0 / self.head_dim)) @ k.mT
            weights = (scores if mask is None else scores + mask).softmax(-1)
            weights = F.dropout(weights, drop) if drop else weights
            y = weights.to(v.dtype) @ v
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=drop, is_causal=causal)
        y = self.out_proj(y.transpose(1, 2).flatten(2))
        if not batched:
            return y[0], None if weights is None else weights[0]
        return y if self.batch_first else y.transpose(0, 1), weights

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values `(batch, length, embed_dim)`; one product where all three are one tensor."""
        bias = self.in_proj_bias
        if not self._joint:
            q, k, v = (_times(getattr(self, name), x) for name, x in zip(_SEPARATE, (query, key, value), strict=True))
        elif query is key and key is value:
            q, k, v = _times(self.in_proj_weight, query).chunk(3, -1)
        else:
            thirds = [slice(i * self.embed_dim, (i + 1) * self.embed_dim) for i in range(3)]
            parts = [self.in_proj_weight[third] for third in thirds]
            q, k, v = (_times(part, x) for part, x in zip(parts, (query, key, value), strict=True))
        if bias is None:
            return q, k, v
        q, k, v = (x + part.to(x.dtype) for x, part in zip((q, k, v), bias.chunk(3), strict=True))
        return q, k, v

    def _mask(
        self, mask: Tensor | None, padding: Tensor | None, batch: int, length: int, keys: int, dtype: torch.dtype
    ) -> Tensor | None:
        """Both masks as one that is added: `(batch or 1, heads or 1, queries, keys)`."""
        mask, padding = _added(mask, dtype), _added(padding, dtype)
        if mask is not None:
            fits = (length, keys), (batch * self.num_heads, length, keys)
            if tuple(mask.shape) not in fits:
                raise ClisonixError(f"attn_mask is {tuple(mask.shape)}; give {fits[0]} or {fits[1]}")
            mask = mask[None, None] if mask.ndim == 2 else mask.view(batch, self.num_heads, length, keys)
        if padding is not None:
            if tuple(padding.shape) != (batch, keys):
                raise ClisonixError(f"key_padding_mask is {tuple(padding.shape)}; give {(batch, keys)}")
            padding = padding[:, None, None]
        return padding if mask is None else mask if padding is None else mask + padding

    def _extended(self, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys and values with what `add_bias_kv` and `add_zero_attn` put behind them."""
        more = 0
        if self.bias_k is not None and self.bias_v is not None:
            k = torch.cat([k, self.bias_k.to(k.dtype).expand(len(k), 1, -1)], 1)
            v = torch.cat([v, self.bias_v.to(v.dtype).expand(len(v), 1, -1)], 1)
            more += 1
        if self.add_zero_attn:
            k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
            more += 1
        return k, v, F.pad(mask, (0, more)) if mask is not None and more else mask

    @torch.no_grad()
    def expand(self, made: Dense | None = None) -> nn.Module:
        layer = nn.MultiheadAttention(
            self.embed_dim,
            self.num_heads,
            dropout=self.dropout,
            bias=self.in_proj_bias is not None,
            add_bias_kv=self.bias_k is not None,
            add_zero_attn=self.add_zero_attn,
            kdim=self.kdim,
            vdim=self.vdim,
            batch_first=self.batch_first,
            device="meta",
        )
        held = dict(held_matrices(self))
        for name in list(layer._parameters):
            matrix = held.get(name)
            parameter = getattr(self, name) if matrix is None else parameter_of(self, matrix, matrix.shape, made)
            layer.register_parameter(name, parameter)
        ordinary = layer.out_proj
        if isinstance(self.out_proj, LiamLinear):
            ordinary.weight = parameter_of(self.out_proj, self.out_proj.weight, self.out_proj.weight.shape, made)
            ordinary.register_parameter("bias", self.out_proj.bias)
        else:
            ordinary.weight = self.out_proj.weight
            ordinary.register_parameter("bias", self.out_proj.bias)
        return layer.train(self.training)

    def extra_repr(self) -> str:
        text = f"embed_dim={self.embed_dim}, num_heads={self.num_heads}, batch_first={self.batch_first}"
        held = dict(held_matrices(self)).values()
        return f"{text}, {saving(*held)}" if held else text


def _alike(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All three with the batch first; what was one tensor stays one."""
    q = query.transpose(0, 1)
    k = q if key is query else key.transpose(0, 1)
    return q, k, q if value is query else k if value is key else value.transpose(0, 1)


def _times(weight: Matrix | Tensor, x: Tensor) -> Tensor:
    return times(weight, x) if isinstance(weight, Matrix) else F.linear(x, weight)


def _added(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    if mask is None or mask.is_floating_point():
        return mask if mask is None else mask.to(dtype)
    if mask.dtype != torch.bool:
        raise ClisonixError(f"a mask is of {mask.dtype}; give torch.bool or floating point")
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, float("-inf"))
