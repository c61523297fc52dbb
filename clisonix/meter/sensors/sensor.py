"""What a sensor is: the one interface that windows and traces know."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from clisonix.errors import ClisonixError
from clisonix.meter.reasons import Reason


class SensorLost(Exception):  # noqa: N818 - the name says what happened
    """A sensor that worked gave no value now; the message is the reason. It may come back.

    Args:
        message: one phrase.
        code: which kind of reason.
    """

    def __init__(self, message: str, code: str = Reason.DRIVER_ERROR.value) -> None:
        super().__init__(message)
        self.code = str(code)


@dataclass(frozen=True)
class Unavailable:
    """A sensor that cannot be used on this machine, and why.

    Attributes:
        sensor: its name.
        reason: one phrase.
        device: the device that therefore runs unmetered; None where there is no such device, or another
            sensor covers it. Sums name it as missing.
        code: which kind of reason.
        uuid: of the device, where it is known.
    """

    sensor: str
    reason: str
    device: str | None = None
    code: str = Reason.UNKNOWN.value
    uuid: str | None = None


class Sensor(Protocol):
    """A cumulative energy meter of one device.

    Attributes:
        name: unique among the sensors of one meter, e.g. `nvml:0`.
        source: how its figures are obtained; see `Energy.source`.
        scope: what the figures cover.
        device: which device.
        refresh_s: nominal seconds between movements of a counter; None when every read is current.
        max_power_w: the most the device can draw; bounds what an unseen moment can hide.
        exact_edges: whether a read says the energy *now* (True), or at the counter's last movement (False).
        parameters: JSON values: `how` (a phrase), the coefficients of a model, the `uuid` of a device.

    A sensor whose reads bring several samples at once has a method `drain` beside `read`, see `Batch`; one whose
    calls go to a driver that may hang has the attribute `may_block`, and is then never read from the thread that
    opens windows.
    """

    @property
    def name(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def scope(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def refresh_s(self) -> float | None: ...
    @property
    def max_power_w(self) -> float: ...
    @property
    def exact_edges(self) -> bool: ...
    @property
    def parameters(self) -> dict[str, Any]: ...

    def read(self) -> tuple[float, float]:
        """Time on `time.perf_counter` in seconds, and joules since the sensor's own origin.

        Raises:
            SensorLost: there is no value now.
        """
        ...


class Batch(Protocol):
    """A sensor that keeps samples until they are fetched."""

    def drain(self, last: bool = False) -> list[tuple[float, float]]:
        """Samples taken since the last call, as `Sensor.read` gives them, in order of time; maybe none.

        Args:
            last: whether there will be no other call; else the sensor may let samples gather.

        Raises:
            SensorLost: there is no value now.
        """
        ...


@dataclass(frozen=True)
class SensorInfo:
    """A sensor's properties without the sensor: what a trace keeps."""

    name: str
    source: str
    scope: str
    device: str
    refresh_s: float | None
    max_power_w: float
    exact_edges: bool
    parameters: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(sensor: Sensor) -> SensorInfo:
        """Copy a sensor's properties."""
        return SensorInfo(
            sensor.name, sensor.source, sensor.scope, sensor.device,
            sensor.refresh_s, sensor.max_power_w, sensor.exact_edges, dict(sensor.parameters),
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return asdict(self)

    @staticmethod
    def from_json(content: dict[str, Any]) -> SensorInfo:
        """The inverse of `to_json`; ClisonixError when the fields do not fit."""
        try:
            return SensorInfo(**content)
        except TypeError as error:
            raise ClisonixError(f"the trace describes a sensor with the wrong fields: {error}") from error
