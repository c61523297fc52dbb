"""One energy figure, with its interval and where it came from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

from clisonix.errors import ClisonixError

MODELLED = "cpu-time-model"
"""The `source` of every figure that no instrument measured."""


@dataclass(frozen=True)
class Energy:
    """Energy used by one device (or several, summed) during one window.

    The interval holds the true value with at least 95 % probability, given the sensor's stated properties:
    for a counter it comes from when the counter moved, for a model from the range of its coefficient. A
    counter's own calibration error is not in it.

    Attributes:
        joules: the best figure, or None when there is none; never 0 in place of an unknown.
        low: lower bound in joules, or None.
        high: upper bound in joules, or None.
        source: how it was obtained: `nvml-counter`, `rapl-counter`, `cpu-time-model`, or several joined by `+`.
        scope: what the figure covers, e.g. `GPU board`.
        device: which device, e.g. `gpu:0`.
        reason: why `joules` is missing, or which part of a sum is.
        refresh_s: how often the counter moves, in seconds, where that limits the figure.
        coverage: share of the window (0 to 1) that lies between two movements of the counter.
        detail: one phrase that says how the figure was obtained; `how` uses it.
    """

    joules: float | None
    low: float | None
    high: float | None
    source: str
    scope: str
    device: str
    reason: str | None = None
    refresh_s: float | None = None
    coverage: float | None = None
    detail: str | None = None

    @staticmethod
    def unknown(reason: str, *, source: str = "none", scope: str = "none", device: str = "none") -> Energy:
        """A missing figure and the reason why it is missing."""
        return Energy(None, None, None, source, scope, device, reason=reason)

    @staticmethod
    def total(parts: Iterable[Energy]) -> Energy:
        """Sum over devices, or over attempts of one device.

        Bounds are added, which is right whatever the errors have in common. Where a part is missing the sum
        is that of the known parts, and `reason` names the missing ones.
        """
        given = list(parts)
        known = [part for part in given if part.joules is not None]
        reasons = _distinct(_missing(part) for part in given if part.joules is None or part.reason)
        if not known:
            reason = "; ".join(reasons) or "there is no energy sensor"
            source, scope, device = _join(given, "source"), _join(given, "scope"), _join(given, "device")
            return Energy.unknown(reason, source=source, scope=scope, device=device)
        bounded = all(part.low is not None and part.high is not None for part in known)
        coverages = [part.coverage for part in known if part.coverage is not None]
        refreshes = [part.refresh_s for part in known if part.refresh_s is not None]
        return Energy(
            joules=sum(part.joules or 0.0 for part in known),
            low=sum(part.low or 0.0 for part in known) if bounded else None,
            high=sum(part.high or 0.0 for part in known) if bounded else None,
            source=_join(known, "source"),
            scope=_join(known, "scope"),
            device=_join(known, "device"),
            reason="; ".join(reasons) or None,
            refresh_s=max(refreshes, default=None),
            coverage=min(coverages, default=None),
            detail="; ".join(_distinct(part._phrase() for part in known)),
        )

    def how(self) -> str:
        """One plain phrase that says how the figure was obtained."""
        if self.joules is None:
            return f"unknown: {self.reason or 'no reason was given'}"
        return self._phrase() + (f"; incomplete: {self.reason}" if self.reason else "")

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return asdict(self)

    @staticmethod
    def from_json(content: dict[str, Any]) -> Energy:
        """The inverse of `to_json`.

        Raises:
            ClisonixError: a field is missing or unknown.
        """
        names = {field.name for field in fields(Energy)}
        if not isinstance(content, dict) or not {"joules", "source", "scope", "device"} <= set(content) <= names:
            raise ClisonixError(
                f"an energy figure must be an object with the fields {sorted(names)}; it is {content!r}"
            )
        return Energy(**{"low": None, "high": None, **content})

    def _phrase(self) -> str:
        phrase = self.detail or self.source
        # A sum's detail already carries the refresh of each part.
        if self.refresh_s is None or "refresh" in phrase:
            return phrase
        return f"{phrase} (refresh {self.refresh_s:.2f} s)"


def best(readings: Iterable[Energy]) -> list[Energy]:
    """Drop modelled readings of a device that another sensor measured, so that nothing is counted twice.

    Devices are compared by kind (`cpu:0` and `cpu` are both `cpu`): a model of the whole CPU and the counter
    of one of its packages describe the same watts.
    """
    given = list(readings)
    measured = {_kind(r) for r in given if r.joules is not None and r.source != MODELLED}
    modelled = {_kind(r) for r in given if r.joules is not None and r.source == MODELLED}
    kept: list[Energy] = []
    for reading in given:
        if reading.source == MODELLED and _kind(reading) in measured:
            continue
        # A lost counter beside a model that still knows: the model stands in, and says that it is a model.
        if reading.source != MODELLED and reading.joules is None and _kind(reading) in modelled - measured:
            continue
        kept.append(reading)
    return kept


def _kind(reading: Energy) -> str:
    return reading.device if reading.device.startswith("gpu") else reading.device.split(":")[0]


def _missing(part: Energy) -> str:
    reason = part.reason or "no reason was given"
    return reason if part.joules is not None or part.device == "none" else f"without {part.device}: {reason}"


def _join(parts: list[Energy], field: str) -> str:
    return "+".join(_distinct(word for part in parts for word in getattr(part, field).split("+"))) or "none"


def _distinct(words: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(words))
