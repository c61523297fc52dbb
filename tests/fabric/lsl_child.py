"""Runs in a network of its own that has nothing but a loopback device; see `test_lsl.py`.

Usage: lsl_child.py produce NAME CHANNELS RATE BLOCK SECONDS FIRST | lsl_child.py CHECK
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

CONFIG = """\
[ports]
IPv6 = disable
[multicast]
ResolveScope = machine
AddressesOverride = {127.0.0.1}
ListenAddress = 127.0.0.1
[lab]
KnownPeers = {127.0.0.1}
[log]
level = -3
"""


def loopback_up() -> None:
    """Switch the loopback device on, and see that it is the only one."""
    assert [name for _, name in socket.if_nameindex()] == ["lo"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS: up, running


def produce(name: str, channels: int, rate_hz: float, block: int, seconds: float, first: int) -> None:
    """Send `first`, `first + 1`, ... in every channel, stamped when they are due; the last number on stdout."""
    import pylsl

    info = pylsl.StreamInfo(name, "test", channels, rate_hz, "float32", f"id of {name}")
    outlet = pylsl.StreamOutlet(info)
    assert outlet.wait_for_consumers(20)
    time.sleep(0.3)  # the connection is there, the stream is not yet
    start_s = pylsl.local_clock()
    number = 0
    while number < seconds * rate_hz:
        due_s = start_s + (number + block) / rate_hz
        time.sleep(max(0.0, due_s - pylsl.local_clock()))
        values = np.arange(first + number, first + number + block, dtype=np.float32)
        stamps = start_s + np.arange(number + 1, number + block + 1) / rate_hz
        outlet.push_chunk(np.repeat(values[:, None], channels, 1), list(stamps))
        number += block
        print(first + number - 1, flush=True)
    time.sleep(0.5)


def producer(*args: object) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "produce", *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def restart() -> dict[str, object]:
    """A producer is killed and started again: what was sent to us arrives, in two segments."""
    from clisonix.fabric.sources.lsl import LslSource

    child = producer("eeg", 2, 250, 5, 60, 0)
    before = threading.active_count()
    with LslSource(["eeg"], wait_s=20) as source:
        time.sleep(1.0)
        child.send_signal(signal.SIGKILL)
        sent = [int(line) for line in child.communicate()[0].splitlines()]
        child = producer("eeg", 2, 250, 5, 1.0, 10_000)
        sent_again = [int(line) for line in child.communicate()[0].splitlines()]
        time.sleep(0.5)
        segments = source.segments("eeg")
        offsets = source.clock_offsets()["eeg"]
        info = source.streams["eeg"]
    chunks = list(source.chunks())
    values = np.concatenate([c.samples[0] for c in chunks])
    times_s = np.concatenate([c.times_s for c in chunks])
    one, two = values[values < 10_000], values[values >= 10_000]
    return {
        "threads": threading.active_count() - before,
        "one": [one.min(), one.max(), len(one), max(sent)],
        "two": [two.min(), two.max(), len(two), max(sent_again)],
        "segments": [s.first for s in segments],
        "index": bool((np.diff([c.index for c in chunks]) == [len(c.times_s) for c in chunks[:-1]]).all()),
        "forward": bool((np.diff(times_s) > 0).all()),
        "offset_s": float(np.abs(offsets[:, 1]).max()),
        "rate_hz": info.rate_hz,
    }


def bounded() -> dict[str, object]:
    """Nobody takes anything for longer than the buffers last: memory is bounded, and stopping works at once."""
    from clisonix.fabric.sources.lsl import LslSource

    child = producer("fast", 4, 1000, 10, 1.6, 0)
    source = LslSource(["fast"], buffer_s=1.0, wait_s=20)
    child.communicate()
    waiting = source.inboxes["fast"].qsize()
    begin = time.monotonic()
    source.stop()
    source.stop()
    return {"waiting": waiting, "stop_s": time.monotonic() - begin, "taken": sum(1 for _ in source.chunks())}


def woven() -> dict[str, object]:
    """Two streams become windows."""
    from clisonix.fabric.lane import LiveStream
    from clisonix.fabric.sources.lsl import LslSource
    from clisonix.fabric.weave import weave

    children = [producer("eeg", 2, 250, 5, 4, 0), producer("audio", 1, 16000, 160, 4, 0)]
    full, steady = 0, True
    with LslSource(["eeg", "audio"], wait_s=20) as source:
        specs = {name: LiveStream.of(info, jitter_s=0.005) for name, info in source.streams.items()}
        for number, window in enumerate(weave(source.inboxes, specs, window=0.5, lateness_s=0.05)):
            if all(bool(mask.all()) for mask in window["masks"].values()):
                full += 1
                steady &= bool((window["streams"]["audio"][0].diff() == 1).all())
            if full == 3 or number == 20:
                break
    for child in children:
        child.kill()
        child.communicate()
    return {"full": full, "steady": steady}


def absent() -> dict[str, object]:
    from clisonix.errors import ClisonixError
    from clisonix.fabric.sources.lsl import LslSource

    try:
        LslSource(["nobody"], wait_s=0.5)
    except ClisonixError as error:
        return {"error": str(error)}
    return {}


if __name__ == "__main__":
    if sys.argv[1] == "produce":
        kind, channels, rate, block, seconds, first = sys.argv[2:]
        produce(kind, int(channels), float(rate), int(block), float(seconds), int(first))
        sys.exit()
    loopback_up()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "lsl_api.cfg"
        config.write_text(CONFIG)
        os.environ["LSLAPICFG"] = str(config)
        found = {name: globals()[name]() for name in sys.argv[1:]}
    print(json.dumps(found, default=float))
