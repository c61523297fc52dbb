"""What a recipe names is read as its file says, or refused in one sentence."""

from __future__ import annotations

import gzip
import io
import sys
import wave
from pathlib import Path

import numpy as np
import pyedflib
import pytest
import soundfile
from pydantic import TypeAdapter

from clisonix.errors import ClisonixError
from clisonix.fabric import Event, Recording
from clisonix.train.data_config import DataConfig, OneFileSource
from clisonix.train.reading import Read, RecordingFile
from clisonix.train.recordings import open_recordings

sys.path.insert(0, str(Path(__file__).parents[1] / "fabric"))
from sample_files import WRITERS, edf_bytes

TABLE = "t,a,b,m\n" + "".join(f"{i / 10:.1f},{i},{-i},{1 if 5 <= i < 8 else 0}\n" for i in range(50))
CSV: dict[str, object] = {
    "reader": "csv", "channels": ["a", "b"], "rate_hz": 10, "time": "t", "marker": "m", "unit": "uV",
}  # fmt: skip


def read(path: Path, *, damaged: str = "fail", **config: object) -> Read:
    checked = TypeAdapter(OneFileSource).validate_python({"files": "*", **config})
    return RecordingFile(checked, path, damaged=damaged).read()


def wav(path: Path, samples: np.ndarray) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, len(samples), "NONE", ""))
        file.writeframes(samples.astype("<i2").tobytes())
    return path


def edf(path: Path, signals: dict[str, np.ndarray], rate_hz: int = 100) -> Path:
    with pyedflib.EdfWriter(str(path), len(signals)) as writer:
        for i, name in enumerate(signals):
            head = {"label": name, "dimension": "uV", "sample_frequency": rate_hz}
            limits = {"physical_max": 100.0, "physical_min": -100.0, "digital_max": 32767, "digital_min": -32768}
            writer.setSignalHeader(i, {**head, **limits, "transducer": "", "prefilter": ""})
        writer.writeSamples([np.ascontiguousarray(s) for s in signals.values()])
    return path


class TestAudio:
    def test_samples_are_exact_and_flac_equals_wav(self, tmp_path: Path) -> None:
        values = np.random.default_rng(0).integers(-32768, 32767, 4000)
        stream = read(wav(tmp_path / "a.wav", values), reader="audio").stream
        assert stream.rate_hz == 8000.0
        assert (stream.samples[0] * 32768 == values).all()
        soundfile.write(tmp_path / "a.flac", values.astype(np.int16), 8000)
        assert (read(tmp_path / "a.flac", reader="audio").stream.samples == stream.samples).all()

    @pytest.mark.parametrize("kept", [0, 10, 40, 43, 44, 45, 1000, 8043])
    def test_a_truncated_file_is_refused(self, tmp_path: Path, kept: int) -> None:
        path = wav(tmp_path / "a.wav", np.zeros(4000))
        whole = path.read_bytes()
        assert len(whole) == 8044
        path.write_bytes(whole[:kept])
        with pytest.raises(ClisonixError, match=r"a\.wav.*truncated|no samples"):
            read(path, reader="audio")

    def test_what_is_left_of_a_truncated_file_can_be_kept(self, tmp_path: Path) -> None:
        path = wav(tmp_path / "a.wav", np.arange(4000))
        path.write_bytes(path.read_bytes()[:1044])
        found = read(path, reader="audio", damaged="keep")
        assert found.stream.length == 500
        assert any("truncated at byte 1044" in note for note in found.notes)

    def test_real_recording_equals_the_standard_library(self, data_root: Path) -> None:
        path = data_root / "fsdd/recordings/7_jackson_3.wav"
        with wave.open(str(path)) as file:
            want = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        assert (read(path, reader="audio").stream.samples[0] * 32768 == want).all()


class TestTables:
    def test_named_columns_have_their_roles(self, tmp_path: Path) -> None:
        path = tmp_path / "a.csv"
        path.write_text(TABLE)
        stream, events, _ = read(path, **CSV)
        assert (stream.channels, stream.unit) == (("a", "b"), "uV")
        assert (stream.samples[1] == -np.arange(50)).all()
        assert [(e.label, pytest.approx(e.time_s)) for e in events] == [(1, 0.5)]
        path.with_suffix(".csv.gz").write_bytes(gzip.compress(TABLE.encode()))
        assert (read(path.with_suffix(".csv.gz"), **CSV).stream.samples == stream.samples).all()
        uneven = read(path, **{**CSV, "time": None, "channels": ["t"]})
        assert uneven.stream.samples[0, 10] == 1.0

    def test_a_channel_that_begins_late_is_masked_and_counted(self, tmp_path: Path) -> None:
        path = tmp_path / "a.csv"
        path.write_text("t,a,b,m\n" + "".join(f"{i / 10:.1f},,{'' if i == 3 else i},0\n" for i in range(50)))
        assert read(path, **CSV).stream.masked == 51

    def test_a_marker_is_at_the_steadied_time_of_its_sample(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        stamps = np.arange(2000) / 10 + rng.uniform(-0.04, 0.04, 2000)
        path = tmp_path / "a.csv"
        path.write_text("t,a,b,m\n" + "".join(f"{t:.6f},{i},0,{int(i % 97 == 5)}\n" for i, t in enumerate(stamps)))
        stream, events, _ = read(path, **CSV)
        cells = [(e.time_s - stream.start_s) * 10 for e in events]
        assert np.abs(np.array(cells) - np.arange(5, 2000, 97)).max() < 0.1
        assert (stream.samples[0, np.rint(cells).astype(int)] == np.arange(5, 2000, 97)).all()

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("", "empty"),
            ("t,a,b,m\n", "no samples"),
            (TABLE.replace("t,a,b,m", "t,a,bb,m"), "no column 'b'.*did you mean 'bb'"),
            (TABLE[: TABLE.index("\n4.9,") + 6], "line 51 has 2 cells"),
        ],
    )
    def test_bad_files_are_one_sentence(self, tmp_path: Path, text: str, sentence: str) -> None:
        path = tmp_path / "a.csv"
        path.write_text(text)
        with pytest.raises(ClisonixError, match=rf"a\.csv.*{sentence}"):
            read(path, **CSV)

    def test_a_truncated_gzip_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "a.csv.gz"
        path.write_bytes(gzip.compress(TABLE.encode())[:-20])
        with pytest.raises(ClisonixError, match="truncated"):
            read(path, **CSV)

    def test_real_eeg_equals_numpy(self, data_root: Path) -> None:
        path = sorted((data_root / "muse_lsl_erp_ssvep/visual/SSVEP/subject1/session1").glob("*.csv.gz"))[0]
        names = ["TP9", "AF7", "AF8", "TP10", "Right AUX"]
        columns = {"channels": names, "time": "timestamps", "marker": "Marker0"}
        stream, events, _ = read(path, reader="csv", rate_hz=256, **columns)
        with gzip.open(path, "rt") as file:
            table = np.genfromtxt(io.StringIO(file.read()), delimiter=",", skip_header=1)
        measured = stream.samples[:, ~np.isnan(stream.samples).all(axis=0)]
        # The device runs within a thousandth of its nominal rate, so hardly a sample shares a cell.
        assert measured.shape[1] == pytest.approx(len(table), rel=2e-3)
        assert np.isin(measured[0], table[:, 1].astype(np.float32)).all()
        onsets = np.flatnonzero(np.diff(np.r_[0, table[:, 6]]) > 0)
        assert len(events) == len(onsets)
        assert np.abs(np.array([e.time_s for e in events]) - table[onsets, 0]).max() < 0.15


class TestEdf:
    def test_physical_values(self, tmp_path: Path) -> None:
        wave_ = 50 * np.sin(np.arange(1000) / 10)
        stream = read(edf(tmp_path / "a.edf", {"Fp1": wave_, "Cz": -wave_}), reader="edf", channels=["Cz"]).stream
        assert (stream.unit, stream.rate_hz, stream.channels) == ("uV", 100.0, ("Cz",))
        assert np.abs(stream.samples[0] + wave_).max() < 200 / 65535

    @pytest.mark.parametrize("kept", [0, 100, 256, 767, 768, 1000, -1])
    def test_a_truncated_file_is_refused(self, tmp_path: Path, kept: int) -> None:
        path = edf(tmp_path / "a.edf", {"Fp1": np.zeros(1000), "Cz": np.zeros(1000)})
        path.write_bytes(path.read_bytes()[:kept])
        with pytest.raises(ClisonixError, match=r"truncated|no samples|no channel"):
            read(path, reader="edf", channels=["Cz"])

    def test_channels_are_found_or_the_nearest_is_named(self, tmp_path: Path) -> None:
        path = edf(tmp_path / "a.edf", {"Fp1": np.zeros(1000)})
        with pytest.raises(ClisonixError, match="no channel 'Fp2'; did you mean 'Fp1'"):
            read(path, reader="edf", channels=["Fp2"])
        path.write_bytes(edf_bytes())
        assert read(path, reader="edf", channels=["Temp"]).stream.rate_hz == 4
        with pytest.raises(ClisonixError, match=r"rates \[4\.0, 16\.0\] Hz"):
            read(path, reader="edf", channels=["Fpz", "Temp"])
        with pytest.raises(ClisonixError, match=r"2 streams .*name one by the key stream"):
            read(path, reader="file")


@pytest.mark.parametrize(
    ("name", "config", "shape", "events"),
    [
        ("a.xdf", {"channels": ["EDA"], "markers": ["marks"]}, (1, 200), 20),
        ("a.edf", {"stream": "signals_16hz", "labels": {"stage 3": "three"}}, (1, 160), 1),
        ("a.hea", {"markers": ["atr"], "units": ["uV"]}, (3, 300), 3),
        ("a.flac", {}, (2, 8000), 0),
        ("a.csv", {"rate_hz": 50}, (2, 100), 2),
        ("a.npz", {"stream": "acc"}, (3, 90), 0),
        ("a.npy", {"rate_hz": 20}, (3, 100), 0),
        ("a.zip", {"stream": "acc"}, (3, 64), 1),
    ],
)
def test_every_format_reaches_a_recipe(
    tmp_path: Path, name: str, config: dict[str, object], shape: tuple[int, int], events: int
) -> None:
    WRITERS[name](tmp_path / name)
    source = {"reader": "file", "files": name, **config}
    data = {"streams": {"x": source}, "window": {"length_s": 1.0}, "split": {"by": "file"}}
    [recording] = open_recordings(DataConfig.model_validate(data), tmp_path)
    assert recording.streams["x"].samples.shape == shape
    assert len(recording.events) == events
    assert recording.fields == {"file": "a"}


def test_two_streams_of_one_file_bring_its_events_once(tmp_path: Path) -> None:
    WRITERS["a.edf"](tmp_path / "a.edf")
    both = {m: {"reader": "file", "files": "*.edf", "channels": [c]} for m, c in (("eeg", "Fpz"), ("t", "Temp"))}
    [recording] = open_recordings(config(both), tmp_path)
    assert [e.time_s for e in recording.events] == [r + 0.5 for r in range(10)]


def test_folders_count_when_the_pattern_says_so(tmp_path: Path) -> None:
    for subject in ("s1", "s2"):
        (tmp_path / subject).mkdir()
        WRITERS["a.csv"](tmp_path / subject / "7.csv")
    source = {"reader": "file", "files": "*/*.csv", "name": "{subject}/{run}"}
    found = open_recordings(config({"x": source}), tmp_path)
    assert [r.fields for r in found] == [{"subject": "s1", "run": 7}, {"subject": "s2", "run": 7}]


def config(streams: dict[str, dict[str, object]], **more: object) -> DataConfig:
    base = {"window": {"length_s": 1.0}, "split": {"by": "file"}}
    return DataConfig.model_validate({"streams": streams, **base, **more})


def flashes(folder: Path, seed: int = 0) -> tuple[dict[str, dict[str, object]], float, float]:
    """Two tables that saw the same light, one on a clock that is late and slow."""
    rng = np.random.default_rng(seed)
    switches = np.cumsum(rng.uniform(1.0, 4.0, 20))
    offset_s, rate = 7.25, 1 + 200e-6
    for name, change in (("screen", lambda t: t), ("device", lambda t: (t - offset_s) / rate)):
        shared = np.arange(0, 60, 0.01)
        light = np.searchsorted(switches, shared) % 2
        rows = (f"{change(t):.6f},{v},{int(k == 3000)}\n" for k, (t, v) in enumerate(zip(shared, light, strict=True)))
        (folder / f"{name}.csv").write_text("time,light,marker\n" + "".join(rows))
    streams = {
        name: {"reader": "file", "files": f"{name}.csv", "name": "{}" + name[1:], "rate_hz": 100}
        for name in ("screen", "device")
    }
    return streams, offset_s, rate


def differing(recording: Recording) -> float:
    """The share of samples in which the two lights differ."""
    a, b = (recording.streams[n] for n in ("screen", "device"))
    shift = round((b.start_s - a.start_s) * 100)
    n = min(a.length - max(shift, 0), b.length)
    one, two = a.samples[0, max(shift, 0) :][:n], b.samples[0, max(-shift, 0) :][:n]
    n = min(len(one), len(two))
    return float(np.mean(np.abs(np.nan_to_num(one[:n]) - np.nan_to_num(two[:n])) > 0.5))


@pytest.mark.parametrize("way", ["edges", "correlate", "anchors", "anchors in a file", "start_s"])
def test_streams_with_unlike_clocks_are_brought_together(tmp_path: Path, way: str) -> None:
    streams, offset_s, rate = flashes(tmp_path)
    pairs = [[(t - offset_s) / rate, t] for t in (5.0, 20.0, 40.0, 55.0)]
    (tmp_path / "anchors_x.csv").write_text("own_s,shared_s\n" + "".join(f"{a},{b}\n" for a, b in pairs))
    clock: dict[str, object] = {
        "edges": {"edges": "light", "of": "screen", "seen_by": "light"},
        "correlate": {"correlate": "light", "of": "screen", "seen_by": "light", "max_lag_s": 10},
        "anchors": {"anchors": pairs},
        "anchors in a file": {"anchors": "anchors_*.csv", "name": "anchors_{:1}"},
        "start_s": {"start_s": 0.0},
    }[way]
    for source in streams.values():
        source["name"] = "{:6}"
    [raw] = open_recordings(config(streams), tmp_path)
    assert differing(raw) > 0.2
    [aligned] = open_recordings(config(streams, clocks={"device": clock}), tmp_path)
    assert differing(aligned) < 0.03
    marks = [e.time_s for e in aligned.events]
    assert np.ptp(marks) < 0.02, "the event of the moved table moved with it"


def test_clocks_that_have_nothing_in_common_are_told(tmp_path: Path) -> None:
    for name, start in (("a", 0.0), ("b", 1.5e9)):
        rows = "".join(f"{start + i / 10:.1f},{i}\n" for i in range(100))
        (tmp_path / f"{name}_1.csv").write_text("time,x\n" + rows)
    streams = {n: {"reader": "file", "files": f"{n}_*.csv", "name": "{:2}{run}"} for n in "ab"}
    with pytest.raises(ClisonixError, match=r"a and b lie 1\.5e\+09 s apart.*clocks: \{b: \{start_s: 0\}\}"):
        open_recordings(config(streams), tmp_path)
    [recording] = open_recordings(config(streams, clocks={"b": {"start_s": 0}}), tmp_path)
    assert recording.streams["b"].start_s == 0.0


@pytest.mark.parametrize(
    ("clocks", "sentence"),
    [
        ({"b": {"start_s": 0}}, "names the stream 'b'"),
        ({"a": {"start_s": 0, "edges": "x", "of": "a", "seen_by": "y"}}, "give one of"),
        ({"a": {}}, "not none"),
        ({"a": {"edges": "x"}}, "need the stream `of`"),
        ({"a": {"edges": "x", "of": "a", "seen_by": "y"}}, "whose clock is to be set itself"),
    ],
)
def test_clocks_that_make_no_sense_are_refused(clocks: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        config({"a": {"reader": "file", "files": "*"}}, clocks=clocks)


def test_events_without_labels_keep_their_codes(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(TABLE)
    found = read(path, reader="file", rate_hz=10, units=[])
    assert found.events == []
    path.write_text(TABLE.replace("t,a,b,m", "t,a,b,marker"))
    assert read(path, reader="file", rate_hz=10).events == [Event(pytest.approx(0.5), 1)]
    assert read(path, reader="file", rate_hz=10, labels={1: "on"}).events[0].label == "on"
