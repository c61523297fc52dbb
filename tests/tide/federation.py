"""A coordinator as a real process on loopback, and sites as threads or processes that train a tiny model."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from clisonix.tide import SiteEngine, SiteSettings, write_start
from clisonix.tide.net.identity import make_key

HERE = Path(__file__).parent


def tiny() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Federation:
    """Configs and keys in a folder, and the coordinator's process."""

    def __init__(self, folder: Path, sites: list[str], rounds: int, tls: bool = False, **more: Any) -> None:
        self.folder, self.sites, self.port = folder, sites, free_port()
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        common = {
            "rounds": rounds,
            "heartbeat_s": 20.0,
            "rules": {"min_sites": len(sites), "timeout_s": 60, "resend_s": 1, "up": "short", "down": "short"},
            **more,
        }
        for site in sites:
            if not (folder / "keys" / f"{site}.key").exists():
                make_key(folder / "keys", site)
        write_start(tiny(), folder / "start.safetensors")
        hub = {"listen": f"127.0.0.1:{self.port}", "keys": "keys", "log": "tide.log", "start": "start.safetensors"}
        hub |= {"report": "rounds.jsonl", "result": "result.safetensors", "linger_s": 20.0}
        self._write("coordinator", {**common, **hub, **self._tls("coordinator", tls)})
        for site in sites:
            mine = {"site": site, "coordinator": f"127.0.0.1:{self.port}", "key": f"keys/{site}.key"}
            mine |= {"inner_steps": 2, "give_up_s": 60.0}
            self._write(site, {**common, **mine, **self._tls(site, tls)})
        self.process: subprocess.Popen[str] | None = None

    def _tls(self, name: str, tls: bool) -> dict[str, Any]:
        files = {"ca": "tls/ca.pem", "certificate": f"tls/{name}.pem", "key": f"tls/{name}-tls.key"}
        return {"tls": {**files, "server_name": "coordinator"}} if tls else {}

    def _write(self, name: str, content: dict[str, Any]) -> None:
        (self.folder / f"{name}.yaml").write_text(yaml.safe_dump(content))

    def begin(self) -> None:
        """Start the coordinator, or start it again."""
        command = [sys.executable, "-m", "clisonix.tide", "coordinate", str(self.folder / "coordinator.yaml")]
        with (self.folder / "coordinator.out").open("a") as out:
            self.process = subprocess.Popen(command, env=self.environment, stdout=out, stderr=out, text=True)

    def kill(self) -> None:
        """Without warning."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def end(self) -> int:
        """Its exit status, once it has ended by itself."""
        assert self.process is not None
        return self.process.wait(timeout=60)

    def said(self) -> str:
        """What it has logged."""
        return (self.folder / "coordinator.out").read_text()

    def report(self) -> list[dict[str, Any]]:
        """A line for each round so far."""
        path = self.folder / "rounds.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def wait_for(self, rounds: int, timeout_s: float = 60.0) -> None:
        """Until so many are committed."""
        end_s = time.monotonic() + timeout_s
        while len(self.report()) < rounds:
            assert time.monotonic() < end_s, self.said()
            time.sleep(0.02)

    def settings(self, site: str) -> SiteSettings:
        """Of a site."""
        return SiteSettings.read(self.folder / f"{site}.yaml")


class SiteThread(threading.Thread):
    """A site that trains; what it does follows from its name, the window and where it starts."""

    def __init__(self, settings: SiteSettings, pause_s: float = 0.0, gate: threading.Event | None = None) -> None:
        super().__init__(daemon=True)
        self.settings, self._pause_s, self._gate = settings, pause_s, gate
        self.windows: list[int] = []
        self.reports: list[Any] = []
        self.digest = ""
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self._train()
        except Exception as error:
            self.error = error

    def _train(self) -> None:
        model = tiny()
        with SiteEngine(model, self.settings) as tide:
            for window in tide.follow(lambda first: range(first, 10**9)):
                draw = torch.Generator().manual_seed(1000 * sum(self.settings.site.encode()) + window)
                loss = model(torch.randn(8, 6, generator=draw)).square().mean()
                model.zero_grad()
                loss.backward()
                with torch.no_grad():
                    for parameter in model.parameters():
                        parameter -= 0.05 * parameter.grad
                time.sleep(self._pause_s)
                if self._gate and window == 8:
                    self._gate.wait()
                self.windows.append(window)
                report = tide.step()
                if report:
                    self.reports.append(report)
            self.digest = tide.digest()


def main() -> None:
    """A site as a process of its own: `python federation.py CONFIG PAUSE_S`."""
    torch.set_num_threads(1)
    site = SiteThread(SiteSettings.read(Path(sys.argv[1])), float(sys.argv[2]))
    site.run()
    if site.error:
        raise site.error
    print(json.dumps({"digest": site.digest, "first_window": site.windows[0]}))


if __name__ == "__main__":
    main()
