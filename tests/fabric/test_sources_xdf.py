"""XDF: stamps as they were written, clocks untouched, damage survived."""

from __future__ import annotations

import logging
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from sample_files import BOUNDARY, frame, write_xdf, xdf_header, xdf_samples

from clisonix.fabric.source import Chunk, ClockedSource, SourceError
from clisonix.fabric.sources.xdf import XdfSource


def gathered(source: XdfSource, seconds: float = 10.0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    chunks: dict[str, list[Chunk]] = {}
    for chunk in source.chunks(seconds=seconds):
        held = chunks.setdefault(chunk.stream, [])
        assert chunk.index == sum(len(c.times_s) for c in held)
        held.append(chunk)
    return {
        name: (np.concatenate([c.samples for c in held], axis=1), np.concatenate([c.times_s for c in held]))
        for name, held in chunks.items()
    }


def test_stamps_and_values_are_those_of_pyxdf(data_root: Path) -> None:
    pyxdf = pytest.importorskip("pyxdf")
    logging.getLogger("pyxdf").setLevel(logging.CRITICAL)
    paths = [p for p in sorted(data_root.rglob("*.xdf")) if "malformed" not in p.parts]
    assert len(paths) >= 6
    for path in paths:
        expected, _ = pyxdf.load_xdf(path, dejitter_timestamps=False, synchronize_clocks=False)
        source = XdfSource(path)
        info, found, events = source.inspect(), gathered(source), source.events()
        assert len(expected) == len(info.streams) + len(info.markers)
        for stream in expected:
            name, stamps = stream["info"]["name"][0], np.asarray(stream["time_stamps"])
            offsets = source.clock_offsets()[name]
            np.testing.assert_array_equal(offsets[:, 0], stream["clock_times"])
            np.testing.assert_array_equal(offsets[:, 1], stream["clock_values"])
            if name in info.markers:
                mine = [e for e in events if getattr(e, "stream", "") == name]
                assert sorted(e.label for e in mine) == sorted(",".join(row) for row in stream["time_series"])
                np.testing.assert_allclose([e.time_s for e in mine], np.sort(stamps), rtol=0, atol=1e-6)
            else:
                assert info.stream(name).samples == len(stamps)
                samples, times_s = found.get(name, (np.zeros((stream["time_series"].shape[1], 0)), np.zeros(0)))
                np.testing.assert_allclose(times_s, stamps, rtol=0, atol=1e-6)
                np.testing.assert_array_equal(samples.T, stream["time_series"].astype(np.float32))


@pytest.mark.parametrize("seconds", [0.013, 0.5, 100.0])
def test_unstamped_samples_count_on_from_the_last_stamp(tmp_path: Path, seconds: float) -> None:
    source = XdfSource(write_xdf(tmp_path / "a.xdf"))
    samples, times_s = gathered(source, seconds)["eeg"]
    np.testing.assert_allclose(times_s, 5 + np.arange(200) / 100, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(samples.T.ravel(), np.arange(400))
    assert isinstance(source, ClockedSource)
    assert source.clock_offsets()["eeg"].shape == (20, 2)
    assert [e.label for e in source.events()] == [f"m{a}" for a in range(0, 200, 10)]


def test_two_iterators_do_not_disturb_each_other(tmp_path: Path) -> None:
    source = XdfSource(write_xdf(tmp_path / "a.xdf"))
    for one, two in zip(source.chunks(seconds=0.1), source.chunks(seconds=0.1), strict=True):
        np.testing.assert_array_equal(one.samples, two.samples)


@pytest.mark.parametrize("cut", [0.3, 0.6, 0.95])
def test_a_cut_file_gives_what_is_whole_with_a_note(tmp_path: Path, cut: float) -> None:
    path = write_xdf(tmp_path / "a.xdf")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * cut)])
    source = XdfSource(path)
    samples, times_s = gathered(source)["eeg"]
    assert 0 < len(times_s) < 200
    np.testing.assert_allclose(times_s, 5 + np.arange(len(times_s)) / 100, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(samples.T.ravel(), np.arange(2 * len(times_s)))
    assert any("left out" in note for note in source.inspect().notes)


def test_after_a_damaged_frame_reading_goes_on_at_the_boundary(tmp_path: Path) -> None:
    good = np.ones((4, 1), "<f4")
    parts = [b"XDF:", xdf_header(1, "x", "float32", 1, 10), xdf_samples(1, good, [1, 1.1, 1.2, 1.3])]
    parts += [b"\x07garbage" * 20, frame(5, BOUNDARY), xdf_samples(1, 2 * good, [2, 2.1, 2.2, 2.3])]
    path = tmp_path / "a.xdf"
    path.write_bytes(b"".join(parts))
    source = XdfSource(path)
    np.testing.assert_array_equal(gathered(source)["x"][0], [[1, 1, 1, 1, 2, 2, 2, 2]])
    assert "bytes were left out" in source.inspect().notes[0]


@pytest.mark.parametrize("claim", [5, 1 << 20, (1 << 32) - 1])
def test_a_lying_count_allocates_nothing_and_loses_nothing(tmp_path: Path, claim: int) -> None:
    values = np.arange(4, dtype="<f8").reshape(4, 1)
    parts = [b"XDF:", xdf_header(1, "x", "double64", 1, 10), xdf_samples(1, values, [1, 2, 3, 4], claim)]
    parts.append(xdf_samples(1, values, [5, 6, 7, 8]))
    path = tmp_path / "a.xdf"
    path.write_bytes(b"".join(parts))
    source = XdfSource(path)
    tracemalloc.start()
    times_s = gathered(source)["x"][1]
    assert tracemalloc.get_traced_memory()[1] < 2e6
    tracemalloc.stop()
    np.testing.assert_array_equal(times_s, np.arange(1, 9))
    assert any("as many as it claims" in note for note in source.inspect().notes)


def test_a_frame_that_claims_more_than_the_file_gives_its_samples(tmp_path: Path) -> None:
    samples = xdf_samples(1, np.ones((3, 1), "<f4"), [1, 2, 3])
    lie = b"\x08" + struct.pack("<QH", 1 << 60, 3) + samples[7:]
    path = tmp_path / "a.xdf"
    path.write_bytes(b"XDF:" + xdf_header(1, "x", "float32", 1, 1) + lie)
    np.testing.assert_array_equal(gathered(XdfSource(path))["x"][1], [1, 2, 3])


@pytest.mark.parametrize("content", [b"", b"XDF", b"NOPE" * 9, b"XDF:", b"XDF:\x04\xff\xff\xff\x7f\x01\x00<"])
def test_what_is_no_xdf_is_an_error_with_a_byte_offset(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.xdf"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r"at byte \d+") as raised:
        XdfSource(path).inspect()
    assert raised.value.offset is not None


def test_the_malformed_example_is_an_error(data_root: Path) -> None:
    with pytest.raises(SourceError, match="no readable stream header"):
        XdfSource(data_root / "xdf_examples/malformed/chunk_length_lie.xdf").inspect()


def test_memory_does_not_grow_with_the_recording(tmp_path: Path) -> None:
    path = tmp_path / "a.xdf"
    block = xdf_samples(1, np.zeros((500, 8), "<f4"), [1.0] + [None] * 499)
    with path.open("wb") as file:
        file.write(b"XDF:" + xdf_header(1, "x", "float32", 8, 500))
        file.writelines(block for _ in range(1000))
    source = XdfSource(path)
    tracemalloc.start()
    assert sum(chunk.samples.size for chunk in source.chunks(seconds=1.0)) == 500 * 8 * 1000
    assert tracemalloc.get_traced_memory()[1] < 2e6 < path.stat().st_size / 8
    tracemalloc.stop()
