"""Compress any model under a budget: plan, convert, train on, save, load."""

import sys
from types import ModuleType

from clisonix.compress.blockwise import reconstruct
from clisonix.compress.compress import compress
from clisonix.compress.convert import converted, expand, shell
from clisonix.compress.export import export_onnx
from clisonix.compress.forms import Form, form_of
from clisonix.compress.layers import (
    LiamConv,
    LiamConv1D,
    LiamEmbedding,
    LiamGRU,
    LiamLinear,
    LiamLSTM,
    LiamMultiheadAttention,
)
from clisonix.compress.planner import plan
from clisonix.compress.plans import LayerPlan, Plan
from clisonix.compress.recover import recover
from clisonix.compress.report import Cost, PayBack, inference_costs, pay_back
from clisonix.compress.store import load, save
from clisonix.compress.survey import Site, survey

__all__ = [
    "Cost",
    "Form",
    "LayerPlan",
    "LiamConv",
    "LiamConv1D",
    "LiamEmbedding",
    "LiamGRU",
    "LiamLSTM",
    "LiamLinear",
    "LiamMultiheadAttention",
    "PayBack",
    "Plan",
    "Site",
    "compress",
    "converted",
    "expand",
    "export_onnx",
    "form_of",
    "inference_costs",
    "load",
    "pay_back",
    "plan",
    "reconstruct",
    "recover",
    "save",
    "shell",
    "survey",
]


class _Callable(ModuleType):
    # Python binds a package to its parent when anything in it is first imported, so `clisonix.compress` is
    # this module as soon as `clisonix.plan` was used. `clisonix.compress(model, 0.3)` must work all the same.
    __call__ = staticmethod(compress)


sys.modules[__name__].__class__ = _Callable
