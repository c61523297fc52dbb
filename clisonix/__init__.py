"""Clisonix: deep learning on physiological signals that costs less, and proves it.

What is listed here is the public face; each name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clisonix.compress import Plan, compress, expand, load, plan, recover, save
    from clisonix.errors import ClisonixError
    from clisonix.fabric import SignalFabric
    from clisonix.liam import BinaryAlgebra
    from clisonix.meter import Meter, measured
    from clisonix.tide import TideEngine

__version__ = "0.1.0"

_HOMES = {
    "BinaryAlgebra": "clisonix.liam",
    "ClisonixError": "clisonix.errors",
    "Meter": "clisonix.meter",
    "Plan": "clisonix.compress",
    "SignalFabric": "clisonix.fabric",
    "TideEngine": "clisonix.tide",
    "compress": "clisonix.compress",
    "expand": "clisonix.compress",
    "load": "clisonix.compress",
    "measured": "clisonix.meter",
    "plan": "clisonix.compress",
    "recover": "clisonix.compress",
    "save": "clisonix.compress",
}

__all__ = [
    "BinaryAlgebra",
    "ClisonixError",
    "Meter",
    "Plan",
    "SignalFabric",
    "TideEngine",
    "compress",
    "expand",
    "load",
    "measured",
    "plan",
    "recover",
    "save",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any of the above
    if name not in _HOMES:
        raise AttributeError(f"module 'clisonix' has no attribute {name!r}")
    home = importlib.import_module(_HOMES[name])
    # The package `clisonix.compress` is callable, so it can be the function of the same name as well.
    value = home if home.__name__ == f"{__name__}.{name}" else getattr(home, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
