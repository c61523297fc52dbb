"""Readers give what the file says, or one sentence."""

from __future__ import annotations

import gzip
import io
import wave
from pathlib import Path

import numpy as np
import pyedflib
import pytest
import soundfile

from clisonix.errors import ClisonixError
from clisonix.fabric import Columns, read_audio, read_csv, read_edf, read_npz, split_packed

TABLE = "t,a,b,m\n" + "".join(f"{i / 10:.1f},{i},{-i},{1 if 5 <= i < 8 else 0}\n" for i in range(50))
COLUMNS = Columns(("a", "b"), 10.0, "t", "m", "uV")


def wav(path: Path, samples: np.ndarray) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, len(samples), "NONE", ""))
        file.writeframes(samples.astype("<i2").tobytes())
    return path


def edf(path: Path, signals: dict[str, np.ndarray], rate_hz: int = 100) -> Path:
    with pyedflib.EdfWriter(str(path), len(signals)) as writer:
        for i, name in enumerate(signals):
            writer.setSignalHeader(
                i,
                {
                    "label": name, "dimension": "uV", "sample_frequency": rate_hz, "physical_max": 100.0,
                    "physical_min": -100.0, "digital_max": 32767, "digital_min": -32768, "transducer": "",
                    "prefilter": "",
                },
            )  # fmt: skip
        writer.writeSamples([np.ascontiguousarray(s) for s in signals.values()])
    return path


class TestAudio:
    def test_samples_are_exact(self, tmp_path: Path) -> None:
        values = np.random.default_rng(0).integers(-32768, 32767, 4000)
        stream = read_audio(wav(tmp_path / "a.wav", values))
        assert stream.rate_hz == 8000.0
        assert (stream.samples[0] * 32768 == values).all()

    def test_flac_equals_wav(self, tmp_path: Path) -> None:
        values = np.random.default_rng(0).integers(-32768, 32767, 4000)
        first = read_audio(wav(tmp_path / "a.wav", values))
        soundfile.write(tmp_path / "a.flac", values.astype(np.int16), 8000)
        assert (read_audio(tmp_path / "a.flac").samples == first.samples).all()

    @pytest.mark.parametrize("kept", [0, 10, 40, 43, 44, 45, 1000, 8043])
    def test_a_truncated_file_is_refused(self, tmp_path: Path, kept: int) -> None:
        path = wav(tmp_path / "a.wav", np.zeros(4000))
        whole = path.read_bytes()
        assert len(whole) == 8044
        path.write_bytes(whole[:kept])
        with pytest.raises(ClisonixError, match=r"truncated|not a WAV"):
            read_audio(path)

    def test_real_recording_equals_the_standard_library(self, data_root: Path) -> None:
        path = data_root / "fsdd/recordings/7_jackson_3.wav"
        with wave.open(str(path)) as file:
            want = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        assert (read_audio(path).samples[0] * 32768 == want).all()


class TestCsv:
    def test_channels_events_and_unit(self, tmp_path: Path) -> None:
        path = tmp_path / "a.csv"
        path.write_text(TABLE)
        stream, events = read_csv(path, COLUMNS)
        assert stream.channels == ("a", "b")
        assert stream.unit == "uV"
        assert (stream.samples[1] == -np.arange(50)).all()
        assert [(e.label, pytest.approx(e.time_s)) for e in events] == [(1, 0.5)]

    def test_gzip_is_the_same(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text(TABLE)
        (tmp_path / "a.csv.gz").write_bytes(gzip.compress(TABLE.encode()))
        plain, _ = read_csv(tmp_path / "a.csv", COLUMNS)
        packed, _ = read_csv(tmp_path / "a.csv.gz", COLUMNS)
        assert (plain.samples == packed.samples).all()

    def test_missing_values_are_masked_and_counted(self, tmp_path: Path) -> None:
        path = tmp_path / "a.csv"
        path.write_text(TABLE.replace("\n2.0,20,", "\n2.0,nan,").replace("\n3.0,30,", "\n3.0,,"))
        stream, _ = read_csv(path, COLUMNS)
        assert stream.masked == 2
        assert stream.valid is not None
        assert not stream.valid[0, [20, 30]].any()
        assert stream.valid[1].all()

    def test_a_truncated_row_is_refused_with_its_line(self, tmp_path: Path) -> None:
        path = tmp_path / "a.csv"
        path.write_text(TABLE[: TABLE.index("\n4.9,") + 6])
        with pytest.raises(ClisonixError, match=r"line 51: 2 cells where the header names 4"):
            read_csv(path, COLUMNS)

    def test_a_truncated_gzip_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "a.csv.gz"
        path.write_bytes(gzip.compress(TABLE.encode())[:-20])
        with pytest.raises(ClisonixError, match="truncated"):
            read_csv(path, COLUMNS)

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("", "no column 't'"),
            ("t,a,b,m\n", "no rows"),
            (TABLE.replace("t,a,b,m", "t,a,bb,m"), "no column 'b'.*did you mean 'bb'"),
            (TABLE.replace("\n1.0,10,", "\n1.0,ten,"), "line 12: could not convert"),
        ],
    )
    def test_bad_files_are_one_sentence(self, tmp_path: Path, text: str, sentence: str) -> None:
        path = tmp_path / "a.csv"
        path.write_text(text)
        with pytest.raises(ClisonixError, match=sentence):
            read_csv(path, COLUMNS)

    def test_real_eeg_equals_numpy(self, data_root: Path) -> None:
        path = sorted((data_root / "muse_lsl_erp_ssvep/visual/SSVEP/subject1/session1").glob("*.csv.gz"))[0]
        names = ("TP9", "AF7", "AF8", "TP10", "Right AUX")
        stream, events = read_csv(path, Columns(names, 256.0, "timestamps", "Marker0", "uV"))
        with gzip.open(path, "rt") as file:
            table = np.genfromtxt(io.StringIO(file.read()), delimiter=",", skip_header=1)
        valid = stream.samples[:, ~np.isnan(stream.samples).all(axis=0)]
        # The device runs within a thousandth of its nominal rate, so hardly a sample shares a cell.
        assert valid.shape[1] == pytest.approx(len(table), rel=2e-3)
        assert np.isin(valid[0], table[:, 1].astype(np.float32)).all()
        onsets = np.flatnonzero(np.diff(np.r_[0, table[:, 6]]) > 0)
        assert len(events) == len(onsets)
        assert np.abs(np.array([e.time_s for e in events]) - table[onsets, 0]).max() < 0.15


class TestEdf:
    def test_physical_values(self, tmp_path: Path) -> None:
        wave_ = 50 * np.sin(np.arange(1000) / 10)
        path = edf(tmp_path / "a.edf", {"Fp1": wave_, "Cz": -wave_})
        stream = read_edf(path, ["Cz"])
        assert stream.unit == "uV"
        assert stream.rate_hz == 100.0
        assert np.abs(stream.samples[0] + wave_).max() < 200 / 65535

    @pytest.mark.parametrize("kept", [0, 100, 256, 767, 768, 1000, -1])
    def test_a_truncated_file_is_refused(self, tmp_path: Path, kept: int) -> None:
        path = edf(tmp_path / "a.edf", {"Fp1": np.zeros(1000), "Cz": np.zeros(1000)})
        path.write_bytes(path.read_bytes()[:kept])
        with pytest.raises(ClisonixError, match="truncated"):
            read_edf(path, ["Cz"])

    def test_an_unknown_channel_names_the_nearest(self, tmp_path: Path) -> None:
        path = edf(tmp_path / "a.edf", {"Fp1": np.zeros(1000)})
        with pytest.raises(ClisonixError, match="no channel 'Fp2'; did you mean 'Fp1'"):
            read_edf(path, ["Fp2"])


class TestNpz:
    def test_objects_are_refused(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", x=np.array([{}], dtype=object))
        with pytest.raises(ClisonixError, match="cannot be read"):
            read_npz(tmp_path / "a.npz")

    def test_a_truncated_file_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "a.npz"
        np.savez(path, x=np.zeros(1000))
        path.write_bytes(path.read_bytes()[:2000])
        with pytest.raises(ClisonixError, match="cannot be read"):
            read_npz(path)

    def test_packed_recordings_are_cut_apart(self) -> None:
        arrays = {"X": np.arange(10.0)[:, None], "n": np.array([3, 7]), "who": np.array(["a", "b"])}
        first, second = split_packed(arrays, samples="X", lengths="n", fields=["who"])
        assert first[0].tolist() == [[0, 1, 2]]
        assert second[1] == {"who": "b"}

    def test_lengths_must_add_up(self) -> None:
        with pytest.raises(ClisonixError, match="sums to 9 samples, the array 'X' holds 10"):
            split_packed({"X": np.zeros((10, 1)), "n": np.array([3, 6])}, samples="X", lengths="n", fields=[])


@pytest.mark.parametrize("reader", [read_audio, read_npz, lambda p: read_edf(p, []), lambda p: read_csv(p, COLUMNS)])
def test_a_missing_file_is_named(tmp_path: Path, reader) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ClisonixError, match=r"there is no file .*gone"):
        reader(tmp_path / "gone.wav")
