"""How fast windows are made, against the copies that cannot be avoided and against braindecode.

    python scripts/bench/fabric.py --json

One modality in windows of 64 KiB, five modalities fused in windows of 2 s with and without a change of rate, and
threads against none. Everything reads the same samples in the same shuffled order; contenders take turns in one
process. Ceilings do the same slicing and copying into memory that is used again, and nothing else. braindecode is
compared where it is installed.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import statistics
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timing import alternately, times_faster

from clisonix.fabric import Loader, Modality, Recording, SignalFabric, Stream
from clisonix.fabric import mapped as mapped_file

RATE_HZ, SAMPLES, CHANNELS, BATCH = 256.0, 1024, 16, 32  # a window of 64 KiB in float32
RATES_HZ = {"eeg": (8, 256.0), "audio": (1, 8000.0), "ppg": (3, 64.0), "acc": (3, 52.0), "eda": (1, 4.0)}
RESAMPLED_HZ = {"eeg": 128.0, "audio": 4000.0, "ppg": 32.0, "acc": 26.0, "eda": 2.0}
Work = Callable[[], Any]


def over(source: SignalFabric | Loader) -> Work:
    """One epoch, always the same one."""
    fabric = source if isinstance(source, SignalFabric) else source.fabric

    def work() -> None:
        fabric.set_epoch(0)
        for _ in source:
            pass

    return work


def one_modality(seconds: int, folder: Path) -> tuple[dict[str, Work], int]:
    """Windows of 16 channels and 4 s, as batches of 32."""
    values = np.random.default_rng(0).standard_normal((CHANNELS, seconds * int(RATE_HZ)), np.float32)
    integers = np.memmap(folder / "samples.i16", np.int16, "w+", shape=values.shape)
    integers[:] = values * 1000
    integers.flush()
    mapped = np.memmap(folder / "samples.i16", np.int16, "r", shape=values.shape)

    def fabric(samples: Any, size: int | None = BATCH, **more: Any) -> SignalFabric:  # noqa: ANN401
        recording = Recording("r", {"eeg": Stream(samples, RATE_HZ, **more)})
        return SignalFabric([recording], window=SAMPLES / RATE_HZ, hop=0.5, batch_size=size, shuffle=True)

    plain = fabric(values)
    begins = np.rint(plain.table.start_s[plain.order(0)] * RATE_HZ).astype(int).tolist()

    def ceiling(samples: Any) -> Work:  # noqa: ANN401
        def work() -> None:
            for begin in begins:
                samples[:, begin : begin + SAMPLES].astype(np.float32)

        return work

    def from_file(path: Path) -> SignalFabric:
        return SignalFabric([mapped_file(path)], window=SAMPLES / RATE_HZ, hop=0.5, batch_size=BATCH, shuffle=True)

    contenders = {
        "float32 slice copy": ceiling(values),
        "int16 map to float32 copy": ceiling(mapped),
        "fabric": over(plain),
        "fabric int16 map": over(fabric(mapped)),
        "fabric int16 map, scaled": over(fabric(mapped, scale=0.001)),
        "fabric mapped EDF file": over(from_file(_edf_file(folder / "samples.edf", integers))),
        "fabric mapped WAV file": over(from_file(_wav_file(folder / "samples.wav", integers[:1]))),
        "fabric single windows": over(fabric(values, None)),
    }
    for threads in (0, 1, 2):
        contenders[f"loader {threads} threads"] = over(Loader(fabric(values), threads=threads))
        contenders[f"loader int16 map {threads} threads"] = over(Loader(fabric(mapped), threads=threads))
    contenders.update(_braindecode(values, begins, folder))
    return contenders, len(begins)


def _edf_file(path: Path, integers: Any) -> Path:  # noqa: ANN401
    """Records of a second, all channels of one gain."""
    import pyedflib

    with pyedflib.EdfWriter(str(path), len(integers)) as writer:
        for i in range(len(integers)):
            writer.setSignalHeader(i, {
                "label": f"c{i}", "dimension": "uV", "sample_frequency": RATE_HZ, "physical_max": 3276.7,
                "physical_min": -3276.8, "digital_max": 32767, "digital_min": -32768, "transducer": "",
                "prefilter": "",
            })  # fmt: skip
        writer.writeSamples([row.astype(np.int32) for row in integers], digital=True)
    return path


def _wav_file(path: Path, integers: Any) -> Path:  # noqa: ANN401
    import wave

    with wave.open(str(path), "wb") as file:
        file.setnchannels(len(integers))
        file.setsampwidth(2)
        file.setframerate(round(RATE_HZ))
        file.writeframes(np.ascontiguousarray(integers.T).astype("<i2").tobytes())
    return path


def _braindecode(values: Any, begins: list[int], folder: Path) -> dict[str, Work]:  # noqa: ANN401
    """Its windows dataset, samples in memory and on disk, one window at a time as it gives them."""
    if importlib.util.find_spec("braindecode") is None:
        return {}
    warnings.simplefilter("ignore")
    import mne
    from braindecode.datasets import BaseConcatDataset, RawDataset
    from braindecode.preprocessing import create_fixed_length_windows

    mne.set_log_level("ERROR")
    info = mne.create_info(CHANNELS, RATE_HZ, "eeg")
    in_memory = mne.io.RawArray(values, info)
    in_memory.save(folder / "samples_raw.fif", overwrite=True)
    raws = {"preloaded": in_memory, "lazy": mne.io.read_raw_fif(folder / "samples_raw.fif", preload=False)}
    hop = int(0.5 * RATE_HZ)
    contenders = {}
    for name, raw in raws.items():
        windows = create_fixed_length_windows(
            BaseConcatDataset([RawDataset(raw)]),
            window_size_samples=SAMPLES,
            window_stride_samples=hop,
            drop_last_window=True,
            preload=False,
        )
        rows = [begin // hop for begin in begins]

        def work(windows: Any = windows, rows: list[int] = rows) -> None:  # noqa: ANN401
            for row in rows:
                windows[row]

        contenders[f"braindecode {name}"] = work
    return contenders


def five_modalities(seconds: int) -> tuple[dict[str, Work], int]:
    """Fused windows of 2 s, and the same at half of every rate."""
    rng = np.random.default_rng(1)
    streams = {
        name: Stream(rng.standard_normal((channels, int(seconds * rate)), np.float32), rate)
        for name, (channels, rate) in RATES_HZ.items()
    }

    def fabric(modalities: Mapping[str, Modality] | None = None) -> SignalFabric:
        return SignalFabric(
            [Recording("r", streams)], window=2.0, hop=0.5, batch_size=BATCH, shuffle=True, modalities=modalities
        )

    plain = fabric()
    halves = {n: Modality(c, RESAMPLED_HZ[n], round(2 * RESAMPLED_HZ[n])) for n, (c, _) in RATES_HZ.items()}
    starts = plain.table.start_s[plain.order(0)].tolist()
    sizes = {name: round(2 * stream.rate_hz) for name, stream in streams.items()}

    def ceiling() -> None:
        for start in starts:
            for name, stream in streams.items():
                begin = round(start * stream.rate_hz)
                stream.samples[:, begin : begin + sizes[name]].copy()

    resampling = fabric(halves)

    def first() -> None:
        # A copy has kept no outputs: this is what the first epoch costs, when each is computed.
        over(copy.copy(resampling))()

    contenders = {
        "five slice copies": ceiling,
        "fabric": over(plain),
        "fabric resampling": over(resampling),
        "fabric resampling, first epoch": first,
    }
    for threads in (1, 2):
        contenders[f"loader {threads} threads"] = over(Loader(fabric(), threads=threads))
        contenders[f"loader {threads} threads resampling"] = over(Loader(fabric(halves), threads=threads))
    return contenders, len(starts)


def measure(contenders: dict[str, Work], windows: int, pairs: list[tuple[str, str]], rounds: int) -> dict[str, Any]:
    spent = alternately(contenders, rounds)
    return {
        "windows_per_s": {name: windows / statistics.median(times) for name, times in spent.items()},
        "ratios": {
            f"{ours} / {theirs}": {
                k: v for k, v in times_faster(spent, ours, theirs).items() if k in ("ratio", "low", "high")
            }
            for ours, theirs in pairs
            if ours in spent and theirs in spent
        },
        "not run": sorted({theirs for _, theirs in pairs} - spent.keys()),
        "rounds": rounds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=1200, help="length of the recording")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of a listing")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    one = [
        ("fabric", "float32 slice copy"),
        ("fabric int16 map", "int16 map to float32 copy"),
        ("fabric int16 map, scaled", "int16 map to float32 copy"),
        ("fabric mapped EDF file", "int16 map to float32 copy"),
        ("fabric", "int16 map to float32 copy"),
        ("fabric", "braindecode preloaded"),
        ("fabric", "braindecode lazy"),
        ("fabric single windows", "braindecode preloaded"),
        ("loader 1 threads", "loader 0 threads"),
        ("loader 2 threads", "loader 0 threads"),
        ("loader int16 map 2 threads", "loader int16 map 0 threads"),
    ]
    five = [
        ("fabric", "five slice copies"),
        ("fabric resampling", "five slice copies"),
        ("fabric resampling, first epoch", "five slice copies"),
        ("loader 2 threads", "fabric"),
        ("loader 2 threads resampling", "fabric resampling"),
    ]
    with tempfile.TemporaryDirectory() as folder:
        contenders, windows = one_modality(arguments.seconds, Path(folder))
        found = {"one modality, 64 KiB": measure(contenders, windows, one, arguments.rounds)}
    contenders, windows = five_modalities(arguments.seconds)
    found["five modalities, 2 s"] = measure(contenders, windows, five, arguments.rounds)
    if arguments.json:
        print(json.dumps({"threads": torch.get_num_threads(), **found}, default=float))
        return
    for part, figures in found.items():
        print(part)
        for name, speed in figures["windows_per_s"].items():
            print(f"  {name:36s} {speed / 1e3:8.1f} k/s")
        for name, r in figures["ratios"].items():
            print(f"  {name:64s} {r['ratio']:6.2f}  [{r['low']:.2f}, {r['high']:.2f}]")
        if figures["not run"]:
            print(f"  not run: {', '.join(figures['not run'])}")


if __name__ == "__main__":
    main()
