"""What a report shows of a record, as text and bar lengths; the page and the Markdown share it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from clisonix.meter.energy import Energy, modelled
from clisonix.meter.recording.record import Record
from clisonix.meter.reporting.report_facts import attempts, facts, flat, obtained, parts
from clisonix.meter.words import number, quantity, span

NO_FIGURE = "unknown"
MANY = 6
"""More devices than this are counted, not listed."""


def view(record: Record) -> dict[str, Any]:
    """Everything the template needs but the charts."""
    energies = {name: Energy.from_json(block["total"]) for name, block in record.energy.items()}
    ceiling = max((e.high or e.joules or 0.0 for e in energies.values()), default=0.0)
    return {
        "name": record.name,
        "task": record.task,
        "when": _when(record),
        "command": record.command,
        "tiles": [_quality(record), _time(record), _energy(record), _size(record), _carbon(record)],
        "energy": [_energy_row(n, energies[n], record.devices(n), ceiling) for n in _in_order(list(energies))],
        "carbon": _carbon_rows(record.carbon or {}),
        "obtained": obtained(record),
        "parts": parts(record),
        "attempts": attempts(record),
        "notes": [str(note) for note in record.notes],
        "facts": facts(record),
        "config": flat(record.config),
        "files": [
            (name, quantity(e.get("bytes"), "bytes"), str(e.get("sha256", ""))) for name, e in record.files.items()
        ],
    }


def _when(record: Record) -> str:
    def moment(text: str) -> str:
        try:
            return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M:%S %Z}".strip()
        except ValueError:
            return text

    if not record.finished_utc:
        return f"{moment(record.created_utc)}, not finished"
    return f"{moment(record.created_utc)} to {moment(record.finished_utc)}"


def _quality(record: Record) -> dict[str, str]:
    quality = record.quality
    if not quality or quality.get("value") is None:
        why = "the parts have none in common" if record.parts else "not evaluated, or the value was not a number"
        return _tile("quality", NO_FIGURE, why)
    percent = quality["metric"] == "accuracy"

    def text(value: float) -> str:
        return f"{100 * value:.1f} %" if percent else number(value)

    note = f"n = {quality.get('n')}"
    if quality.get("low") is not None and quality.get("high") is not None:
        note = f"95 % interval {text(quality['low'])} to {text(quality['high'])}, {note}"
    return _tile(str(quality["metric"]), text(quality["value"]), note)


def _time(record: Record) -> dict[str, str]:
    others = [
        f"{key.removesuffix('_s')} {quantity(value, 's')}" for key, value in record.time.items() if key != "train_s"
    ]
    return _tile("training time", quantity(record.time.get("train_s"), "s"), ", ".join(others))


def _energy(record: Record) -> dict[str, str]:
    energy = record.total("train")
    if energy.joules is None:
        return _tile("training energy", NO_FIGURE, energy.how())
    devices = record.devices("train")
    kinds = _counts(devices) if len(devices) > 2 else ", ".join(f"{d.device} {kind(d)}" for d in devices)
    note = [f"95 % interval {span(energy.low, energy.high, 'J')}", kinds, energy.reason or ""]
    return _tile("training energy", quantity(energy.joules, "J"), "; ".join(part for part in note if part))


def _size(record: Record) -> dict[str, str]:
    parameters = record.size.get("parameters")
    note = "" if parameters is None else f"{parameters:,} parameters"
    return _tile("model size", quantity(record.size.get("bytes"), "bytes"), note)


def _carbon(record: Record) -> dict[str, str]:
    carbon = record.carbon or {"reason": "not computed"}
    if carbon.get("grams") is None:
        return _tile("CO₂-equivalent", NO_FIGURE, str(carbon.get("reason") or "no reason was given"))
    note = f"range {span(carbon.get('low'), carbon.get('high'), 'g')}; electricity of {carbon.get('place')}"
    more = len(carbon.get("lines") or [])
    note += f"; {more} further line{'s' * (more > 1)} below" if more else ""
    return _tile("CO₂-equivalent", quantity(carbon["grams"], "g"), note)


def _tile(label: str, value: str, note: str) -> dict[str, str]:
    return {"label": label, "value": value, "note": note}


def _energy_row(name: str, energy: Energy, devices: list[Energy], ceiling: float) -> dict[str, Any]:
    details = [_device(d) for d in devices] if len(devices) > 1 or energy.joules is None else []
    if len(devices) > MANY:
        details = [_counts(devices)]
    interval = span(energy.low, energy.high, "J")
    return {
        "name": name,
        "value": quantity(energy.joules, "J"),
        "interval": interval,
        "text": "; ".join([f"95 % interval {interval}"] * bool(interval) + (details or [kind(energy)])),
        "how": energy.how(),
        "bar": _bar(energy.joules, energy.low, energy.high, ceiling),
    }


def _carbon_rows(carbon: dict[str, Any]) -> list[dict[str, Any]]:
    """Electricity and the further lines on one scale."""
    rows = []
    if carbon.get("factor_g_per_kwh") is not None:
        low, high = carbon.get("factor_low"), carbon.get("factor_high")
        spread = f" ({number(low)} to {number(high)})" if low is not None and high is not None else ""
        factor = f"{number(carbon['factor_g_per_kwh'])} g/kWh{spread}, {carbon.get('place')} {carbon.get('year')}"
        about = [factor, str(carbon.get("range_how") or ""), str(carbon.get("source") or "")]
        rows.append((f"electricity of the window {carbon.get('window', 'run')}", carbon, about))
    rows += [(str(line.get("what")), line, [str(line.get("source"))]) for line in carbon.get("lines") or []]
    ceiling = max((line.get("high") or line.get("grams") or 0.0 for _, line, _ in rows), default=0.0)
    return [
        {
            "name": name,
            "value": quantity(line.get("grams"), "g"),
            "range": span(line.get("low"), line.get("high"), "g"),
            "text": "; ".join(part for part in about if part),
            "bar": _bar(line.get("grams"), line.get("low"), line.get("high"), ceiling),
        }
        for name, line, about in rows
    ]


def _bar(value: float | None, low: float | None, high: float | None, ceiling: float) -> dict[str, float] | None:
    if ceiling <= 0 or value is None:
        return None
    bar = {"at": 100 * value / ceiling, "left": 0.0, "width": 0.0}
    if low is not None and high is not None:
        bar.update(left=100 * low / ceiling, width=100 * (high - low) / ceiling)
    return bar


def _device(reading: Energy) -> str:
    if reading.joules is None:
        return f"{reading.device} unknown ({reading.reason})"
    interval = span(reading.low, reading.high, "J")
    return f"{reading.device} {quantity(reading.joules, 'J')}" + (
        f" ({kind(reading)}, {interval})" if interval else ""
    )


def _counts(devices: list[Energy]) -> str:
    kinds = [kind(device) for device in devices]
    return f"{len(kinds)} devices: " + ", ".join(f"{kinds.count(k)} {k}" for k in dict.fromkeys(kinds))


def kind(reading: Energy) -> str:
    """`measured`, `modelled`, `partly modelled` or `unknown`."""
    if reading.joules is None:
        return "unknown"
    kinds = {modelled(source) for source in reading.source.split("+")}
    return "partly modelled" if len(kinds) > 1 else "modelled" if kinds == {True} else "measured"


def _in_order(names: list[str]) -> list[str]:
    """Parents before their children, else as they came."""
    first = {name.split("/")[0]: i for i, name in reversed(list(enumerate(names)))}
    return sorted(names, key=lambda name: (first[name.split("/")[0]], name.count("/"), names.index(name)))
