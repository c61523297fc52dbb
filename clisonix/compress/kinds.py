"""The kinds of layers whose weights can be matrices, and why some of these still have to stay as they are."""

from __future__ import annotations

from torch import nn
from torch.nn.utils import parametrize

# Layers that a compressed one stands in for, and the beginnings of the names of their weights.
MATRIX_LAYERS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Linear: ("weight",),
    nn.Conv1d: ("weight",),
    nn.Conv2d: ("weight",),
    nn.Conv3d: ("weight",),
    nn.Embedding: ("weight",),
    nn.LSTM: ("weight_ih_l", "weight_hh_l", "weight_hr_l"),
    nn.GRU: ("weight_ih_l", "weight_hh_l"),
    nn.MultiheadAttention: ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"),
}
# What a subclass may define without being another function than its base.
_HARMLESS = {"reset_parameters", "_reset_parameters", "extra_repr", "_version"}
# Of the names that Python gives meaning to, those that change what a module does.
_HARMFUL = {"__call__", "__getattr__", "__getattribute__", "__setattr__", "__torch_function__"}
_PARAMETRISED = "parametrised: it is computed from other tensors; remove the parametrisation to have it compressed"


def kind_of(module: nn.Module) -> type[nn.Module] | None:
    """The kind of layer `module` is, in `MATRIX_LAYERS`; transformers' `Conv1D` counts as Linear; None for others."""
    if is_conv1d(module):
        return nn.Linear
    return next((kind for kind in MATRIX_LAYERS if isinstance(module, kind)), None)


def is_conv1d(module: nn.Module) -> bool:
    """Whether this is the `Conv1D` of transformers: by its name, so that nothing is imported for it."""
    kind = type(module)
    return kind.__name__ == "Conv1D" and kind.__module__.split(".")[0] == "transformers"


def is_plain(module: nn.Module) -> bool:
    """Whether `module` computes just what its kind computes.

    A subclass may set itself up and print itself in its own way; anything else it defines could be a behaviour that a
    new layer would lose.
    """
    if is_conv1d(module):
        return True
    kind = kind_of(module)
    if kind is None:
        return False
    own = {name for base in type(module).__mro__ if base not in kind.__mro__ for name in vars(base)}
    return all(name in _HARMLESS or (name.startswith("__") and name not in _HARMFUL) for name in own)


def why_not_layer(module: nn.Module, parameter: str) -> str | None:
    """Why a parameter of two or more dimensions must stay as it is, as far as its module tells, or None."""
    name = type(module).__name__
    if parametrize.is_parametrized(module) or type(module).__module__ == parametrize.__name__:
        return _PARAMETRISED
    if isinstance(module, nn.ParameterList | nn.ParameterDict):
        return "a bare parameter, whose use the model's code alone knows"
    kind = kind_of(module)
    if kind is None:
        if type(module).__module__.startswith("torch.nn."):
            return f"{name}: layers of this kind are not compressed in this version"
        return f"a parameter of {name} itself, whose use its code alone knows"
    if parameter.startswith("weight") and parameter.endswith(("_g", "_v", "_orig")):
        return _PARAMETRISED
    if not _is_weight(kind, parameter):
        return f"no weight of its {name}"
    if not is_plain(module):
        return f"{name} is a subclass, whose own behaviour a compressed layer would lose"
    return _why_not_settings(module) or _why_not_hooks(module)


def _is_weight(kind: type[nn.Module], parameter: str) -> bool:
    """Whether a parameter has a name that `kind` gives its weights; those of recurrent layers end in a number."""
    names = MATRIX_LAYERS[kind]
    return parameter.startswith(names) if kind in (nn.LSTM, nn.GRU) else parameter in names


def _why_not_settings(module: nn.Module) -> str | None:
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and module.groups != 1:
        return f"a grouped convolution (groups={module.groups})"
    if isinstance(module, nn.Embedding) and module.max_norm is not None:
        return f"it renormalises the rows it looks up (max_norm={module.max_norm})"
    if isinstance(module, nn.Embedding) and module.scale_grad_by_freq:
        return "it scales gradients by how often a row is looked up (scale_grad_by_freq)"
    return None


def _why_not_hooks(module: nn.Module) -> str | None:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    if any(hooks) or "forward" in vars(module):
        return "it has hooks or a patched forward, which a new layer would lose"
    return None
