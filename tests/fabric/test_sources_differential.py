"""Every file of the data root that another library can read, against that library."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from clisonix.fabric import open_source
from clisonix.fabric.sources.wfdb import WfdbSource


def test_every_wav_file_is_that_of_soundfile(data_root: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    paths = sorted(data_root.rglob("*.wav"))
    if not paths:
        pytest.skip("the data root holds no WAV file")
    for path in paths:
        want, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
        source = open_source(path)
        assert source.inspect().streams[0].rate_hz == rate_hz, path.name
        found = np.concatenate([chunk.samples for chunk in source.chunks()], axis=1)
        np.testing.assert_array_equal(found.T, want, err_msg=path.name)


def test_every_wfdb_record_with_samples_is_that_of_wfdb(data_root: Path) -> None:
    wfdb = pytest.importorskip("wfdb")
    compared = 0
    for path in sorted(data_root.rglob("*.hea")):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                expected = wfdb.rdrecord(str(path.with_suffix("")), smooth_frames=False)
        except Exception:
            continue
        signals = expected.e_p_signal
        if signals is None:
            if expected.p_signal is None:
                continue
            signals = list(expected.p_signal.T)
        source = WfdbSource(path)
        info = source.inspect()
        found: dict[str, np.ndarray] = {}
        for stream in info.streams:
            assert stream.rate_hz is not None
            assert info.duration_s is not None
            values = np.full((len(stream.channels), round(info.duration_s * stream.rate_hz)), np.nan, np.float32)
            for chunk in source.chunks([stream.name]):
                values[:, np.rint(chunk.times_s * stream.rate_hz).astype(int)] = chunk.samples
            found.update(zip(stream.channels, values, strict=True))
        for name, want in zip(expected.sig_name, signals, strict=True):
            np.testing.assert_allclose(found[name], want, rtol=1e-6, atol=1e-6, err_msg=f"{path.name} {name}")
            compared += 1
    assert compared > 0


def test_every_edf_file_is_that_of_pyedflib(data_root: Path) -> None:
    pyedflib = pytest.importorskip("pyedflib")
    paths = [*data_root.rglob("*.edf"), *data_root.rglob("*.bdf")]
    if not paths:
        pytest.skip("the data root holds no EDF or BDF file")
    for path in paths:
        source = open_source(path)
        with pyedflib.EdfReader(str(path)) as reader:
            found = {n: c for s in source.inspect().streams for n, c in _channels(source, s.name, s.channels).items()}
            assert sorted(found) == sorted(reader.getSignalLabels())
            for i, name in enumerate(reader.getSignalLabels()):
                np.testing.assert_allclose(found[name], reader.readSignal(i), rtol=1e-6, atol=1e-5)
            onsets = reader.readAnnotations()[0]
        assert len(source.events()) == len(onsets)
        np.testing.assert_allclose([e.time_s for e in source.events()], np.sort(onsets), atol=1e-6)


def _channels(source: object, stream: str, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    parts = [chunk.samples for chunk in source.chunks([stream])]  # type: ignore[attr-defined]
    return dict(zip(names, np.concatenate(parts, axis=1), strict=True))
