"""Why a figure is missing, and what to know about one that is there: short codes that programs can test for."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why there is no value. The sentence beside it says the same for people."""

    NO_SENSOR = "no-sensor"
    NO_DRIVER = "no-driver"
    NOT_INSTALLED = "not-installed"
    NOT_SUPPORTED = "not-supported"
    NOT_VISIBLE = "not-visible"
    PERMISSION = "permission"
    MIG = "mig"
    DEVICE_LOST = "device-lost"
    DRIVER_ERROR = "driver-error"
    FAULT = "fault"
    NO_ANSWER = "no-answer"
    STUCK = "stuck"
    NO_WINDOW = "no-window"
    NO_SAMPLE = "no-sample"
    TOO_SHORT = "too-short"
    NOT_COVERED = "not-covered"
    FORKED = "forked"
    RECORDING_OVER = "recording-over"
    UNKNOWN = "unknown"


class Flag(StrEnum):
    """What happened in a window that has a value; its interval is wider for it, or doubt is due."""

    RESET = "counter-reset"
    GAP = "gap-in-samples"
    STUCK = "counter-stuck"
    CLOCK_JUMP = "clock-jump"
    DISAGREE = "sensors-disagree"
    SUSTAINED_OVER_LIMIT = "above-power-limit"
    IDLE_DRIFT = "idle-drift"


SENTENCES: dict[str, str] = {
    Flag.RESET: "the counter was reset, and what it lost is estimated from the power around the reset",
    Flag.GAP: "the sensor gave no sample for a while, and an edge of the window lies in that gap",
    Flag.STUCK: "the counter stood still for a while, and what it did not count is estimated from the power around",
    Flag.CLOCK_JUMP: "the machine was suspended, and the time it slept is not in the window's duration",
    Flag.DISAGREE: "the energy counter and the integrated power samples differ by more than 3 %",
    Flag.SUSTAINED_OVER_LIMIT: "the counter implies a mean power above the power limit",
    Flag.IDLE_DRIFT: "idle power changed by more than 10 % between the idle measurements",
}
"""What each flag means, as a phrase."""
