"""WFDB: values of the library, gaps masked, skew taken out."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from sample_files import write_wfdb

from clisonix.errors import ClisonixError
from clisonix.fabric.source import Marker, SourceError
from clisonix.fabric.sources.wfdb import WfdbSource

RECORDS = (
    "03700181", "100", "100skew", "v102s", "multi-segment/041s/041s",
    "multi-segment/s25047/s25047-2704-05-04-10-44", "multi-segment/s25047/s25047-2704-05-04-10-44n",
)  # fmt: skip


def on_grid(source: WfdbSource) -> dict[str, np.ndarray]:
    """Every signal over the whole record, NaN where there is nothing."""
    info = source.inspect()
    assert info.duration_s is not None
    full = {}
    for stream in info.streams:
        assert stream.rate_hz is not None
        values = np.full((len(stream.channels), round(info.duration_s * stream.rate_hz)), np.nan, np.float32)
        for chunk in source.chunks([stream.name]):
            values[:, np.rint(chunk.times_s * stream.rate_hz).astype(int)] = chunk.samples
        full.update(zip(stream.channels, values, strict=True))
    return full


@pytest.mark.parametrize("record", RECORDS)
def test_values_and_gaps_are_those_of_the_library(data_root: Path, record: str) -> None:
    wfdb = pytest.importorskip("wfdb")
    path = data_root / "wfdb_samples" / f"{record}.hea"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = wfdb.rdrecord(str(path.with_suffix("")), smooth_frames=False)
    signals = expected.e_p_signal if expected.e_p_signal is not None else list(expected.p_signal.T)
    found = on_grid(WfdbSource(path))
    assert sorted(found) == sorted(expected.sig_name)
    for name, values in zip(expected.sig_name, signals, strict=True):
        np.testing.assert_allclose(found[name], values, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("number", ["16", "24", "32", "80", "508", "516", "524"])
def test_formats_are_unpacked_as_the_library_packs_them(tmp_path: Path, number: str) -> None:
    wfdb = pytest.importorskip("wfdb")
    top = 127 if number in ("80", "508") else 32767
    digital = np.random.default_rng(0).integers(-top, top, (1001, 3))
    wfdb.wrsamp(
        "x", fs=100, units=["mV"] * 3, sig_name=["a", "b", "c"], d_signal=digital, fmt=[number] * 3,
        adc_gain=[1.0] * 3, baseline=[0] * 3, write_dir=str(tmp_path),
    )  # fmt: skip
    found = on_grid(WfdbSource(tmp_path / "x.hea"))
    np.testing.assert_array_equal(np.stack([found[name] for name in "abc"], axis=1), digital)


def packed(number: str, values: np.ndarray) -> bytes:
    """Samples as the specification lays them out."""
    if number == "61":
        return values.astype(">i2").tobytes()
    if number == "160":
        return (values + 32768).astype("<u2").tobytes()
    threes = np.concatenate((values, np.zeros(-len(values) % 3, values.dtype))).reshape(-1, 3) & 0x3FF
    one, two, three = threes.T
    if number == "311":
        return (one | two << 10 | three << 20).astype("<u4").tobytes()
    words = np.stack([one << 1 | (three & 0x1F) << 11, two << 1 | (three >> 5) << 11], axis=1)
    return words.astype("<u2").tobytes()


@pytest.mark.parametrize("number", ["61", "160", "310", "311"])
def test_rare_formats_are_unpacked_as_specified(tmp_path: Path, number: str) -> None:
    digital = np.random.default_rng(0).integers(-511, 511, (1001, 2))
    (tmp_path / "x.dat").write_bytes(packed(number, digital.ravel()))
    lines = [f"x.dat {number} 1(0)/mV 10 0 0 0 0 {name}" for name in "ab"]
    (tmp_path / "x.hea").write_text("\n".join(["x 2 100 1001", *lines]) + "\n")
    found = on_grid(WfdbSource(tmp_path / "x.hea"))
    np.testing.assert_array_equal(np.stack([found["a"], found["b"]], axis=1), digital)
    wfdb = pytest.importorskip("wfdb")
    np.testing.assert_array_equal(wfdb.rdrecord(str(tmp_path / "x"), physical=False).d_signal, digital)


def test_record_100_without_the_library(data_root: Path) -> None:
    source = WfdbSource(data_root / "wfdb_samples/100.hea")
    found = on_grid(source)
    # The first values of the record, as its documentation prints them.
    np.testing.assert_allclose(found["MLII"][:3], [-0.145, -0.145, -0.145])
    np.testing.assert_allclose(found["V5"][:3], [-0.065, -0.065, -0.065])
    events = source.events()
    assert len(events) == source.inspect().events_count == 2274
    assert events[:2] == [Marker(18 / 360, "+ (N", "atr"), Marker(77 / 360, "N", "atr")]


def test_a_segment_that_is_not_there_is_a_gap(data_root: Path) -> None:
    source = WfdbSource(data_root / "wfdb_samples/multi-segment/s25047/s25047-2704-05-04-10-44.hea")
    stream = source.inspect().streams[0]
    assert stream.gaps_s == ((0.0, 205.92),)
    first = next(source.chunks())
    assert first.times_s[0] == 205.92
    assert np.isnan(first.samples[stream.channels.index("ABP")]).all()


def test_formats_gains_and_annotations(tmp_path: Path) -> None:
    source = WfdbSource(write_wfdb(tmp_path / "a.hea"))
    found = on_grid(source)
    values = np.arange(600) % 2000 - 1000
    np.testing.assert_allclose(found["II"], values[::2] / 200, rtol=1e-6)
    np.testing.assert_allclose(found["ABP"], values[1::2] / 10, rtol=1e-6)
    np.testing.assert_allclose(found["EDA"], np.arange(300) + 5)
    assert source.events() == [Marker(0.18, "N", "atr"), Marker(1.18, "V", "atr"), Marker(1.68, "N", "atr")]


def test_a_truncated_signal_file_is_masked_with_a_note(tmp_path: Path) -> None:
    path = write_wfdb(tmp_path / "a.hea")
    signal = tmp_path / "a_16.dat"
    signal.write_bytes(signal.read_bytes()[:200])
    source = WfdbSource(path)
    found = on_grid(source)
    assert np.isfinite(found["EDA"]).sum() == 100
    assert np.isfinite(found["II"]).all()
    assert "truncated" in source.inspect().notes[0]


def test_a_header_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "a.hea"
    path.write_text("a 1 100 10\n../../etc/passwd 16 200 16 0 0 0 0 x\n")
    with pytest.raises(SourceError, match="beside"):
        WfdbSource(path).inspect()
    path.write_text("a 1 100 10\nnothing.dat 16 200 16 0 0 0 0 x\n")
    with pytest.raises(ClisonixError, match="missing"):
        WfdbSource(path).inspect()
