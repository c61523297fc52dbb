"""The sentences of a report: how each figure was obtained, under which conditions, on what, from which parts."""

from __future__ import annotations

from typing import Any

from clisonix.meter.recording.record import Record
from clisonix.meter.words import group_name, number


def obtained(record: Record) -> list[tuple[str, str]]:
    """What, and one plain sentence on how it was obtained."""
    found = []
    quality = record.quality or {}
    if quality.get("metric") == "accuracy":
        how = (
            f"share of {quality.get('n')} held-out windows that the model got right, counted in predictions.npz; "
            "the interval is Wilson's, which takes the windows as independent."
        )
        found.append(("accuracy", how))
    elif quality:
        found.append((str(quality.get("metric")), "as the training program reported it; it is not recomputed."))
    how = "on the machine's monotonic clock, from entering to leaving the windows"
    how += ", at least one process being in one." if record.parts else "; attempts add up."
    found.append(("time", how))
    found += [(f"energy of {device}", how) for device, how in _energies(record).items()]
    if record.size.get("file"):
        found.append(
            ("model size", f"length of the file {record.size['file']}, which holds all that is needed to load it.")
        )
    found.append(("CO₂-equivalent", _carbon(record.carbon or {})))
    return found


def _energies(record: Record) -> dict[str, str]:
    """Devices to how their energy was obtained; those obtained alike together."""
    parts = [d for name in record.energy for d in record.devices(name) if d.joules is not None]
    # The refresh is measured window by window; one line a device is enough.
    hows = {d.device: f"{d.how()}; covers {d.scope}." for d in reversed(parts)}
    alike: dict[str, list[str]] = {}
    for device, how in reversed(hows.items()):
        alike.setdefault(how, []).append(device)
    return {group_name(devices) if len(devices) > 3 else ", ".join(devices): how for how, devices in alike.items()}


def _carbon(carbon: dict[str, Any]) -> str:
    if carbon.get("grams") is None:
        return f"unknown: {carbon.get('reason') or 'no reason was given'}."
    how = (
        f"energy of the window {carbon.get('window')} times the yearly average of the electricity of "
        f"{carbon.get('place')} in {carbon.get('year')}, {number(carbon['factor_g_per_kwh'])} g/kWh, "
        f"from {carbon.get('source')}"
    )
    if carbon.get("factor_low") is not None:
        how += f"; the range is the energy's interval times the {carbon.get('range_how')}"
    else:
        how += "; the range is the energy's interval alone, because the factor's own range is unknown"
    lines = carbon.get("lines") or []
    return how + (
        "; further lines are separate and in no sum." if lines else "; building and embodied share not given."
    )


def attempts(record: Record) -> list[str]:
    """One sentence per start of the run, with the conditions that were recorded."""
    found = []
    for i, attempt in enumerate(record.attempts, 1):
        end = "ended cleanly" if attempt.get("ended_cleanly") else "was cut off"
        started = attempt.get("started_utc", "at an unknown time")
        text = f"attempt {i}, started {started}, {end} ({attempt.get('trace', 'no trace')})"
        taken = attempt.get("conditions") or {}
        for end in ("start", "end"):
            if isinstance(taken.get(end), dict):
                text += f"; at the {end}: {_snapshot(taken[end])}"
        found.append(text)
    return found


def _snapshot(taken: dict[str, Any]) -> str:
    cpu = taken.get("cpu") or {}
    words = []
    for key, pattern in (
        ("load_1min", "load {}"),
        ("governor", "governor {}"),
        ("clock_mhz", "CPU {} MHz"),
        ("temperature_c", "CPU {} °C"),
    ):
        if cpu.get(key) is not None:
            words.append(pattern.format(cpu[key]))
    for gpu in taken.get("gpus") or []:
        facts = [
            pattern.format(gpu[key])
            for key, pattern in (
                ("temperature_c", "{} °C"),
                ("sm_clock_mhz", "SM {} MHz"),
                ("power_limit_w", "limit {:g} W"),
            )
            if gpu.get(key) is not None
        ]
        if gpu.get("throttling") is not None:
            facts.append(f"throttled by {', '.join(gpu['throttling'])}" if gpu["throttling"] else "not throttled")
        words.append(f"{gpu.get('model', 'GPU')} {', '.join(facts)}")
    return ", ".join(words) or "nothing could be read"


def parts(record: Record) -> list[str]:
    """One line per part of a merged run."""
    return [f"{part.get('name')} ({part.get('id')})" for part in record.parts]


def facts(record: Record) -> list[tuple[str, str]]:
    """Machine, data and software."""
    hardware = record.hardware
    gpus = ", ".join(map(str, hardware.get("gpus") or [])) or "none"
    machines = f" in {hardware['nodes']} machines" if hardware.get("nodes", 1) > 1 else ""
    found = [
        ("CPU", f"{hardware.get('cpu', 'unknown')}, {hardware.get('cores', '?')} hardware threads{machines}"),
        ("GPU", gpus),
        ("seed", "none" if record.seed is None else str(record.seed)),
    ]
    found += [
        (f"data: {key.replace('_', ' ')}", ", ".join(map(str, value)) if isinstance(value, list) else str(value))
        for key, value in record.data.items()
    ]
    return found + [(name, str(version)) for name, version in record.software.items()]


def flat(config: dict[str, Any], above: str = "") -> list[tuple[str, str]]:
    """Nested settings as dotted names."""
    rows: list[tuple[str, str]] = []
    for key, value in config.items():
        rows += (
            flat(value, f"{above}{key}.") if isinstance(value, dict) and value else [(f"{above}{key}", str(value))]
        )
    return rows
