"""EDF and BDF: values of the library, gaps of the file, no name of a patient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sample_files import SECRET, edf_bytes, write_edf

from clisonix.fabric.load import load
from clisonix.fabric.source import Marker, Source, SourceError
from clisonix.fabric.sources.edf import EdfSource


def gathered(source: Source, name: str) -> tuple[np.ndarray, np.ndarray]:
    chunks = list(source.chunks([name], seconds=0.7))
    return np.concatenate([c.samples for c in chunks], axis=1), np.concatenate([c.times_s for c in chunks])


@pytest.mark.parametrize("kind", ["edf", "bdf"])
def test_values_and_annotations_are_those_of_the_library(tmp_path: Path, kind: str) -> None:
    import pyedflib

    path = tmp_path / f"a.{kind}"
    limit = 32767 if kind == "edf" else 8388607
    generator = np.random.default_rng(0)
    signals = [generator.normal(0, 50, 256 * 20), generator.normal(0, 50, 32 * 20)]
    with pyedflib.EdfWriter(
        str(path), 2, file_type=pyedflib.FILETYPE_EDFPLUS if kind == "edf" else pyedflib.FILETYPE_BDFPLUS
    ) as file:
        for i, rate in enumerate((256, 32)):
            file.setSignalHeader(
                i,
                {
                    "label": f"c{i}", "dimension": "uV", "sample_frequency": rate, "physical_max": 500.0,
                    "physical_min": -400.0, "digital_max": limit, "digital_min": -limit - 1, "transducer": "",
                    "prefilter": "",
                },
            )  # fmt: skip
        file.writeSamples(signals)
        file.writeAnnotation(1.5, 2.0, "start")
        file.writeAnnotation(10.25, -1, "ünd")
    source = EdfSource(path)
    assert [s.name for s in source.inspect().streams] == ["signals_256hz", "signals_32hz"]
    with pyedflib.EdfReader(str(path)) as reader:
        for i, rate in enumerate((256, 32)):
            samples, times_s = gathered(source, f"signals_{rate}hz")
            np.testing.assert_allclose(samples[0], reader.readSignal(i), rtol=1e-6, atol=1e-5)
            np.testing.assert_allclose(times_s, np.arange(20 * rate) / rate, rtol=0, atol=1e-9)
    assert source.events() == [Marker(1.5, "start", "", 2.0), Marker(10.25, "ünd", "", 0.0)]


def test_a_discontinuous_file_keeps_its_gaps(tmp_path: Path) -> None:
    path = tmp_path / "a.edf"
    path.write_bytes(edf_bytes(5, starts=[0, 1, 2.5, 10, 11]))
    source = EdfSource(path)
    info = source.inspect()
    assert info.format == "EDF+D"
    assert info.streams[0].gaps_s == ((2.0, 2.5), (3.5, 10.0))
    assert info.duration_s == 12.0
    _, times_s = gathered(source, "signals_16hz")
    np.testing.assert_allclose(times_s[::16], [0, 1, 2.5, 10, 11])
    laid = load(source).streams["signals_16hz"]
    assert laid.length == 12 * 16
    assert np.isnan(laid.samples[0, 56:160]).all()
    assert laid.masked == 12 * 16 - 5 * 16


def test_a_truncated_file_gives_its_whole_records_with_a_note(tmp_path: Path) -> None:
    path = write_edf(tmp_path / "a.edf")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - 200])
    source = EdfSource(path)
    assert gathered(source, "signals_16hz")[0].shape == (1, 8 * 16)
    assert any(note.startswith("truncated at byte") for note in source.inspect().notes)


def test_bdf_has_24_bits(tmp_path: Path) -> None:
    samples, _ = gathered(EdfSource(write_edf(tmp_path / "a.bdf")), "signals_16hz")
    np.testing.assert_allclose(samples[0], (np.arange(160) + 0.5) * 200 / 16777215, atol=1e-9)


@pytest.mark.parametrize(
    ("at", "field"), [(184, b"x       "), (236, b"-7      "), (244, b"nan     "), (252, b"0   ")]
)
def test_a_bad_header_is_an_error_that_shows_no_field(tmp_path: Path, at: int, field: bytes) -> None:
    path = tmp_path / "a.edf"
    content = bytearray(edf_bytes())
    content[at : at + len(field)] = field
    path.write_bytes(bytes(content))
    with pytest.raises(SourceError, match=r"at byte \d+") as raised:
        EdfSource(path).inspect()
    assert SECRET not in str(raised.value)


def test_856_annotations_of_a_sleep_recording(data_root: Path) -> None:
    source = EdfSource(data_root / "wfdb_samples/test_edfann.edf")
    assert source.inspect().streams == ()
    events = source.events()
    assert len(events) == 856
    assert events[2] == Marker(33.43, "Lights off@@EEG F4-A1", "", 0.0)
