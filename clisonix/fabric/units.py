"""Physical units: the many spellings in files, and conversion between those of one quantity."""

from __future__ import annotations

from collections.abc import Sequence

from clisonix.errors import ClisonixError, nearest

_PREFIXES = {"": 1.0, "n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6}
# Base unit: quantity, prefixes in use, spellings in words.
_BASES = {
    "V": ("voltage", ("n", "u", "m", "", "k"), ("volt", "volts")),
    "S": ("conductance", ("n", "u", "m", ""), ("siemens",)),
    "Ohm": ("resistance", ("m", "", "k", "M"), ("ohm", "ohms", "Ω", "Ω")),
    "A": ("current", ("n", "u", "m", ""), ("ampere", "amperes", "amp", "amps")),
    "g": ("acceleration", ("u", "m", ""), ()),
    "Pa": ("pressure", ("", "k"), ("pascal", "pascals")),
    "T": ("magnetic field", ("n", "u", "m", ""), ("tesla",)),
    "Hz": ("frequency", ("m", "", "k"), ("hertz",)),
    "s": ("time", ("n", "u", "m", ""), ("second", "seconds", "sec")),
}
_LONG = {"": "", "n": "nano", "u": "micro", "m": "milli", "k": "kilo", "M": "mega"}
# (quantity, factor to its base unit, number to add after that)
_KNOWN: dict[str, tuple[str, float, float]] = {
    "degC": ("temperature", 1.0, 0.0),
    "degF": ("temperature", 5 / 9, -160 / 9),
    "K": ("temperature", 1.0, -273.15),
    "m/s2": ("acceleration", 1 / 9.80665, 0.0),
    "mmHg": ("pressure", 133.322387415, 0.0),
    "deg/s": ("angular rate", 1.0, 0.0),
    "rad/s": ("angular rate", 57.29577951308232, 0.0),
    "bpm": ("heart rate", 1.0, 0.0),
    "%": ("share", 1.0, 0.0),
    "FS": ("full scale", 1.0, 0.0),
}
_SPELLINGS = {
    "°c": "degC", "ºc": "degC", "deg c": "degC", "celsius": "degC", "degrees celsius": "degC",
    "degrees c": "degC", "°f": "degF", "deg f": "degF", "fahrenheit": "degF", "kelvin": "K",
    "m/s^2": "m/s2", "m/s²": "m/s2", "ms-2": "m/s2", "mm hg": "mmHg", "gee": "g", "gravity": "g",
    "dps": "deg/s", "°/s": "deg/s", "percent": "%", "bpm": "bpm", "beats/min": "bpm",
}  # fmt: skip


for _base, (_quantity, _short, _words) in _BASES.items():
    for _prefix in _short:
        _KNOWN[_prefix + _base] = (_quantity, _PREFIXES[_prefix], 0.0)
        for _word in _words:
            # "kΩ", but "kilohm".
            _SPELLINGS[(_prefix if len(_word) == 1 else _LONG[_prefix]) + _word] = _prefix + _base


def spelled(unit: str) -> str:
    """The unit in the spelling used here (`"µV"`, `"microvolts"` → `"uV"`), or as it is if it is not known."""
    plain = unit.strip().replace("µ", "u").replace("μ", "u")
    if plain in _KNOWN:
        return plain
    for candidate in (plain, plain.lower()):
        if candidate in _SPELLINGS:
            return _SPELLINGS[candidate]
    # "UV" and "uv" are meant as microvolts; "MV" could be two units, so it is left alone.
    loose = {"uv": "uV", "nv": "nV", "us": "uS", "kohm": "kOhm", "c": "degC", "g": "g", "v": "V"}
    return loose.get(plain.lower(), unit.strip())


def known(unit: str) -> bool:
    """Whether the unit can be converted."""
    return spelled(unit) in _KNOWN


def conversion(given: str, asked: str) -> tuple[float, float] | None:
    """`(factor, summand)` that turn values in `given` into `asked`; None if they measure different things."""
    first, second = _KNOWN.get(spelled(given)), _KNOWN.get(spelled(asked))
    if first is None or second is None or first[0] != second[0]:
        return None
    return first[1] / second[1], (first[2] - second[2]) / second[1]


def choose(given: str, asked: Sequence[str]) -> str:
    """Which of the units asked for measures the same as `given`; `given` itself, well spelled, if none does."""
    return next((spelled(unit) for unit in asked if conversion(given, unit) is not None), spelled(given))


def check_asked(units: Sequence[str]) -> tuple[str, ...]:
    """The units asked for, well spelled.

    Raises:
        ClisonixError: one is not known, or two measure the same.
    """
    seen: dict[str, str] = {}
    for unit in units:
        if not known(unit):
            raise ClisonixError(f"the unit {unit!r} is not known{nearest(unit, _KNOWN)}")
        quantity = _KNOWN[spelled(unit)][0]
        if quantity in seen:
            raise ClisonixError(f"the units {seen[quantity]} and {unit} both measure {quantity}; ask for one")
        seen[quantity] = unit
    return tuple(spelled(unit) for unit in units)
