"""Live streams over loopback: from the moment a sample is due at the producer to the moment it is ready here.

    python scripts/bench/fabric_lsl.py --json

Two producers in processes of their own, EEG (8 channels, 250 Hz, 4 ms blocks) and audio (1 channel, 16 kHz, 10 ms
blocks), for `--seconds`; the EEG producer is killed and started again halfway. Stamps are the times at which samples
are due, so a delay contains the producer's own lateness, and that of audio the 10 ms for which its block is gathered.
While a stream is opened its samples wait until the clock offset is known; the first three seconds are apart. Needs
Linux and `unshare`: liblsl listens on every interface, so everything runs in a network namespace with nothing but
loopback.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "fabric"))
from lsl_child import CONFIG, loopback_up, producer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.inside:
        unshare = shutil.which("unshare")
        if unshare is None:
            parser.error("needs the program unshare")
        user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        command = [unshare, *user, "--net", sys.executable, __file__, "--inside", "--seconds", str(args.seconds)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        result = json.loads(done.stdout)
        print(json.dumps(result) if args.json else json.dumps(result, indent=2))
        return
    loopback_up()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "lsl_api.cfg"
        config.write_text(CONFIG)
        os.environ["LSLAPICFG"] = str(config)
        print(json.dumps(measure(args.seconds)))


class Producer:
    """A producing process, and how far it says it got."""

    def __init__(self, *args: object) -> None:
        self.process = producer(*args)
        self.last = ""
        # Somebody must read along: a full pipe would hold the producer up.
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.endswith("\n"):
                self.last = line

    def end(self) -> int:
        """Wait for its end; numbers that it sent."""
        self._reader.join()
        self.process.wait()
        return int(self.last) + 1


def measure(seconds: float) -> dict[str, object]:
    """Run both producers and take what arrives as soon as it does."""
    import pylsl

    from clisonix.fabric.sources.lsl import LslSource

    half = seconds / 2
    eeg = Producer("eeg", 8, 250, 1, 10 * seconds, 0)
    audio = Producer("audio", 1, 16000, 160, seconds, 0)
    delays: dict[str, list[float]] = {"eeg": [], "audio": []}
    values: dict[str, list[np.ndarray]] = {"eeg": [], "audio": []}
    with LslSource(["eeg", "audio"], wait_s=30) as source:

        def take() -> None:
            for chunk in source.chunks():
                ready_s = pylsl.local_clock()
                delays[chunk.stream] += list(ready_s - chunk.times_s)
                values[chunk.stream].append(chunk.samples[0])

        taker = threading.Thread(target=take)
        taker.start()
        time.sleep(half)
        eeg.process.send_signal(signal.SIGKILL)
        sent_one = eeg.end()
        cut = len(delays["eeg"])
        eeg = Producer("eeg", 8, 250, 1, half, 1_000_000)
        sent_two = eeg.end() - 1_000_000
        sent_audio = audio.end()
        time.sleep(0.5)
        segments = source.segments("eeg")
        offsets = source.clock_offsets()
    taker.join()
    numbers = np.concatenate(values["eeg"])
    one, two = int((numbers < 1_000_000).sum()), int((numbers >= 1_000_000).sum())
    got_audio = sum(len(v) for v in values["audio"])
    after = np.array(delays["eeg"][cut:])
    eeg_s, audio_s = np.array(delays["eeg"][:cut]), np.array(delays["audio"])
    return {
        "claim": "live streams over loopback, pylsl " + pylsl.__version__,
        "seconds": seconds,
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
        "eeg_ready_ms": percentiles(eeg_s[3 * 250 :]),
        "audio_ready_ms": percentiles(audio_s[3 * 16000 :]),
        "eeg_after_restart_ready_ms": percentiles(after[3 * 250 :]),
        "longest_wait_at_first_ms": {
            "eeg": round(1e3 * float(eeg_s[: 3 * 250].max()), 1),
            "audio": round(1e3 * float(audio_s[: 3 * 16000].max()), 1),
            "eeg_again": round(1e3 * float(after[: 3 * 250].max()), 1),
        },
        "sent": {"eeg": sent_one, "eeg_again": sent_two, "audio": sent_audio},
        "lost": {"eeg": sent_one - one, "eeg_again": sent_two - two, "audio": sent_audio - got_audio},
        "segments": len(segments),
        "offset_us": {name: round(1e6 * float(np.median(o[:, 1])), 1) for name, o in offsets.items()},
    }


def percentiles(delays_s: np.ndarray) -> dict[str, float]:
    """Median, 99th percentile and maximum in milliseconds."""
    return {f"p{q}": round(1e3 * float(np.percentile(delays_s, q)), 2) for q in (50, 99, 100)}


if __name__ == "__main__":
    main()
