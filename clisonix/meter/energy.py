"""One energy figure, with its interval and where it came from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

from clisonix.errors import ClisonixError
from clisonix.meter.reasons import SENTENCES, Reason

MODELLED = "cpu-time-model"
"""The `source` of figures that follow from CPU time; see `modelled` for every source that no instrument measured."""

WITH_CPU = "GPU module (with CPU)"
"""The `scope` of a counter that includes the CPU beside the GPU."""

_LATER = ("at_least", "at_most", "uuid", "code", "flags")  # fields that the first layout did not have


def modelled(source: str) -> bool:
    """Whether a source is a model and not an instrument."""
    return source.endswith("-model")


@dataclass(frozen=True)
class Energy:
    """Energy used by one device (or several, summed) during one window.

    Attributes:
        joules: the best figure, or None when there is none; never 0 in place of an unknown.
        low: lower end of the 95 % interval in joules, or None. For a counter the interval follows from when the
            counter moved and how the power varied around the window's edges; for a model from the range of its
            coefficient. A counter's own calibration error is not in it.
        high: upper end, or None.
        source: how it was obtained: `nvml-counter`, `nvml-samples`, `rapl-counter`, `cpu-time-model`, `ram-model`,
            or several joined by `+`.
        scope: what the figure covers, e.g. `GPU board`.
        device: which device, e.g. `gpu:0`.
        reason: why `joules` is missing, or which part of a sum is.
        refresh_s: how often the counter moves, in seconds, where that limits the figure.
        coverage: share of the window (0 to 1) that lies between two movements of the counter.
        detail: one phrase that says how the figure was obtained; `how` uses it.
        at_least: lower bound that holds for every load within the device's power limit, or None.
        at_most: upper bound of that kind, or None.
        uuid: the device's UUID, or None where it has none.
        code: a `Reason` for programs where `joules` is missing, else None.
        flags: `Flag` codes: what happened in the window that a reader must know.
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
    at_least: float | None = None
    at_most: float | None = None
    uuid: str | None = None
    code: str | None = None
    flags: tuple[str, ...] = ()

    @staticmethod
    def unknown(
        reason: str,
        *,
        source: str = "none",
        scope: str = "none",
        device: str = "none",
        code: str | None = None,
        uuid: str | None = None,
    ) -> Energy:
        """A missing figure and the reason why it is missing."""
        return Energy(None, None, None, source, scope, device, reason=reason, code=code, uuid=uuid)

    @property
    def validity(self) -> str:
        """`missing`, `modelled`, `incomplete` (a part of a sum is missing), `flagged`, or `measured`."""
        if self.joules is None:
            return "missing"
        if all(modelled(source) for source in self.source.split("+")):
            return "modelled"
        if self.reason is not None:
            return "incomplete"
        return "flagged" if self.flags else "measured"

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
            codes = {part.code for part in given if part.code is not None}
            return Energy.unknown(
                reason, source=_join(given, "source"), scope=_join(given, "scope"), device=_join(given, "device"),
                code=codes.pop() if len(codes) == 1 else Reason.UNKNOWN.value if codes else _none(given),
                uuid=_join_uuids(given),
            )  # fmt: skip
        coverages = [part.coverage for part in known if part.coverage is not None]
        refreshes = [part.refresh_s for part in known if part.refresh_s is not None]
        return Energy(
            joules=sum(part.joules or 0.0 for part in known),
            low=_sum(known, "low"),
            high=_sum(known, "high"),
            source=_join(known, "source"),
            scope=_join(known, "scope"),
            device=_join(known, "device"),
            reason="; ".join(reasons) or None,
            refresh_s=max(refreshes, default=None),
            coverage=min(coverages, default=None),
            detail="; ".join(_distinct(part._phrase() for part in known)),
            at_least=_sum(known, "at_least"),
            at_most=_sum(known, "at_most"),
            uuid=_join_uuids(known),
            flags=tuple(_distinct(flag for part in known for flag in part.flags)),
        )

    def how(self) -> str:
        """One plain phrase that says how the figure was obtained."""
        if self.joules is None:
            return f"unknown: {self.reason or 'no reason was given'}"
        remarks = "".join(f"; {SENTENCES.get(flag, flag)}" for flag in self.flags)
        return self._phrase() + remarks + (f"; incomplete: {self.reason}" if self.reason else "")

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON values; fields that the first layout lacked only where they are set."""
        content = asdict(self)
        content["flags"] = list(self.flags)
        return {key: value for key, value in content.items() if key not in _LATER or value not in (None, [])}

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
        return Energy(**{"low": None, "high": None, **content, "flags": tuple(content.get("flags", ()))})

    def _phrase(self) -> str:
        phrase = self.detail or self.source
        # A sum's detail already carries the refresh of each part.
        if self.refresh_s is None or "refresh" in phrase:
            return phrase
        return f"{phrase} (refresh {self.refresh_s:.2f} s)"


def best(readings: Iterable[Energy]) -> list[Energy]:
    """One reading per device, so that nothing is counted twice.

    A counter outranks integrated power samples, which outrank a model. Devices are compared by kind (`cpu:0` and
    `cpu` are both `cpu`): a model of the whole CPU and the counter of one of its packages describe the same watts.
    A CPU inside a module whose counter is known is in that counter already.
    """
    given = list(readings)
    rank = {id(r): _rank(r) for r in given}
    known = [r for r in given if r.joules is not None]
    whole = any(r.scope == WITH_CPU for r in known)
    top = {_kind(r): max(rank[id(o)] for o in known if _kind(o) == _kind(r)) for r in known}
    kept: list[Energy] = []
    for reading in given:
        kind, mine = _kind(reading), rank[id(reading)]
        if whole and kind == "cpu":
            continue
        if reading.joules is not None and mine < top[kind]:
            continue
        # A lost counter beside one that still knows: that one stands in, and says what it is. A lost second
        # opinion is not a missing device.
        if reading.joules is None and kind in top and (mine == 1 or top[kind] < 2):
            continue
        if reading.joules is None and mine < max(_rank(other) for other in given if _kind(other) == kind):
            continue
        kept.append(reading)
    return kept


def _none(given: list[Energy]) -> str | None:
    return None if given else Reason.NO_SENSOR.value


def _rank(reading: Energy) -> int:
    if modelled(reading.source):
        return 0
    return 1 if reading.source.endswith("-samples") else 2


def _kind(reading: Energy) -> str:
    return reading.device if reading.device.startswith("gpu") else reading.device.split(":")[0]


def _sum(parts: list[Energy], field: str) -> float | None:
    values = [getattr(part, field) for part in parts]
    return None if None in values else sum(values)


def _missing(part: Energy) -> str:
    reason = part.reason or "no reason was given"
    return reason if part.joules is not None or part.device == "none" else f"without {part.device}: {reason}"


def _join(parts: list[Energy], field: str) -> str:
    return "+".join(_distinct(word for part in parts for word in getattr(part, field).split("+"))) or "none"


def _join_uuids(parts: list[Energy]) -> str | None:
    return "+".join(_distinct(word for part in parts if part.uuid for word in part.uuid.split("+"))) or None


def _distinct(words: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(words))
