"""A mapped file gives the windows of a loaded one, and is not read before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sample_files import edf_bytes, write_edf

from clisonix.errors import ClisonixError
from clisonix.fabric import Modality, SignalFabric, load, mapped, open_source
from clisonix.fabric.records import Records


@pytest.mark.parametrize("start", [0, 3, 7, 8, 15])
@pytest.mark.parametrize("length", [1, 4, 8, 9, 30])
def test_a_stretch_of_records_is_that_of_the_array_they_make(start: int, length: int) -> None:
    rng = np.random.default_rng(0)
    file = rng.integers(-99, 99, (10, 8 * 4 + 5)).astype(np.int16)
    at = [0, 8, 21, 29]  # two side by side, something else, two more
    whole = np.stack([file[:, a : a + 8].ravel() for a in at])
    records = Records(file, at, 8)
    assert records.shape == whole.shape
    np.testing.assert_array_equal(records[:, start : start + length], whole[:, start : start + length])
    np.testing.assert_array_equal(records.windows(length)[start], whole[:, start : start + length])


def _same(path: Path, window: float, rate_hz: float | None = None) -> None:
    recordings = [load(open_source(path)), mapped(path)]
    assert {n: s.rate_hz for n, s in recordings[0].streams.items()} == {
        n: s.rate_hz for n, s in recordings[1].streams.items()
    }
    shapes = None
    if rate_hz is not None:
        shapes = {
            n: Modality(len(s.samples), rate_hz, round(window * rate_hz)) for n, s in recordings[0].streams.items()
        }
    fabrics = [SignalFabric([r], window=window, hop=0.3, batch_size=5, modalities=shapes) for r in recordings]
    for a, b in zip(*fabrics, strict=True):
        for name, x in a["streams"].items():
            assert bool((a["masks"][name] == b["masks"][name]).all())
            np.testing.assert_allclose(b["streams"][name], x, rtol=1e-5, atol=float(x.abs().max()) * 1e-6)


def test_windows_of_a_mapped_edf_file_are_those_of_a_loaded_one(tmp_path: Path) -> None:
    _same(write_edf(tmp_path / "a.edf"), 1.2)


def test_a_mapped_edf_file_can_change_its_rate(tmp_path: Path) -> None:
    path = write_edf(tmp_path / "a.edf")
    _same(path, 1.2, 0.5 * max(s.rate_hz for s in load(open_source(path)).streams.values()))


@pytest.mark.parametrize("channels", [1, 2])
def test_windows_of_a_mapped_wav_file_are_those_of_a_loaded_one(tmp_path: Path, channels: int) -> None:
    soundfile = pytest.importorskip("soundfile")
    values = np.random.default_rng(0).integers(-32768, 32767, (16000, channels)).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", values, 8000)
    _same(tmp_path / "a.wav", 0.5)


def test_what_cannot_be_mapped_is_refused(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(tmp_path / "b.wav", np.zeros((99, 1)), 8000, subtype="PCM_24")
    (tmp_path / "c.edf").write_bytes(edf_bytes(3, starts=[0, 1, 5]))
    (tmp_path / "d.csv").write_text("a,b\n1,2\n")
    for name in ("b.wav", "c.edf", "d.csv"):
        with pytest.raises(ClisonixError, match="load it instead"):
            mapped(tmp_path / name)
    with pytest.raises(ClisonixError, match="cannot be opened"):
        mapped(tmp_path / "absent.edf")
