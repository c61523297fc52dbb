"""The same work at several power limits of the GPUs: at which does it use least energy?

Below its highest power limit a GPU runs slower, at a lower voltage, and mostly uses less energy for the same work
(You, Chung, Chowdhury: Zeus, NSDI 2023, https://www.usenix.org/conference/nsdi23/presentation/you).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clisonix.errors import ClisonixError
from clisonix.meter.energy import Energy
from clisonix.meter.meter import Meter
from clisonix.meter.power.power_limit import Board, power_boards, with_limits_kept
from clisonix.meter.words import quantity

STEPS = 5


@dataclass(frozen=True)
class SweepPoint:
    """The work at one power limit. Energy is that of the swept GPUs' boards.

    Attributes:
        limit_w: the limit of each GPU, in watts.
        runs: how often the work ran.
        seconds: for the work once.
        joules: for the work once, all GPUs together; None where it is unknown.
        low: lower end of the 95 % interval, or None.
        high: upper end, or None.
        watts: mean power of all GPUs together, or None.
        how: how the figure was obtained, or why there is none.
    """

    limit_w: float
    runs: int
    seconds: float
    joules: float | None
    low: float | None
    high: float | None
    watts: float | None
    how: str


@dataclass(frozen=True)
class Sweep:
    """What a sweep found.

    Attributes:
        gpus: of each GPU the `device`, `uuid`, `model`, the limit it had and has again (`limit_w`), and the allowed
            `low_w` to `high_w`.
        points: by falling limit.
        max_slowdown: how much longer than at the highest limit the work may take, e.g. 0.05; or None.
    """

    gpus: list[dict[str, Any]]
    points: list[SweepPoint]
    max_slowdown: float | None = None

    @property
    def optimum(self) -> SweepPoint | None:
        """The point of least energy; None where energy is unknown."""
        return min((p for p in self.points if p.joules is not None), key=_joules, default=None)

    @property
    def within_slowdown(self) -> SweepPoint | None:
        """The point of least energy among those that keep to `max_slowdown`; None without one."""
        if self.max_slowdown is None:
            return None
        allowed_s = self.points[0].seconds * (1 + self.max_slowdown)
        quick = (p for p in self.points if p.joules is not None and p.seconds <= allowed_s)
        return min(quick, key=_joules, default=None)

    @property
    def as_good(self) -> list[float]:
        """Limits whose interval overlaps that of the optimum: this sweep cannot tell which of them is better."""
        best = self.optimum
        if best is None or best.high is None:
            return []
        return [p.limit_w for p in self.points if p is not best and p.low is not None and p.low <= best.high]

    def to_json(self) -> dict[str, Any]:
        """All of it as plain JSON values."""
        optimum, within = self.optimum, self.within_slowdown
        return {
            "gpus": self.gpus,
            "points": [asdict(point) for point in self.points],
            "optimum_w": optimum and optimum.limit_w,
            "as_good_w": self.as_good,
            "max_slowdown": self.max_slowdown,
            "within_slowdown_w": within and within.limit_w,
        }


def sweep_power(
    work: Callable[[], object],
    limits: Iterable[float] | None = None,
    *,
    min_w: float | None = None,
    max_w: float | None = None,
    steps: int = STEPS,
    seconds: float = 5.0,
    max_slowdown: float | None = None,
    warmup: bool = True,
    settle_s: float = 0.5,
    visible: str | None = None,
    nvml: Any = None,  # noqa: ANN401 - a module
    state: Path | None = None,
    say: Callable[[str], None] | None = None,
) -> Sweep:
    """Run the same work at several power limits and measure energy and time; then put the limits back.

    How they are put back, and what to do after a SIGKILL, says `with_limits_kept`. Call it from the main thread, with
    the rights of an administrator, and with nothing else on the GPUs.

    Args:
        work: does the same each time; what it leaves running on CUDA devices is waited for.
        limits: watts for each GPU; None takes `steps` of them, evenly from `max_w` down to `min_w`.
        min_w: None takes the lowest that all GPUs allow.
        max_w: None takes the highest that all GPUs allow; slowdown is counted from the highest limit of the sweep.
        steps: how many limits.
        seconds: the work is repeated at each limit for at least so long: a counter moves ten times a second.
        max_slowdown: 0.05 also looks for the least energy at which the work takes at most 5 % longer.
        warmup: run the work once before anything is measured.
        settle_s: seconds between setting a limit and measuring.
        visible: the text of `CUDA_VISIBLE_DEVICES`; None means all GPUs.
        nvml: a module like `pynvml`; None imports it.
        state: where the limits are noted meanwhile; None takes `state_file()`.
        say: is told a sentence now and then.

    Raises:
        ClisonixError: no GPU, or no right to set limits; limits that are not allowed; or the work raised it. Nothing
            has changed then.
    """
    if not (0 <= seconds < float("inf") and 0 <= settle_s < float("inf") and steps >= 1):
        raise ClisonixError(
            f"a sweep needs steps >= 1 and a time of 0 or more; given steps={steps}, {seconds} s and {settle_s} s"
        )
    if max_slowdown is not None and not 0 <= max_slowdown < float("inf"):
        raise ClisonixError(f"the slowdown is {max_slowdown}: give a share of 0 or more, e.g. 0.05 for 5 %")
    boards = power_boards(visible, nvml)
    grid = _grid(boards, limits, min_w, max_w, steps)
    gpus = [
        {
            "device": b.device, "uuid": b.uuid, "model": b.counter.parameters["model"],
            "limit_w": b.milliwatts() / 1000.0, "low_w": b.low_w, "high_w": b.high_w,
        }
        for b in boards
    ]  # fmt: skip
    for board in boards:
        # The limit at the start says nothing on what the board may draw at another.
        board.counter.max_power_w = board.high_w
    tell = say or (lambda sentence: None)
    done: list[tuple[float, int]] = []
    # What the CPU uses is left out: its model knows too little to choose a limit by.
    meter = Meter([board.counter for board in boards])

    def body() -> None:
        if warmup:
            tell("warming up")
            work()
        with meter:
            for watts in grid:
                for board in boards:
                    board.set(round(1000 * watts))
                time.sleep(settle_s)
                done.append((watts, _repeat(work, meter, watts, seconds)))
                tell(f"{watts:g} W: {quantity(meter.seconds(_name(watts)) / done[-1][1], 's')} each time")

    with_limits_kept(boards, body, state)
    return Sweep(gpus, [_point(meter, watts, runs) for watts, runs in done], max_slowdown)


def _repeat(work: Callable[[], object], meter: Meter, watts: float, seconds: float) -> int:
    runs, began_s = 0, time.perf_counter()
    with meter.window(_name(watts), sync=True):
        while not runs or time.perf_counter() - began_s < seconds:
            work()
            runs += 1
    return runs


def _point(meter: Meter, watts: float, runs: int) -> SweepPoint:
    seconds, energy = meter.seconds(_name(watts)), meter.energy(_name(watts))
    # A sum without one of the GPUs would make the limit at which it failed look best.
    if energy.reason is not None:
        energy = Energy.unknown(energy.reason)
    # A bound may be infinite: then there is none.
    known = [None if j is None or not math.isfinite(j) else j for j in (energy.joules, energy.low, energy.high)]
    once = [None if joules is None else joules / runs for joules in known]
    power = None if energy.joules is None or seconds <= 0 else energy.joules / seconds
    return SweepPoint(watts, runs, seconds / runs, once[0], once[1], once[2], power, energy.how())


def _grid(
    boards: Sequence[Board], limits: Iterable[float] | None, min_w: float | None, max_w: float | None, steps: int
) -> list[float]:
    low, high = max(board.low_w for board in boards), min(board.high_w for board in boards)
    if low > high:
        raise ClisonixError(
            f"no power limit is allowed by all {len(boards)} GPUs: choose some by CUDA_VISIBLE_DEVICES"
        )
    if limits is None:
        top, bottom = high if max_w is None else max_w, low if min_w is None else min_w
        if bottom > top:
            raise ClisonixError(f"the lowest limit of {bottom:g} W is above the highest of {top:g} W: exchange them")
        chosen = [top if steps == 1 else top - k * (top - bottom) / (steps - 1) for k in range(steps)]
        # Whole watts, but never outside what is allowed.
        chosen = [min(max(float(round(watts)), bottom), top) for watts in chosen]
    else:
        chosen = [float(watts) for watts in limits]
    wrong = next((watts for watts in chosen if not low <= watts <= high), None)
    if wrong is not None or not chosen:
        given = "no limit" if wrong is None else f"{wrong:g} W"
        raise ClisonixError(f"{given} was given, and the GPUs allow {low:g} W to {high:g} W: choose among these")
    return sorted(set(chosen), reverse=True)


def _name(watts: float) -> str:
    return f"limit-{watts:g}W"


def _joules(point: SweepPoint) -> float:
    assert point.joules is not None
    return point.joules
