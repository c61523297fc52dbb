"""A run's report: one HTML file that asks the network for nothing, or Markdown."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from clisonix.meter.energy import MODELLED, Energy
from clisonix.meter.record import Record, read_record
from clisonix.meter.report_charts import learning_chart, power_chart
from clisonix.meter.words import number, quantity, span

NO_FIGURE = "unknown"


def render_html(folder: Path) -> str:
    """The report of a run as a self-contained page.

    Args:
        folder: a run's folder; only `record.json` must be there.

    Raises:
        ClisonixError: the record is missing or damaged.
    """
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(files("clisonix.meter").joinpath("report.html").read_text(encoding="utf-8"))
    record = read_record(folder)
    return template.render(
        **_view(record), power=power_chart(folder, record), learning=learning_chart(folder, record)
    )


def render_markdown(folder: Path) -> str:
    """The report of a run as Markdown, without charts; see `render_html`."""
    view = _view(read_record(folder))
    lines = [f"# {_plain(view['name'])}", ""]
    lines += [_plain(line) for line in (view["task"], view["when"]) if line]
    lines += ["", "| | | |", "|---|---|---|"]
    lines += [f"| {_plain(t['label'])} | **{_plain(t['value'])}** | {_plain(t['note'])} |" for t in view["tiles"]]
    lines += ["", "## Energy", "", "| window | energy | 95 % interval | how |", "|---|---|---|---|"]
    for row in view["energy"]:
        lines.append(
            f"| {_plain(row['name'])} | {row['value']} | {row['interval'] or 'none'} | {_plain(row['how'])} |"
        )
    for title, rows in (("Attempts", view["attempts"]), ("Notes", view["notes"])):
        if rows:
            lines += ["", f"## {title}", "", *(f"- {_plain(row)}" for row in rows)]
    lines += ["", "## Machine and software", "", *(f"- {_plain(k)}: {_plain(v)}" for k, v in view["facts"])]
    return "\n".join(lines) + "\n"


def _view(record: Record) -> dict[str, Any]:
    energies = {name: Energy.from_json(block["total"]) for name, block in record.energy.items()}
    ceiling = max((e.high or e.joules or 0.0 for e in energies.values()), default=0.0)
    return {
        "name": record.name,
        "task": record.task,
        "when": f"{record.created_utc} to {record.finished_utc}"
        if record.finished_utc
        else f"{record.created_utc}, not finished",
        "command": record.command,
        "tiles": [_quality(record), _time(record), _energy(record), _size(record), _carbon(record)],
        "energy": [_energy_row(n, energies[n], record.devices(n), ceiling) for n in _in_order(list(energies))],
        "hows": _hows(record),
        "attempts": [_attempt(i, a) for i, a in enumerate(record.attempts, 1)],
        "notes": [str(note) for note in record.notes],
        "facts": _facts(record),
        "config": _flat(record.config),
        "files": [
            (name, quantity(e.get("bytes"), "bytes"), str(e.get("sha256", ""))) for name, e in record.files.items()
        ],
    }


def _quality(record: Record) -> dict[str, str]:
    quality = record.quality
    if not quality or quality.get("value") is None:
        return _tile("quality", NO_FIGURE, "not evaluated, or the value was not a number")
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
    kinds = dict.fromkeys(f"{d.device} {_kind(d)}" for d in record.devices("train"))
    note = [f"95 % interval {span(energy.low, energy.high, 'J')}", ", ".join(kinds), energy.reason or ""]
    return _tile("training energy", quantity(energy.joules, "J"), "; ".join(part for part in note if part))


def _size(record: Record) -> dict[str, str]:
    parameters = record.size.get("parameters")
    note = "" if parameters is None else f"{parameters:,} parameters"
    return _tile("model size", quantity(record.size.get("bytes"), "bytes"), note)


def _carbon(record: Record) -> dict[str, str]:
    carbon = record.carbon or {"reason": "not computed"}
    if carbon.get("grams") is None:
        return _tile("carbon", NO_FIGURE, str(carbon.get("reason") or "no reason was given"))
    interval = span(carbon.get("low"), carbon.get("high"), "g")
    factor = f"{number(carbon['factor_g_per_kwh'])} g/kWh, {carbon['place']} {carbon['year']}, {carbon['source']}"
    note = f"95 % interval {interval}; {factor}; window {carbon.get('window', 'unknown')}"
    return _tile("CO₂-equivalent", quantity(carbon["grams"], "g"), note)


def _tile(label: str, value: str, note: str) -> dict[str, str]:
    return {"label": label, "value": value, "note": note}


def _energy_row(name: str, energy: Energy, devices: list[Energy], ceiling: float) -> dict[str, Any]:
    low, high = energy.low, energy.high
    bar = None
    if ceiling > 0 and low is not None and high is not None and energy.joules is not None:
        bar = {
            "left": 100 * low / ceiling,
            "width": 100 * (high - low) / ceiling,
            "at": 100 * energy.joules / ceiling,
        }
    parts = [_device(d) for d in devices] if len(devices) > 1 or energy.joules is None else []
    interval = span(low, high, "J")
    return {
        "name": name,
        "value": quantity(energy.joules, "J"),
        "interval": interval,
        "text": "; ".join([f"95 % interval {interval}"] * bool(interval) + (parts or [_kind(energy)])),
        "how": energy.how(),
        "bar": bar,
    }


def _device(reading: Energy) -> str:
    if reading.joules is None:
        return f"{reading.device} unknown ({reading.reason})"
    interval = span(reading.low, reading.high, "J")
    return f"{reading.device} {quantity(reading.joules, 'J')}" + (
        f" ({_kind(reading)}, {interval})" if interval else ""
    )


def _kind(reading: Energy) -> str:
    if reading.joules is None:
        return "unknown"
    sources = set(reading.source.split("+"))
    return "measured" if MODELLED not in sources else "modelled" if sources == {MODELLED} else "partly modelled"


def _hows(record: Record) -> list[str]:
    parts = [d for name in record.energy for d in record.devices(name) if d.joules is not None]
    # The refresh is measured window by window; one line a device is enough.
    return list({d.device: f"{d.device}: {d.how()}; covers {d.scope}" for d in reversed(parts)}.values())[::-1]


def _in_order(names: list[str]) -> list[str]:
    """Parents before their children, else as they came."""
    first = {name.split("/")[0]: i for i, name in reversed(list(enumerate(names)))}
    return sorted(names, key=lambda name: (first[name.split("/")[0]], name.count("/"), names.index(name)))


def _attempt(i: int, attempt: dict[str, Any]) -> str:
    end = "ended cleanly" if attempt.get("ended_cleanly") else "was cut off"
    started = attempt.get("started_utc", "at an unknown time")
    return f"attempt {i}, started {started}, {end} ({attempt.get('trace', 'no trace')})"


def _facts(record: Record) -> list[tuple[str, str]]:
    hardware = record.hardware
    gpus = ", ".join(map(str, hardware.get("gpus") or [])) or "none"
    facts = [
        ("CPU", f"{hardware.get('cpu', 'unknown')}, {hardware.get('cores', '?')} hardware threads"),
        ("GPU", gpus),
    ]
    facts += [("seed", "none" if record.seed is None else str(record.seed))]
    facts += [
        (f"data: {key.replace('_', ' ')}", ", ".join(map(str, value)) if isinstance(value, list) else str(value))
        for key, value in record.data.items()
    ]
    return facts + [(name, str(version)) for name, version in record.software.items()]


def _flat(config: dict[str, Any], above: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in config.items():
        rows += (
            _flat(value, f"{above}{key}.") if isinstance(value, dict) and value else [(f"{above}{key}", str(value))]
        )
    return rows


def _plain(text: object) -> str:
    # Keeps a name from opening a table cell, a link or a tag of its own.
    marked = "".join(f"\\{c}" if c in "\\`*_[]|#" else c for c in str(text))
    escaped = marked.replace("<", "&lt;").replace(">", "&gt;")
    return " ".join(escaped.split())
