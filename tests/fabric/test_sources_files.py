"""CSV, audio, NumPy, E4, BIOPAC, Parquet, iterators, units, and recordings made from them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sample_files import WRITERS, write_csv, write_e4, write_npy, write_npz, write_wav, write_xdf

from clisonix.errors import ClisonixError
from clisonix.fabric.load import load
from clisonix.fabric.source import Marker, Source, SourceError, StreamInfo, to_json
from clisonix.fabric.source_text import describe
from clisonix.fabric.sources import open_source
from clisonix.fabric.sources.iterable import IterableSource
from clisonix.fabric.units import conversion, spelled


def whole(source: Source, name: str) -> tuple[np.ndarray, np.ndarray]:
    chunks = list(source.chunks([name], seconds=0.3))
    return np.concatenate([c.samples for c in chunks], axis=1), np.concatenate([c.times_s for c in chunks])


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_is_recognised_and_keeps_the_contract(tmp_path: Path, name: str) -> None:
    source = open_source(WRITERS[name](tmp_path / name), rate_hz=50)
    assert isinstance(source, Source)
    info = source.inspect()
    assert info.streams
    json.dumps(to_json(info), allow_nan=False)
    assert list(describe(info))
    lengths = dict.fromkeys((s.name for s in info.streams), 0)
    for chunk in source.chunks(seconds=0.5):
        stream = info.stream(chunk.stream)
        assert chunk.index == lengths[chunk.stream]
        assert chunk.samples.shape == (len(stream.channels), len(chunk.times_s))
        assert chunk.samples.flags.c_contiguous
        if stream.rate_hz:
            assert len(chunk.times_s) <= max(1, 0.5 * stream.rate_hz)
        lengths[chunk.stream] += len(chunk.times_s)
    for stream in info.streams:
        assert stream.samples in (None, lengths[stream.name])
    assert source.events() == sorted(source.events(), key=lambda e: e.time_s)
    with pytest.raises(ClisonixError, match="no stream 'nose'"):
        list(source.chunks(["nose"]))
    with pytest.raises(ClisonixError, match="positive"):
        list(source.chunks(seconds=0))


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_csv_has_times_units_markers_and_holes(tmp_path: Path, name: str) -> None:
    source = open_source(write_csv(tmp_path / name))
    stream = source.inspect().streams[0]
    assert (stream.channels, stream.units, stream.rate_hz) == (("Fz", "skin"), ("uV", "uS"), 50.0)
    samples, times_s = whole(source, "signals")
    np.testing.assert_allclose(times_s, np.arange(100) / 50)
    np.testing.assert_array_equal(samples[0], np.arange(100))
    assert np.flatnonzero(np.isnan(samples[1])).tolist() == [3]
    # A marker belongs to its row, whatever the row's time turns out to be once jitter is removed.
    assert source.events() == [
        Marker(0.8, 1, "marker", sample=("signals", 40)),
        Marker(1.6, 2, "marker", sample=("signals", 80)),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a;b\n1,5;2\n;4\n", [[1.5, np.nan], [2, 4]]),
        ("1,2\n3,4\n", [[1, 3], [2, 4]]),
        ("a\tb\r\n1\t2\r\n\r\n3\tnan\r\n", [[1, 3], [2, np.nan]]),
        ("a,b\n,\n1,x\n", [[np.nan, 1], [np.nan, np.nan]]),
    ],
)
def test_csv_dialects(tmp_path: Path, text: str, expected: list[list[float]]) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode())
    samples = whole(open_source(path, rate_hz=1), "signals")[0]
    np.testing.assert_array_equal(samples, np.array(expected)[: len(samples)])


def test_a_short_row_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,b\n1,2\n3,4\n5\n")
    with pytest.raises(SourceError, match="line 4 has 1 cells, expected 2"):
        list(open_source(path, rate_hz=1).chunks())


def test_a_table_without_times_asks_for_its_rate(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ClisonixError, match="rate_hz"):
        list(open_source(path).chunks())
    with pytest.raises(ClisonixError, match="rate_hz"):
        list(open_source(write_npy(tmp_path / "a.npy")).chunks())


def test_a_truncated_wav_gives_what_is_there_with_a_note(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav")
    path.write_bytes(path.read_bytes()[:4000])
    source = open_source(path)
    assert "truncated at byte 4000" in source.inspect().notes[0]
    assert whole(source, "audio")[0].shape[1] > 900


def test_npz_says_rates_and_units(tmp_path: Path) -> None:
    info = open_source(write_npz(tmp_path / "a.npz")).inspect()
    assert [(s.name, s.rate_hz, s.units[0]) for s in info.streams] == [("ecg", 250.0, "mV"), ("acc", 30.0, "")]


def test_objects_in_numpy_files_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(SourceError, match="NumPy"):
        open_source(tmp_path / "a.npy").inspect()


def test_e4_sensors_start_at_their_own_times(tmp_path: Path) -> None:
    source = open_source(write_e4(tmp_path / "a.zip"))
    samples, times_s = whole(source, "acc")
    np.testing.assert_array_equal(samples[:, 0], [1, -1, 0])
    np.testing.assert_allclose(times_s, 1560279825 + np.arange(64) / 32)
    samples, times_s = whole(source, "ibi")
    np.testing.assert_allclose(times_s, [1560279826.5, 1560279828.0])
    np.testing.assert_allclose(samples, [[0.75, 0.8]])
    assert source.events() == [Marker(1560279830.25, "tag")]


def test_e4_session(data_root: Path) -> None:
    recording = load(open_source(data_root / "empatica_e4"))
    assert {n: (s.length, s.rate_hz) for n, s in recording.streams.items()} == {
        "acc": (9998, 32.0), "bvp": (9998, 64.0), "eda": (9998, 4.0), "temp": (4998, 4.0), "hr": (4998, 1.0),
    }  # fmt: skip
    assert recording.streams["hr"].start_s - recording.streams["acc"].start_s == 10


@pytest.mark.parametrize("name", ["physio-5.0.1.acq", "physio-4.4.0-c.acq"])
def test_biopac_is_as_exported(data_root: Path, name: str) -> None:
    pytest.importorskip("bioread")
    found = load(open_source(data_root / "biopac_acq" / name)).streams
    with np.load(data_root / "biopac_acq/physio.npz") as exported:
        np.testing.assert_allclose(found["signals_1000hz"].samples[0], exported["EKG"], rtol=1e-6)
        np.testing.assert_allclose(found["signals_2000hz"].samples[1], exported["EDA"], rtol=1e-6)
        np.testing.assert_allclose(found["signals_3.90625hz"].samples[0], exported["RESP"], rtol=1e-6)


def test_parquet_is_read_as_csv_is(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    table = pyarrow.table({"time": np.arange(100) / 50, "Fz (uV)": np.arange(100.0), "name": ["x"] * 100})
    parquet.write_table(table, tmp_path / "a.parquet")
    source = open_source(tmp_path / "a.parquet")
    assert source.inspect().streams[0].rate_hz == 50
    np.testing.assert_array_equal(whole(source, "signals")[0], [np.arange(100)])


def test_pieces_of_any_length_become_chunks() -> None:
    stream = StreamInfo("x", ("a",), ("",), 100.0)
    pieces = [("x", np.full((1, n), n, np.float32)) for n in (1, 0, 130, 7)]
    source = IterableSource([stream], lambda: iter(pieces))
    assert [c.samples.shape[1] for c in source.chunks(seconds=0.5)] == [50, 50, 38]
    np.testing.assert_allclose(whole(source, "x")[1], np.arange(138) / 100)


def test_units_are_converted_and_unknown_ones_stay_with_a_note(tmp_path: Path) -> None:
    path = write_xdf(tmp_path / "a.xdf")
    source = open_source(path, units=["mV", "degC"])
    assert source.inspect().streams[0].units == ("mV", "xyz")
    assert "xyz" in source.inspect().notes[-1]
    np.testing.assert_allclose(whole(source, "eeg")[0], whole(open_source(path), "eeg")[0] * [[1e-3], [1]], rtol=1e-6)
    with pytest.raises(ClisonixError, match="both measure voltage"):
        open_source(path, units=["mV", "uV"])
    with pytest.raises(ClisonixError, match="not known"):
        open_source(path, units=["parsec"])


@pytest.mark.parametrize(
    ("written", "unit"),
    [
        ("µV", "uV"),
        ("microvolts", "uV"),
        ("Millivolt", "mV"),
        ("μS", "uS"),
        ("°C", "degC"),
        ("kΩ", "kOhm"),
        ("MV", "MV"),
    ],
)
def test_spellings(written: str, unit: str) -> None:
    assert spelled(written) == unit


def test_conversions() -> None:
    assert conversion("degF", "degC") == pytest.approx((5 / 9, -160 / 9))
    assert conversion("mV", "uV") == pytest.approx((1000, 0))
    assert conversion("m/s^2", "g") == pytest.approx((1 / 9.80665, 0))
    assert conversion("uV", "uS") is None


def test_load_puts_streams_on_the_recorders_clock(tmp_path: Path) -> None:
    recording = load(open_source(write_xdf(tmp_path / "a.xdf")))
    stream = recording.streams["eeg"]
    assert stream.start_s == pytest.approx(5.25, abs=1e-3)
    np.testing.assert_array_equal(stream.samples.T.ravel(), np.arange(400))
    assert stream.masked == 0


def test_load_does_not_lose_samples_to_a_wrong_rate(data_root: Path) -> None:
    source = open_source(data_root / "openmuse/test-13-dev.xdf")
    with pytest.raises(ClisonixError, match=r"Muse_BATTERY has the rate 0\.1 Hz"):
        load(source)
    recording = load(source, rates={"Muse_BATTERY": 1.0})
    assert recording.streams["Muse_EEG"].length == 10016


def test_load_asks_for_the_rate_of_irregular_streams(tmp_path: Path) -> None:
    source = open_source(write_e4(tmp_path / "a.zip"))
    assert set(load(source).streams) == {"acc", "eda"}
    with pytest.raises(ClisonixError, match="irregular"):
        load(source, streams=["ibi"])
    assert load(source, rates={"ibi": 2}).streams["ibi"].masked == 2


def test_what_cannot_be_opened_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text("?")
    with pytest.raises(ClisonixError, match="known are XDF"):
        open_source(tmp_path / "a.xyz")
    with pytest.raises(ClisonixError, match="there is no file"):
        open_source(tmp_path / "b.xdf")
    with pytest.raises(ClisonixError, match="not an E4 session"):
        open_source(tmp_path)
