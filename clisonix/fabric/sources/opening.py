"""Which reader a file needs, by what is in it and then by how it is called."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

from clisonix.errors import ClisonixError
from clisonix.fabric.source import Source
from clisonix.fabric.sources.base import must_be_file
from clisonix.fabric.sources.columns import Columns
from clisonix.fabric.units import check_asked

_KNOWN = (
    "XDF, EDF, BDF, WFDB (.hea), WAV, FLAC, CSV, Parquet, NumPy (.npy, .npz), Empatica E4 (folder or .zip), "
    "BIOPAC (.acq), and with the extra mne what MNE reads"
)
_MNE = (
    ".fif",
    ".fif.gz",
    ".vhdr",
    ".set",
    ".cnt",
    ".gdf",
    ".cdt",
    ".mff",
    ".nxe",
    ".edf.gz",
    ".snirf",
    ".lay",
    ".con",
)
_TEXT = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")


def open_source(
    path: Path | str,
    *,
    rate_hz: float | None = None,
    units: Sequence[str] = (),
    columns: Columns | None = None,
) -> Source:
    """Open a recording, whatever its format. Only its first bytes are read here.

    Args:
        path: a file or, for an Empatica E4, a folder.
        rate_hz: nominal rate of a table or array that does not say it (CSV, Parquet, NumPy).
        units: units to convert to, at most one per quantity, such as `["uV", "uS", "g", "degC"]`; channels that
            measure something else stay in their own.
        columns: what the columns of a table are (CSV, Parquet); None goes by their names.

    Raises:
        ClisonixError: missing, of no known format, or a rate or unit that makes no sense.
    """
    path = Path(path)
    if rate_hz is not None and not 0 < rate_hz < float("inf"):
        raise ClisonixError(f"rate_hz is {rate_hz}, expected a positive number")
    check_asked([units] if isinstance(units, str) else units)
    source = _open(path, rate_hz, columns)
    if not units:
        return source
    from clisonix.fabric.sources.converted import Converted

    return Converted(source, units)


def _open(path: Path, rate_hz: float | None, columns: Columns | None) -> Source:
    if path.is_dir() and path.suffix != ".mff":
        from clisonix.fabric.sources.e4 import E4Source

        return E4Source(path)
    if path.suffix != ".mff":
        must_be_file(path)
        # The FLAC variant of a WFDB signal file would pass for audio.
        if path.suffix.lower() == ".dat" and path.with_suffix(".hea").is_file():
            from clisonix.fabric.sources.wfdb import WfdbSource

            return WfdbSource(path.with_suffix(".hea"))
        if (source := _by_content(path, rate_hz, columns)) is not None:
            return source
    return _by_name(path, rate_hz, columns)


def _by_content(path: Path, rate_hz: float | None, columns: Columns | None) -> Source | None:
    try:
        with path.open("rb") as file:
            head = file.read(12)
    except OSError as error:
        raise ClisonixError(f"cannot read {path}: {error.strerror or error}") from error
    name = path.name.lower()
    if head[:4] == b"XDF:" or (head[:2] == b"\x1f\x8b" and name.endswith((".xdfz", ".xdf.gz"))):
        from clisonix.fabric.sources.xdf import XdfSource

        return XdfSource(path)
    if head[:8] in (b"0       ", b"\xffBIOSEMI"):
        from clisonix.fabric.sources.edf import EdfSource

        return EdfSource(path)
    if head[:4] in (b"RIFF", b"RF64", b"fLaC", b"OggS", b"FORM", b".snd"):
        from clisonix.fabric.sources.audio import AudioSource

        return AudioSource(path)
    if head[:4] == b"PAR1":
        from clisonix.fabric.sources.parquet import ParquetSource

        return ParquetSource(path, rate_hz, columns)
    if head[:6] == b"\x93NUMPY":
        from clisonix.fabric.sources.arrays import NumpySource

        return NumpySource(path, rate_hz)
    if head[:4] == b"PK\x03\x04":
        return _zip(path, rate_hz)
    return None


def _zip(path: Path, rate_hz: float | None) -> Source:
    from clisonix.fabric.sources.arrays import NumpySource
    from clisonix.fabric.sources.e4 import E4Source

    try:
        with zipfile.ZipFile(path) as archive:
            arrays = any(name.endswith(".npy") for name in archive.namelist())
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        arrays = path.suffix.lower() == ".npz"
    return NumpySource(path, rate_hz) if arrays else E4Source(path)


def _by_name(path: Path, rate_hz: float | None, columns: Columns | None) -> Source:
    name = path.name.lower()
    if name.endswith(".hea"):
        from clisonix.fabric.sources.wfdb import WfdbSource

        return WfdbSource(path)
    if name.endswith(_TEXT):
        from clisonix.fabric.sources.csv import CsvSource

        return CsvSource(path, rate_hz, columns)
    if name.endswith(".acq"):
        from clisonix.fabric.sources.acq import AcqSource

        return AcqSource(path)
    if name.endswith(_MNE):
        from clisonix.fabric.sources.mne import MneSource

        return MneSource(path)
    # A known name on damaged content: its reader says what is wrong.
    for suffixes, reader in _NAMED.items():
        if name.endswith(suffixes):
            return reader(path, rate_hz)
    raise ClisonixError(f"{path} has no format that can be read; known are {_KNOWN}")


def _xdf(path: Path, rate_hz: float | None) -> Source:
    from clisonix.fabric.sources.xdf import XdfSource

    return XdfSource(path)


def _edf(path: Path, rate_hz: float | None) -> Source:
    from clisonix.fabric.sources.edf import EdfSource

    return EdfSource(path)


def _audio(path: Path, rate_hz: float | None) -> Source:
    from clisonix.fabric.sources.audio import AudioSource

    return AudioSource(path)


def _numpy(path: Path, rate_hz: float | None) -> Source:
    from clisonix.fabric.sources.arrays import NumpySource

    return NumpySource(path, rate_hz)


_NAMED = {
    (".xdf", ".xdfz"): _xdf,
    (".edf", ".bdf"): _edf,
    (".wav", ".flac", ".ogg", ".aiff", ".mp3"): _audio,
    (".npy", ".npz"): _numpy,
}
