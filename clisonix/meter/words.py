"""Numbers as people read them."""

from __future__ import annotations

import math

_STEPS = {
    "J": [(1e6, "MJ"), (1e3, "kJ"), (1.0, "J"), (1e-3, "mJ")],
    "bytes": [(1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "bytes")],
    "s": [(3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms")],
    "g": [(1e3, "kg"), (1.0, "g"), (1e-3, "mg"), (1e-6, "µg")],
}


def quantity(value: float | None, unit: str) -> str:
    """A value with three significant digits and a fitting unit; `unknown` when there is none."""
    if value is None or not math.isfinite(value):
        return "unknown"
    factor, name = fitting(value, unit)
    return f"{number(value / factor)} {name}".rstrip()


def span(low: float | None, high: float | None, unit: str) -> str:
    """An interval in the unit that fits its upper end; empty when there is none."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return ""
    factor, name = fitting(high, unit)
    return f"{number(low / factor)} to {number(high / factor)} {name}".rstrip()


def fitting(value: float, unit: str) -> tuple[float, str]:
    """The multiple of a unit in which a value reads well: its factor and its name."""
    steps = _STEPS.get(unit, [(1.0, unit)])
    return next(
        ((factor, name) for factor, name in steps if abs(value) >= factor), steps[-1] if value else (1.0, unit)
    )


def number(value: float) -> str:
    """Three significant digits without an exponent where that is readable."""
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e6:
        return f"{value:.2e}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def signed(value: float) -> str:
    """Like `number`, always with a sign."""
    return ("+" if value >= 0 else "−") + number(abs(value))


def group_name(names: list[str]) -> str:
    """One run by its name, several by the first and how many follow."""
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def plain(text: object) -> str:
    """Text for Markdown that can open no table cell, link or tag of its own."""
    marked = "".join(f"\\{c}" if c in "\\`*_[]|#" else c for c in str(text))
    escaped = marked.replace("<", "&lt;").replace(">", "&gt;")
    return " ".join(escaped.split())
