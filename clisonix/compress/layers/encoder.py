"""What torch's transformer encoder does to a padded batch on its fused path, done without that path."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def keep_from_nesting(encoder: nn.TransformerEncoder) -> None:
    """Keep `encoder` from nested tensors, which only its own fused path can take, and give the same outputs."""
    held: Any = encoder
    if getattr(encoder, "use_nested_tensor", False):
        held.use_nested_tensor = False
        encoder.register_forward_hook(_as_if_nested, with_kwargs=True)


def let_nest_again(encoder: nn.TransformerEncoder) -> None:
    """Undo `keep_from_nesting`."""
    held: Any = encoder
    for key, hook in list(encoder._forward_hooks.items()):
        if hook is _as_if_nested:
            del encoder._forward_hooks[key], encoder._forward_hooks_with_kwargs[key]
            held.use_nested_tensor = True


def _as_if_nested(
    encoder: nn.TransformerEncoder, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
) -> Tensor | None:
    """Nesting leaves padding out and puts zeros back at the end: just those positions differ otherwise."""
    given = dict(zip(("src", "mask", "src_key_padding_mask", "is_causal"), args, strict=False)) | kwargs
    source, padding = given["src"], given.get("src_key_padding_mask")
    layer: Any = encoder.layers[0]
    if layer.training or padding is None or given.get("mask") is not None or source.ndim != 3:
        return None
    if torch.compiler.is_compiling() or torch.is_autocast_enabled() or not torch.backends.mha.get_fastpath_enabled():
        return None
    if torch.is_grad_enabled() and (source.requires_grad or any(p.requires_grad for p in layer.parameters())):
        return None
    padding = padding if padding.dtype == torch.bool else padding != 0
    if encoder.mask_check and not torch._nested_tensor_from_mask_left_aligned(source, ~padding):
        return None
    left_out = torch.zeros_like(output[:1, :1])
    left_out = left_out if encoder.norm is None else encoder.norm(left_out)
    return torch.where(padding[..., None], left_out, output)
