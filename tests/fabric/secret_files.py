"""Recordings with the name of a person wherever their formats have a place for it."""

from __future__ import annotations

import datetime
import os
import re
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sample_files import SECRET, WRITERS, frame, write_e4, write_wfdb, write_xdf


def xdf(path: Path) -> Path:
    """In the file header and a footer, too; `write_xdf` has it in host, source and description of streams."""
    content = write_xdf(path).read_bytes()
    head, foot = b"<info><version>1.0</version></info>", b"<info><sample_count>200</sample_count></info>"
    xml = b"<?xml version='1.0'?>"
    secret = f"<subject>{SECRET}</subject></info>".encode()
    for old, new in (
        (frame(1, xml + head), frame(1, xml + head[:-7] + secret)),
        (frame(6, struct.pack("<I", 1) + foot), frame(6, struct.pack("<I", 1) + foot[:-7] + secret)),
    ):
        assert old in content
        content = content.replace(old, new)
    path.write_bytes(content)
    return path


def wfdb(path: Path) -> Path:
    """In comments before, between and behind the lines of the header."""
    write_wfdb(path)
    first, *rest = path.read_text().splitlines()
    lines = [f"#{SECRET}", first, f"# <name>: {SECRET}", *rest, f"# patient {SECRET} <age>: 69"]
    path.write_text("\n".join(lines) + "\n")
    return path


def e4(path: Path) -> Path:
    """In the name of the folder inside, in the note about the wearer, and in a file that nobody knows."""
    write_e4(path)
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        archive.comment = SECRET.encode()
        for name, content in files.items():
            archive.writestr(name, content)
        archive.writestr(f"{SECRET}.txt", SECRET)
    return path


def parquet(path: Path) -> Path:
    """In the metadata of the file and of a column, and in a column of texts."""
    pa = pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    import pyarrow.parquet as pq

    n = 200
    table = pa.table({"time": np.arange(n) / 50, "x": np.sin(np.arange(n)), "who": [SECRET] * n})
    fields = [field.with_metadata({"subject": SECRET}) for field in table.schema]
    table = table.cast(pa.schema(fields, metadata={"subject": SECRET, SECRET: SECRET}))
    pq.write_table(table, path)
    return path


def fif(path: Path) -> Path:
    """In what MNE keeps about subject, experimenter, project, device and helium, and the description."""
    mne = pytest.importorskip("mne", reason="the extra mne is not installed")
    info = mne.create_info(["Cz", "Pz"], 100.0, "eeg")
    raw = mne.io.RawArray(np.random.default_rng(0).normal(0, 1e-5, (2, 400)), info, verbose="error")
    raw.info["subject_info"] = {
        "his_id": SECRET, "last_name": SECRET, "first_name": SECRET, "middle_name": SECRET,
        "birthday": datetime.date(1952, 3, 11), "sex": 1,
    }  # fmt: skip
    raw.info["experimenter"] = SECRET
    raw.info["description"] = SECRET
    raw.info["device_info"] = {"type": SECRET, "model": SECRET, "serial": SECRET, "site": SECRET}
    with raw.info._unlock():
        raw.info["proj_name"] = SECRET
    raw.set_annotations(mne.Annotations([0.5], [0.1], ["stimulus"]), verbose="error")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the name of the file
        raw.save(path, overwrite=True, verbose="error")
    return path


def acq(path: Path) -> Path:
    """In the journal, the amplifier's name and what else is text about the session, in a real file."""
    pytest.importorskip("bioread", reason="the extra bioread is not installed")
    source = Path(os.environ.get("CLISONIX_DATA", "-")) / "biopac_acq/physio-5.0.1.acq"
    if not source.is_file():
        pytest.skip("CLISONIX_DATA has no BIOPAC file to plant a name in")
    content = bytearray(source.read_bytes())
    planted = 0
    # Long texts and the serial number; names of channels and texts of markers are shorter, and shown on purpose.
    for match in re.finditer(rb"[ -~\r\n]{200,}|MP150 \d{6}", bytes(content)):
        start, size = match.start(), len(match[0])
        # The beginning of a text may tell what it is.
        skip = 100 if size > 200 else 0
        content[start + skip : start + size] = (SECRET.encode() * 100)[: size - skip]
        planted += 1
    assert planted >= 2
    path.write_bytes(bytes(content))
    return path


PLANTED: dict[str, Callable[[Path], Path]] = {
    **{name: WRITERS[name] for name in ("a.edf", "a.bdf", "a.wav", "a.flac")},
    "a.xdf": xdf,
    "a.hea": wfdb,
    "a.zip": e4,
    "a.parquet": parquet,
    "a.fif": fif,
    "a.acq": acq,
}
