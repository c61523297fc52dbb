"""Small recordings of every format, written byte by byte where no library is at hand."""

from __future__ import annotations

import gzip
import struct
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

BOUNDARY = bytes.fromhex("43a546dccbf5410fb30ed5467383cbe4")
SECRET = "Zaphod-Beeblebrox-1952"


def frame(tag: int, content: bytes, length: int | None = None) -> bytes:
    """An XDF frame; `length` lies about it."""
    size = len(content) + 2 if length is None else length
    return b"\x04" + struct.pack("<IH", size, tag) + content


def xdf_header(
    key: int, name: str, kind: str, channels: int, rate: float, stamped: str = "EEG", desc: str = ""
) -> bytes:
    """A stream header with a subject in it."""
    xml = (
        f"<?xml version='1.0'?><info><name>{name}</name><type>{stamped}</type>"
        f"<channel_count>{channels}</channel_count><nominal_srate>{rate}</nominal_srate>"
        f"<channel_format>{kind}</channel_format><hostname>{SECRET}</hostname>"
        f"<source_id>{SECRET}</source_id><desc><subject><id>{SECRET}</id></subject>{desc}</desc></info>"
    )
    return frame(2, struct.pack("<I", key) + xml.encode())


def xdf_samples(key: int, values: np.ndarray, stamps: Sequence[float | None], claim: int | None = None) -> bytes:
    """A frame of numeric samples `(time, channels)`."""
    count = len(values) if claim is None else claim
    content = struct.pack("<IBI", key, 4, count)
    for row, stamp in zip(values, stamps, strict=True):
        content += (b"\0" if stamp is None else b"\x08" + struct.pack("<d", stamp)) + row.tobytes()
    return frame(3, content)


def xdf_texts(key: int, texts: Sequence[str], stamps: Sequence[float]) -> bytes:
    """A frame of text samples."""
    content = struct.pack("<IBB", key, 1, len(texts))
    for text, stamp in zip(texts, stamps, strict=True):
        content += b"\x08" + struct.pack("<d", stamp) + b"\x01" + bytes([len(text.encode())]) + text.encode()
    return frame(3, content)


def write_xdf(path: Path) -> Path:
    """Two channels at 100 Hz with mixed stamps, markers, offsets, a boundary every tenth of a second."""
    values = np.arange(400, dtype="<f4").reshape(200, 2)
    parts = [b"XDF:", frame(1, b"<?xml version='1.0'?><info><version>1.0</version></info>")]
    channel = "".join(
        f"<channel><label>{label}</label><unit>{unit}</unit></channel>"
        for label, unit in (("Cz", "microvolts"), ("EDA", "xyz"))
    )
    parts += [
        xdf_header(1, "eeg", "float32", 2, 100, desc=f"<channels>{channel}</channels>"),
        xdf_header(7, "marks", "string", 1, 0, "Markers"),
    ]
    for a in range(0, 200, 10):
        stamps = [5 + (a + i) / 100 if i % 2 == 0 else None for i in range(10)]
        parts += [xdf_samples(1, values[a : a + 10], stamps), frame(5, BOUNDARY)]
        parts += [frame(4, struct.pack("<I2d", 1, 5 + a / 100, 0.25)), xdf_texts(7, [f"m{a}"], [5 + a / 100])]
    parts.append(frame(6, struct.pack("<I", 1) + b"<info><sample_count>200</sample_count></info>"))
    path.write_bytes(b"".join(parts))
    return path


def edf_bytes(
    records: int = 10,
    *,
    starts: Sequence[float] | None = None,
    bdf: bool = False,
    notes: Callable[[int], str] = lambda r: "",
) -> bytes:
    """Two signals (16 and 4 samples a second) and annotations; discontinuous if `starts` are given."""
    width, letter = (3, "B") if bdf else (2, "E")
    labels = ["Fpz", "Temp", f"{letter}DF Annotations"]
    samples = [16, 4, 40]
    top = 8388607 if bdf else 32767

    def field(value: object, size: int) -> bytes:
        return str(value).encode("latin-1").ljust(size)[:size]

    head = (b"\xffBIOSEMI" if bdf else field(0, 8)) + field(SECRET, 80) + field(f"Startdate {SECRET}", 80)
    head += field("01.01.01", 8) + field("00.00.00", 8) + field(256 * 4, 8)
    head += field(f"{letter}DF+{'C' if starts is None else 'D'}", 44) + field(records, 8) + field(1, 8) + field(3, 4)
    columns: list[tuple[Sequence[object], int]] = [
        (labels, 16), ([SECRET] * 3, 80), (["uV", "degC", ""], 8), ([-100, 0, -1], 8), ([100, 50, 1], 8),
        ([-top - 1] * 3, 8), ([top] * 3, 8), ([""] * 3, 80), (samples, 8), ([""] * 3, 32),
    ]  # fmt: skip
    for values, size in columns:
        head += b"".join(field(v, size) for v in values)
    body = b""
    for r in range(records):
        for s, n in enumerate(samples[:2]):
            digital = (np.arange(n) + r * n + 1000 * s).astype("<i4")
            body += digital.view(np.uint8).reshape(-1, 4)[:, :width].tobytes()
        start = r if starts is None else starts[r]
        body += f"+{start}\x14\x14\0{notes(r)}".encode().ljust(40 * width, b"\0")
    return head + body


def write_edf(path: Path) -> Path:
    """A continuous file with an annotation each second."""
    path.write_bytes(edf_bytes(bdf=path.suffix == ".bdf", notes=lambda r: f"+{r}.5\x150.25\x14stage {r}\x14\0"))
    return path


def write_wfdb(path: Path) -> Path:
    """A record of two signals in format 212 and one in 16, with annotations and a comment about the person."""
    name, frames = path.stem, 300
    values = (np.arange(2 * frames) % 2000) - 1000
    low, high = values[::2] & 0xFFF, values[1::2] & 0xFFF
    packed = np.stack([low & 0xFF, (low >> 8) | ((high >> 8) << 4), high & 0xFF], axis=1).astype(np.uint8)
    path.with_name(f"{name}.dat").write_bytes(packed.tobytes())
    path.with_name(f"{name}_16.dat").write_bytes(np.arange(frames, dtype="<i2").tobytes())
    path.with_name(f"{name}.atr").write_bytes(struct.pack("<4H", 1 << 10 | 18, 5 << 10 | 100, 1 << 10 | 50, 0))
    path.write_text(
        f"{name} 3 100 {frames} 10:00:00 01/02/1952\n{name}.dat 212 200(0)/mV 12 0 0 0 0 II\n"
        f"{name}.dat 212 10/mmHg 12 0 0 0 0 ABP\n{name}_16.dat 16 1(-5)/uS 16 0 0 0 0 EDA\n# {SECRET} 69 M\n"
    )
    return path


def write_wav(path: Path) -> Path:
    """A second of stereo with a title that nobody shall see."""
    import soundfile

    with soundfile.SoundFile(path, "w", 8000, 2) as file:
        file.title, file.artist = SECRET, SECRET
        file.write(np.sin(np.arange(16000).reshape(8000, 2) / 50))
    return path


def write_csv(path: Path) -> Path:
    """Steady times, two channels with units, an empty cell and a marker."""
    rows = [f"{i / 50},{i},{'' if i == 3 else -i},{i // 40}" for i in range(100)]
    text = "time,Fz (uV),skin [uS],marker\n" + "\n".join(rows) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def write_npz(path: Path) -> Path:
    """Two arrays with rate and unit."""
    np.savez(path, ecg=np.arange(500.0), ecg_fs=250.0, ecg_unit="mV", acc=np.ones((90, 3), np.int16), acc_rate_hz=30)
    return path


def write_npy(path: Path) -> Path:
    """An array without a rate."""
    np.save(path, np.arange(300, dtype=np.float32).reshape(100, 3))
    return path


def write_e4(path: Path) -> Path:
    """A zip of a session, with what an app writes about the wearer."""
    files = {
        "ACC.csv": "1560279825.0,1560279825.0,1560279825.0\n32.0,32.0,32.0\n" + "64,-64,0\n" * 64,
        "EDA.csv": "1560279825.0\n4.0\n" + "0.5\n" * 8,
        "IBI.csv": "1560279825.0, IBI\n1.5,0.75\n3.0,0.8\n",
        "tags.csv": "1560279830.25\n",
        "info.txt": SECRET,
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


WRITERS: dict[str, Callable[[Path], Path]] = {
    "a.xdf": write_xdf,
    "a.edf": write_edf,
    "a.bdf": write_edf,
    "a.hea": write_wfdb,
    "a.wav": write_wav,
    "a.flac": write_wav,
    "a.csv": write_csv,
    "a.csv.gz": write_csv,
    "a.npz": write_npz,
    "a.npy": write_npy,
    "a.zip": write_e4,
}
