"""CodeCarbon's own tracker beside the meter: a second opinion on the same time, with its guesses marked.

Only its offline tracker is used: the online one contacts geolocation hosts and cloud metadata addresses. Nothing of
CodeCarbon is imported before `start`. The tracker swallows its own errors, so every step is checked for its effect.

CodeCarbon takes a constant where it finds no counter, a share of the processor's nominal power for the CPU and a few
watts a memory slot for RAM, and its output does not tell them from measurements; here they are marked `guessed`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any

from clisonix.errors import ClisonixError
from clisonix.meter.emissions.carbon import JOULES_PER_KWH
from clisonix.meter.energy import Energy

NAME = "codecarbon"
COUNTERS = {"intel_rapl": "RAPL", "intel_power_gadget": "Intel Power Gadget", "windows_emi": "Windows EMI"}
QUIET: dict[str, Any] = {
    "save_to_file": False,
    "save_to_api": False,
    "save_to_logger": False,
    "save_to_prometheus": False,
    "save_to_logfire": False,
    "emissions_endpoint": None,
    "output_handlers": [],
    "electricitymaps_api_token": None,
    "force_carbon_intensity_g_co2e_kwh": None,
    "force_cpu_power": None,
    "force_ram_power": None,
    "pue": 1.0,
    "wue": 0.0,
    "allow_multiple_runs": True,
    "log_level": "critical",
}
"""Given explicitly, so that no configuration file of the user's can make it write, call or scale anything."""
COUNTRY_UNUSED = "FRA"
"""The tracker insists on a country; without a place its emissions are thrown away."""


@dataclass(frozen=True)
class Part:
    """CodeCarbon's figure for one kind of hardware.

    Attributes:
        device: `gpu`, `cpu` or `ram`.
        joules: its figure.
        guessed: whether a constant stands where a counter should.
        how: one phrase.
    """

    device: str
    joules: float
    guessed: bool
    how: str


@dataclass(frozen=True)
class Opinion:
    """What CodeCarbon said of the time between `start` and `stop`.

    Attributes:
        parts: by kind of hardware.
        seconds: its own duration.
        grams: its emissions in grams of CO2-equivalent; None where no place was given.
        version: of CodeCarbon.
        reason: why there are no parts, or None.
    """

    parts: tuple[Part, ...] = ()
    seconds: float | None = None
    grams: float | None = None
    version: str = ""
    reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return asdict(self)

    def sentences(self, readings: Iterable[Energy]) -> list[str]:
        """One sentence per kind of hardware: its figure beside the meter's.

        Args:
            readings: the meter's best readings for the same time.
        """
        if self.reason is not None:
            return [f"CodeCarbon gave no second opinion: {self.reason}."]
        ours: dict[str, list[Energy]] = {}
        for reading in readings:
            kind = reading.device.split(":")[0]
            ours.setdefault("ram" if kind == "dram" else kind, []).append(reading)
        return [
            _sentence(part, Energy.total(ours[part.device]) if part.device in ours else None) for part in self.parts
        ]


class SecondOpinion:
    """Runs CodeCarbon's offline tracker; a context manager, or `start` and `stop`.

    The tracker starts two threads of its own, and processes (`lscpu`, `nvidia-smi` and the like) to learn about the
    machine; neither exists before `start`. It connects to nothing, but a library that it imports (urllib3) binds a
    loopback socket for a moment to see whether there is IPv6. A failure never reaches the caller's work: the opinion
    says why it is missing.

    Args:
        place: see `carbon_factor`; None, or a part of a country, gives energy but no emissions.
        period_s: seconds between its measurements.

    Raises:
        ClisonixError: CodeCarbon is not installed, or the period is not positive.
    """

    def __init__(self, place: str | None = None, period_s: float = 1.0) -> None:
        if importlib.util.find_spec(NAME) is None:
            raise ClisonixError(
                "cross_check='codecarbon' needs codecarbon, which is not installed: pip install codecarbon"
            )
        if not 0 < period_s < float("inf"):
            raise ClisonixError(f"the second opinion's period is {period_s} s: give a positive number of seconds")
        self._place, self._period_s = place, period_s
        self._tracker: Any = None
        self._failure: str | None = "it was not started"
        self._country, _, self._region = (place or COUNTRY_UNUSED).strip().upper().partition("-")

    def __enter__(self) -> SecondOpinion:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Import CodeCarbon and begin."""
        try:
            module = importlib.import_module(NAME)
            # Its own level is set only after its constructor has printed.
            logging.getLogger(NAME).setLevel(logging.CRITICAL)
            tracker = module.OfflineEmissionsTracker(
                country_iso_code=self._country, measure_power_secs=self._period_s, tracking_mode="process", **QUIET
            )
            tracker.start()
        except Exception as error:  # whatever its dependencies raise; a second opinion must not end a run
            self._failure = f"{type(error).__name__}: {error}"
            return
        if getattr(tracker, "_start_time", None) is None:
            self._failure = "its tracker did not start, and it does not say why"
            return
        self._tracker, self._failure = tracker, None

    def stop(self) -> Opinion:
        """End and say what it found; further calls say the same."""
        version = importlib.metadata.version(NAME)
        if self._tracker is None:
            return Opinion(version=version, reason=self._failure)
        tracker, self._tracker = self._tracker, None
        try:
            tracker.stop()
            opinion = _opinion(tracker, version, self._place is not None and not self._region)
        except Exception as error:
            opinion = Opinion(version=version, reason=f"{type(error).__name__}: {error}")
        self._failure = opinion.reason
        return opinion


def _opinion(tracker: Any, version: str, placed: bool) -> Opinion:  # noqa: ANN401
    data = getattr(tracker, "final_emissions_data", None)
    if data is None:
        return Opinion(version=version, reason="its tracker stopped without a result, and it does not say why")
    hardware = {type(item).__name__: item for item in tracker._hardware}
    parts = []
    if "GPU" in hardware:
        parts.append(Part("gpu", data.gpu_energy * JOULES_PER_KWH, False, "measured through NVML"))
    if (cpu := hardware.get("CPU")) is not None:
        parts.append(Part("cpu", data.cpu_energy * JOULES_PER_KWH, *_cpu(cpu)))
    if "RAM" in hardware:
        parts.append(Part("ram", data.ram_energy * JOULES_PER_KWH, True, "guessed from the number of memory slots"))
    grams = 1000 * float(data.emissions) if placed else None
    return Opinion(tuple(parts), float(data.duration), grams, version)


def _cpu(cpu: Any) -> tuple[bool, str]:  # noqa: ANN401
    if cpu._mode in COUNTERS:
        return False, f"measured through {COUNTERS[cpu._mode]}"
    nominal = f"{cpu._tdp:g} W of nominal power" + (", itself a default" if cpu._is_generic_tdp else "")
    share = "its load" if cpu._mode == "cpu_load" else "one half"
    return True, f"guessed as {share} of {nominal}"


def _sentence(part: Part, ours: Energy | None) -> str:
    said = f"CodeCarbon says {part.joules:.4g} J for the {part.device} ({part.how})"
    if ours is None:
        return f"{said}; this meter has no figure of its own for it."
    if ours.joules is None:
        return f"{said}; this meter has none: {ours.reason}."
    apart = f", {100 * (part.joules / ours.joules - 1):+.1f} %" if ours.joules > 0 else ""
    return f"{said}; this meter {ours.joules:.4g} J ({ours.how()}){apart}."
