"""Compress any model under a byte budget: plan, convert, train on, save, load."""

import sys
from types import ModuleType

from clisonix.compress.convert import compress, expand, shell
from clisonix.compress.layers import LiamConv, LiamLinear
from clisonix.compress.planner import plan
from clisonix.compress.plans import LayerPlan, Plan
from clisonix.compress.store import load, save

__all__ = ["LayerPlan", "LiamConv", "LiamLinear", "Plan", "compress", "expand", "load", "plan", "save", "shell"]


class _Callable(ModuleType):
    # Python binds a package to its parent when anything in it is first imported, so `clisonix.compress` is
    # this module as soon as `clisonix.plan` was used. `clisonix.compress(model, 0.3)` must work all the same.
    __call__ = staticmethod(compress)


sys.modules[__name__].__class__ = _Callable
