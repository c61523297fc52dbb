"""A long recording woven in a process of its own, whose memory is watched. Prints one JSON line.

Usage: python memory_child.py bytes budget_bytes

Four streams: one of many channels that makes up nearly all of the bytes, a slow one, one that never sends anything
and never ends, and one whose producer works as fast as it can and so runs ahead of the others as far as it is let.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from clisonix.fabric.lane import LiveStream
from clisonix.fabric.source import Chunk
from clisonix.fabric.weave import weave

STREAMS = {
    "array": LiveStream(64, 20_000.0),
    "slow": LiveStream(2, 100.0),
    "dead": LiveStream(8, 250.0),
    "hurried": LiveStream(8, 1000.0),
}
CHUNK_S, WINDOW_S = 0.1, 1.0


def chunks(name: str, seconds: float) -> Iterator[Chunk]:
    """A stream's chunks, every time new memory."""
    spec = STREAMS[name]
    size = round(CHUNK_S * spec.rate_hz)
    for k in range(round(seconds / CHUNK_S)):
        times_s = (k * size + np.arange(size)) / spec.rate_hz
        yield Chunk(name, np.full((spec.channels, size), k, np.float32), times_s, k * size)


def status(field: str) -> int:
    """Bytes of a field of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) << 10
    raise KeyError(field)


def main() -> None:
    """Weave so many bytes and say what it took."""
    size, budget = int(float(sys.argv[1])), int(float(sys.argv[2]))
    seconds = size / (4 * STREAMS["array"].channels * STREAMS["array"].rate_hz)
    hurried: queue.Queue[Chunk | None] = queue.Queue(maxsize=16)
    dead: queue.Queue[Chunk | None] = queue.Queue()
    sent = [0.0]
    ahead_s = 0.0
    stop = threading.Event()

    def hurry() -> None:
        # It would send a hundred times as much if nobody held it back.
        for chunk in chunks("hurried", 100 * seconds):
            while not stop.is_set():
                try:
                    hurried.put(chunk, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if stop.is_set():
                return
            sent[0] = float(chunk.times_s[-1])

    def array() -> Iterator[Chunk]:
        yield from chunks("array", seconds)
        # The hurried one and the dead one would go on for ever.
        stop.set()
        dead.put(None)
        while not hurried.empty():
            hurried.get_nowait()
        hurried.put(None)

    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    base = status("VmRSS")
    thread = threading.Thread(target=hurry)
    thread.start()
    begin, windows, masked = time.monotonic(), 0, {"dead": 0, "array": 0}
    inputs = {"array": array(), "slow": chunks("slow", seconds), "dead": dead, "hurried": hurried}
    for window in weave(inputs, STREAMS, window=WINDOW_S, idle_s=0.2, budget_bytes=budget):
        windows += 1
        ahead_s = max(ahead_s, sent[0] - float(window["t0_s"]))
        for name in masked:
            masked[name] += int(not window["masks"][name].all())
    thread.join()
    peak = status("VmHWM")
    print(
        json.dumps(
            {
                "bytes": size,
                "seconds_of_signal": round(seconds, 1),
                "budget_bytes": budget,
                "base_bytes": base,
                "peak_bytes": peak,
                "grown_bytes": peak - base,
                "over_budget_mib": round((peak - base - budget) / 2**20, 1),
                "windows": windows,
                "windows_with_gaps": masked,
                "hurried_ahead_s": round(ahead_s, 1),
                "mb_per_s": round(size / 1e6 / (time.monotonic() - begin), 1),
            }
        )
    )


if __name__ == "__main__":
    main()
