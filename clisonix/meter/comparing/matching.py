"""Whether two groups of runs may be compared: what must agree, and what should."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from clisonix.meter.comparing.runs import Run

Verdict = Literal["alike", "differs", "not recorded"]
Ask = Callable[[Run], list[Any]]


@dataclass(frozen=True)
class Condition:
    """One circumstance on both sides.

    Attributes:
        what: with its unit.
        a: what side a recorded, for reading.
        b: likewise.
        verdict: whether the sides are alike.
    """

    what: str
    a: str
    b: str
    verdict: Verdict


def obstacles(runs_a: list[Run], runs_b: list[Run]) -> list[str]:
    """What differs between the runs and makes a comparison meaningless unless somebody insists on it."""
    runs = runs_a + runs_b
    metered = [run for run in runs if run.train.joules is not None]
    # An unknown energy or quality is shown as unknown; it is no reason to refuse the rest.
    questions: list[tuple[str, list[Run], Callable[[Run], object]]] = [
        ("the task", runs, lambda run: run.record.task),
        ("the hardware", runs, lambda run: ", ".join(run.hardware)),
        ("the way the energy was obtained", metered, lambda run: _sorted(run.train.source)),
        ("what the energy covers", metered, lambda run: _sorted(run.train.scope)),
        ("the GPU's power limit", runs, _power_limit),
        ("the measure of quality", runs, lambda run: (run.record.quality or {}).get("metric")),
    ]
    found = []
    for what, asked, ask in questions:
        answers = list(dict.fromkeys(str(ask(run)) for run in asked if ask(run)))
        if len(answers) > 1:
            found.append(f"{what} differs ({' / '.join(answers)})")
    return found


def conditions_of(runs_a: list[Run], runs_b: list[Run]) -> list[Condition]:
    """What should be alike, side by side; see `conditions` for what a run records."""
    runs = runs_a + runs_b
    cores = max(float(run.record.hardware.get("cores") or 1) for run in runs)
    numbers: list[tuple[str, Ask, float]] = [
        ("GPU temperature at the start (°C)", _gpu("temperature_c", "start"), 5),
        ("GPU temperature at the end (°C)", _gpu("temperature_c", "end"), 5),
        ("GPU SM clock at the end (MHz)", _gpu("sm_clock_mhz", "end"), 50),
        ("GPU power limit (W)", _gpu("power_limit_w"), 0.5),
        ("CPU clock (MHz)", _cpu("clock_mhz"), 100),
        ("CPU temperature at the start (°C)", _cpu("temperature_c", "start"), 5),
        ("load of the machine at the start", _cpu("load_1min", "start"), cores / 2),
    ]
    words: list[tuple[str, Ask]] = [
        ("GPU throttling", _throttling),
        ("GPU driver", _gpu("driver")),
        ("CPU governor", _cpu("governor")),
        ("threads", lambda run: [x for x in [run.record.hardware.get("threads")] if x is not None]),
        ("software", lambda run: [f"{name} {version}" for name, version in run.record.software.items()]),
    ]
    found = [_numbers(what, runs_a, runs_b, ask, tolerance) for what, ask, tolerance in numbers]
    found += [_words(what, runs_a, runs_b, ask) for what, ask in words]
    gpus = any(run.record.hardware.get("gpus") for run in runs)
    return [one for one in found if gpus or not one.what.startswith("GPU")]


def order_note(runs_a: list[Run], runs_b: list[Run]) -> str:
    """A warning where all runs of one side were made before all of the other; else empty."""
    if len(runs_a) + len(runs_b) < 3:
        return ""
    a, b = ([run.record.created_utc for run in side] for side in (runs_a, runs_b))
    if max(a) >= min(b) and max(b) >= min(a):
        return ""
    first, last = ("a", "b") if max(a) < min(b) else ("b", "a")
    return (
        f"All runs of {first} were made before those of {last}: a machine that drifts would look like a difference; "
        "make them alternately."
    )


def condition_notes(found: Iterable[Condition]) -> list[str]:
    """Three sentences at most: what differs, what is alike, what was not recorded."""
    by_verdict: dict[str, list[str]] = {}
    for one in found:
        text = f"{one.what}: {one.a} / {one.b}" if one.verdict == "differs" else one.what
        by_verdict.setdefault(one.verdict, []).append(text)
    titles = {"differs": "Conditions that differ", "alike": "alike", "not recorded": "not recorded"}
    said = [f"{title}: {', '.join(by_verdict[key])}" for key, title in titles.items() if key in by_verdict]
    if not said:
        return []
    first = said[0] if said[0].startswith("Conditions") else f"Conditions {said[0]}"
    return ["; ".join([first, *said[1:]]) + "."]


def _numbers(what: str, runs_a: list[Run], runs_b: list[Run], ask: Ask, tolerance: float) -> Condition:
    a, b = ([float(x) for run in side for x in ask(run)] for side in (runs_a, runs_b))
    if not a or not b:
        return Condition(what, _range(a), _range(b), "not recorded")
    near = abs(sum(a) / len(a) - sum(b) / len(b)) <= tolerance
    return Condition(what, _range(a), _range(b), "alike" if near else "differs")


def _words(what: str, runs_a: list[Run], runs_b: list[Run], ask: Ask) -> Condition:
    a, b = ({str(x) for run in side for x in ask(run)} for side in (runs_a, runs_b))
    if not a or not b:
        return Condition(what, _list(a), _list(b), "not recorded")
    # Long lists differ in one entry: only that is worth reading.
    return (
        Condition(what, _list(a), _list(b), "alike")
        if a == b
        else Condition(what, _list(a - b), _list(b - a), "differs")
    )


def _snapshots(run: Run, end: str | None) -> list[dict[str, Any]]:
    taken = [attempt.get("conditions") or {} for attempt in run.record.attempts]
    ends = [end] if end else ["start", "end"]
    return [one[name] for one in taken for name in ends if isinstance(one.get(name), dict)]


def _gpu(field: str, end: str | None = None) -> Ask:
    def ask(run: Run) -> list[Any]:
        gpus = [gpu for snapshot in _snapshots(run, end) for gpu in snapshot.get("gpus", [])]
        return [gpu[field] for gpu in gpus if gpu.get(field) is not None]

    return ask


def _cpu(field: str, end: str | None = None) -> Ask:
    def ask(run: Run) -> list[Any]:
        return [s["cpu"][field] for s in _snapshots(run, end) if s.get("cpu", {}).get(field) is not None]

    return ask


def _throttling(run: Run) -> list[str]:
    # "none" is an answer too: without it an unthrottled run would look like one that recorded nothing.
    return [reason for reasons in _gpu("throttling")(run) for reason in reasons or ["none"]]


def _sorted(joined: str) -> str:
    return "+".join(sorted(joined.split("+")))


def _power_limit(run: Run) -> str:
    return ", ".join(f"{value:g} W" for value in sorted(set(_gpu("power_limit_w")(run))))


def _list(words: Iterable[str]) -> str:
    return ", ".join(sorted(words)) or "none"


def _range(values: list[float]) -> str:
    if not values:
        return "none"
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
