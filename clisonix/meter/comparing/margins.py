"""Margins that the user sets per metric: `energy=2%`, `quality=0.5`."""

from __future__ import annotations

import math
from collections.abc import Iterable

from clisonix.errors import ClisonixError, nearest
from clisonix.meter.comparing.metrics import METRICS

RELATIVE = {"time", "energy", "size"}


def parse_margins(texts: Iterable[str], option: str) -> dict[str, float]:
    """Read margins.

    Args:
        texts: each `METRIC=VALUE`, or several separated by commas. Time, energy and size take a percentage;
            quality takes points (of accuracy) or the metric's own unit.
        option: how the user gave them, for the sentence.

    Returns:
        Metric to margin: a fraction (0.02 for 2 %), or for quality its own unit.

    Raises:
        ClisonixError: a text cannot be read, or names a metric twice.
    """
    found: dict[str, float] = {}
    for word in (part.strip() for text in texts for part in text.split(",")):
        metric, equals, value = word.partition("=")
        metric = metric.strip()
        if not equals:
            raise ClisonixError(f"{option} {word!r} is no margin: give METRIC=VALUE, like energy=2% or quality=0.5")
        if metric not in METRICS:
            raise ClisonixError(f"{option} names the unknown metric {metric!r}{nearest(metric, METRICS)}")
        if metric in found:
            raise ClisonixError(f"{option} gives the metric {metric!r} twice: give it once")
        found[metric] = _value(metric, value.strip(), option)
    return found


def parse_percentage(text: str, option: str) -> float:
    """The fraction that a percentage stands for: 0.05 for `5%`; ClisonixError where it is none."""
    word = text.strip()
    try:
        value = float(word.removesuffix("%"))
    except ValueError:
        value = math.nan
    if not word.endswith("%") or not 0 <= value < math.inf:
        raise ClisonixError(f"{option} {text!r} is no percentage: give one of 0 or more with its sign, like 5%")
    return value / 100


def _value(metric: str, text: str, option: str) -> float:
    percent = text.endswith("%")
    if percent != (metric in RELATIVE):
        example = f"{metric}=2%" if metric in RELATIVE else f"{metric}=0.5"
        kind = "a percentage" if metric in RELATIVE else "in points of accuracy (or the metric's unit), without %"
        raise ClisonixError(f"{option} {metric}={text}: the margin of {metric} is {kind}, like {example}")
    try:
        value = float(text.rstrip("%"))
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ClisonixError(f"{option} {metric}={text}: the margin must be a number, 0 or more")
    return value / 100 if percent else value


def limits(margin: float, relative: bool) -> tuple[float, float]:
    """The range of effects within a margin: of log ratios when `relative`, symmetric about no change."""
    high = math.log1p(margin) if relative else margin
    return -high, high


def margin_text(metric: str, margin: float, unit: str = "points") -> str:
    """A margin as the user wrote it."""
    return f"{100 * margin:g} %" if metric in RELATIVE else f"{margin:g} {unit}".rstrip()
