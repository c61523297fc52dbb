"""A coordinator that is killed again and again while three sites train: real processes and sockets on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clisonix.tide import SiteEngine, SiteSettings, write_start
from clisonix.tide.codecs import CodecSettings
from clisonix.tide.net.identity import make_key
from clisonix.tide.replica import Rules

RULES = "{min_sites: 3, timeout_s: 60, resend_s: 1, up: short, down: short}"
SITES = ("north", "south", "west")


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 4))


def site(settings: SiteSettings, ends: dict[str, str]) -> None:
    """Trains until the end; what it does follows from its name, the window and where it starts."""
    mine = model()
    with SiteEngine(mine, settings) as tide:
        for window in tide.follow(lambda first: range(first, 10**9)):
            draw = torch.Generator().manual_seed(1000 * sum(settings.site.encode()) + window)
            mine.zero_grad()
            mine(torch.randn(8, 64, generator=draw)).square().mean().backward()
            with torch.no_grad():
                for parameter in mine.parameters():
                    parameter -= 0.05 * parameter.grad
            time.sleep(0.02)
            tide.step()
        ends[settings.site] = tide.digest()


def run(folder: Path, rounds: int, kills: int, port: int) -> tuple[dict[str, str], list[dict[str, float]]]:
    """The last digest at each site, and for each kill how long nothing was committed and how long the start took."""
    torch.manual_seed(0)
    write_start(model(), folder / "start.safetensors")
    lines = [f"rounds: {rounds}", "heartbeat_s: 30", f"rules: {RULES}", f"listen: 127.0.0.1:{port}", "keys: keys"]
    lines += ["log: tide.log", "start: start.safetensors", "report: rounds.jsonl", "linger_s: 20"]
    (folder / "hub.yaml").write_text("\n".join(lines))
    log = folder / "hub.out"

    def begin() -> subprocess.Popen[bytes]:
        with log.open("ab") as out:
            command = [sys.executable, "-m", "clisonix.tide", "coordinate", str(folder / "hub.yaml")]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            return subprocess.Popen(command, stdout=out, stderr=out, env=environment)

    def committed() -> int:
        path = folder / "rounds.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def wait(until: Callable[[], bool]) -> float:
        begun_s = time.monotonic()
        while not until():
            if time.monotonic() - begun_s > 120:
                raise TimeoutError(log.read_text())
            time.sleep(0.005)
        return time.monotonic() - begun_s

    hub, ends, threads = begin(), dict[str, str](), []
    short = CodecSettings("short")
    rules = Rules(min_sites=3, timeout_s=60, resend_s=1, up=short, down=short)
    place = f"127.0.0.1:{port}"
    for name in SITES:
        key = make_key(folder / "keys", name)
        settings = SiteSettings(rules, None, False, 30.0, rounds, "sites", name, place, key, 3)
        threads.append(threading.Thread(target=site, args=(settings, ends), daemon=True))
    for thread in threads:
        thread.start()
    outages = []
    for index in range(kills):
        wait(lambda: committed() >= (index + 1) * rounds // (kills + 1))  # noqa: B023 - called at once
        hub.kill()
        hub.wait()
        before, starts = committed(), log.read_text().count("listening")
        hub = begin()
        started_s = wait(lambda: log.read_text().count("listening") > starts)  # noqa: B023 - called at once
        waited_s = wait(lambda: committed() > before)  # noqa: B023 - called at once
        outages.append({"process_start_s": started_s, "commit_after_s": started_s + waited_s})
    for thread in threads:
        thread.join(120)
    hub.wait(60)
    return ends, outages


def faults(full: bool) -> dict[str, Any]:
    """Is the last digest that of a calm run, and how long does nothing happen after each kill?"""
    kills = 100 if full else 5
    results = []
    for number, port in ((0, 17433), (kills, 17434)):
        with tempfile.TemporaryDirectory() as folder:
            results.append(run(Path(folder), 8 * (kills + 1), number, port))
    (calm, _), (killed, outages) = results
    return {
        "sites": len(SITES),
        "kills": kills,
        "same_final_digest_as_calm": len({*calm.values(), *killed.values()}) == 1 and len(calm) == len(killed) == 3,
        "outages": outages,
        "longest_s": max(each["commit_after_s"] for each in outages),
        "longest_without_process_start_s": max(e["commit_after_s"] - e["process_start_s"] for e in outages),
    }


if __name__ == "__main__":
    print(json.dumps(faults(full=False)))
