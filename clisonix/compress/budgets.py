"""What a budget means: a share of the dense model's cost, an amount, or an amount with its unit."""

from __future__ import annotations

import math
import re

from clisonix.errors import ClisonixError, nearest

UNITS = {"bytes": "bytes", "seconds": "s", "joules": "J"}
_SCALES = {
    "bytes": {"B": 1.0, "bytes": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20},
    "seconds": {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6},
    "joules": {"J": 1.0, "mJ": 1e-3, "uJ": 1e-6, "µJ": 1e-6, "kJ": 1e3},
}
_AMOUNT = re.compile(r"\s*(\d+(?:\.\d*)?(?:e[+-]?\d+)?|\.\d+(?:e[+-]?\d+)?)\s*([A-Za-zµ]+)\s*")


def check_objective(objective: str) -> str:
    """`objective`, if it is one.

    Raises:
        ClisonixError: it is not.
    """
    if objective not in UNITS:
        raise ClisonixError(f"the objective {objective!r} is unknown{nearest(str(objective), UNITS)}")
    return objective


def amount(budget: float | int | str, objective: str, dense: float) -> float:
    """The budget in bytes, seconds or joules; whole bytes.

    Args:
        budget: up to 1 a share of `dense`, above 1 an amount; or an amount with its unit, such as "12 MB", "3 ms".
        objective: "bytes", "seconds" or "joules".
        dense: the cost of the dense model.

    Raises:
        ClisonixError: a budget that makes no sense.
    """
    what = f"a fraction of the dense {'file' if objective == 'bytes' else 'cost'} up to 1, or a number of {objective}"
    if isinstance(budget, str):
        match = _AMOUNT.fullmatch(budget)
        scale = _SCALES[objective].get(match[2]) if match else None
        if match is None or scale is None or not 0 < float(match[1]) < math.inf:
            units = ", ".join(_SCALES[objective])
            raise ClisonixError(f"the budget is {budget!r}; give {what}, or such a number with a unit of {units}")
        found = float(match[1]) * scale
        return float(math.floor(found)) if objective == "bytes" else found
    number = isinstance(budget, int | float) and not isinstance(budget, bool)
    if not number or not 0 < budget < math.inf:
        raise ClisonixError(f"the budget is {budget!r}; give {what}")
    if budget > 1:
        # No file is larger, and a larger number may be no float at all.
        budget = min(budget, 2**62)
        return math.floor(budget) if objective == "bytes" else float(budget)
    return math.floor(budget * dense) if objective == "bytes" else budget * dense
