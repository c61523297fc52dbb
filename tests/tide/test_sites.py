"""A coordinator and sites over real sockets: whatever is killed, all end on the same bits."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from federation import Federation, SiteThread, tiny
from safetensors.numpy import load_file

from clisonix.errors import ClisonixError
from clisonix.tide import CoordinatorSettings, SiteEngine, SiteSettings
from clisonix.tide.net.frames import frame
from clisonix.tide.net.identity import make_key
from clisonix.tide.replica import Rules

NAMES = ["north", "south", "west"]


def run(federation: Federation, disturb: Any = None) -> list[SiteThread]:
    """All sites to the end; in the middle they wait until `disturb` has been called."""
    federation.begin()
    gate = threading.Event()
    sites = [SiteThread(federation.settings(name), gate=gate if disturb else None) for name in federation.sites]
    for site in sites:
        site.start()
    try:
        if disturb:
            federation.wait_for(4)
            disturb(federation)
    finally:
        gate.set()
    try:
        for site in sites:
            site.join(90)
            assert site.error is None, federation.said()
            assert not site.is_alive(), federation.said()
        assert federation.end() == 0, federation.said()
    finally:
        federation.kill()
    return sites


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Federation, list[SiteThread]]:
    federation = Federation(tmp_path_factory.mktemp("calm"), NAMES, 12)
    return federation, run(federation)


def test_all_sites_hold_the_same_bits_in_every_round(calm: tuple[Federation, list[SiteThread]]) -> None:
    federation, sites = calm
    digests = [each["digest"] for each in federation.report()]
    assert len(set(digests)) == 12
    for site in sites:
        assert [each.digest for each in site.reports] == digests
        assert site.digest == digests[-1]
        assert site.windows == list(range(24))
        assert all(each.bytes_sent > 100 and each.bytes_received > 100 for each in site.reports)
    result = load_file(federation.folder / "result.safetensors")
    assert result["0.weight"].shape == (8, 6)


def test_a_killed_coordinator_resumes_from_its_log_to_the_digest_of_a_calm_run(
    tmp_path: Path, calm: tuple[Federation, list[SiteThread]]
) -> None:
    federation = Federation(tmp_path, NAMES, 12)

    def kill(federation: Federation) -> None:
        federation.kill()
        federation.begin()

    sites = run(federation, kill)
    assert {site.digest for site in sites} == {calm[1][0].digest}
    assert {each["term"] for each in federation.report()} == {1, 2}


def strangers(federation: Federation) -> None:
    """Everything a stranger on the network could try."""
    for first in (b"GET / HTTP/1.1\r\n\r\n", (2**32 - 1).to_bytes(4, "little"), frame(b"TIDE-JOIN-1" + bytes(70))):
        with socket.create_connection(("127.0.0.1", federation.port), 5) as line:
            line.sendall(first)
            line.settimeout(5)
            line.recv(2000)
            line.sendall(frame(bytes(32)))
            assert line.recv(2000) == b""
    with pytest.raises(OSError, match=r"refused|unreachable|timed out"):
        socket.create_connection(("127.0.0.2", federation.port), 1)
    settings = federation.settings("north")
    with pytest.raises(ClisonixError, match="another model or other rules"):
        SiteEngine(tiny(), replace(settings, rules=Rules(outer_lr=0.1)))
    stranger = make_key(federation.folder / "elsewhere", "north")
    with pytest.raises(ClisonixError, match="does not hold the key"):
        SiteEngine(tiny(), replace(settings, key=stranger, give_up_s=1))
    first = federation.process
    federation.begin()
    assert federation.end() == 2
    assert "another coordinator is running" in federation.said()
    federation.process = first


def test_strangers_are_refused_and_the_run_is_unharmed(
    tmp_path: Path, calm: tuple[Federation, list[SiteThread]]
) -> None:
    federation = Federation(tmp_path, NAMES, 12)
    sites = run(federation, strangers)
    assert {site.digest for site in sites} == {calm[1][0].digest}
    refused = federation.report()[-1]["refused"]
    assert refused == {"oversized": 2, "unauthenticated": 1, "mismatched": 1}
    assert federation.said().count("refused:") == 4


def test_a_killed_site_costs_no_round_and_comes_back_to_the_same_bits(tmp_path: Path) -> None:
    federation = Federation(tmp_path, NAMES, 40, heartbeat_s=1.0)
    federation.begin()
    sites = [SiteThread(federation.settings(name), 0.15) for name in NAMES[:2]]
    command = [sys.executable, str(Path(__file__).parent / "federation.py"), str(tmp_path / "west.yaml"), "0.15"]

    def west() -> subprocess.Popen[str]:
        return subprocess.Popen(command, env=federation.environment, stdout=subprocess.PIPE, text=True)

    process = west()
    for site in sites:
        site.start()
    federation.wait_for(3)
    process.kill()
    process.communicate()
    # Of the next two rounds one may still use what it had sent: it comes back when the others went on without it.
    federation.wait_for(len(federation.report()) + 2)
    again = west()
    for site in sites:
        site.join(90)
        assert site.error is None, federation.said()
    said = json.loads(again.communicate(timeout=60)[0])
    assert federation.end() == 0
    report = federation.report()
    assert [each["round"] for each in report] == list(range(1, 41))
    # Heartbeat, and room for the training and a busy machine.
    assert max(each["seconds"] for each in report[1:]) < 1.0 + 3.0
    without = [each for each in report if "west" not in each["used"]]
    assert 1 <= len(without) < 30
    assert said["digest"] == sites[0].digest == sites[1].digest
    # It goes on with the window after the last one that counted.
    before = sum(each["used"].get("west", 0) for each in report if each["round"] < without[0]["round"])
    assert said["first_window"] == before
    assert all(site.windows == list(range(80)) for site in sites)


def documented(marker: str) -> str:
    text = (Path(__file__).parents[2] / "docs" / "tide.md").read_text()
    found = re.search(rf"<!-- {marker} -->\n```\w+\n(.*?)```", text, re.DOTALL)
    assert found
    return found.group(1)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates and is not installed")
def test_two_hospitals_by_the_documented_commands(tmp_path: Path) -> None:
    commands = documented("keys").replace("python ", f"{sys.executable} ", 1)
    made = subprocess.run(["sh", "-ec", commands], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr

    def swap(federation: Federation) -> None:
        """A certificate made out to another site does not let this one in, though it holds its key."""
        settings = federation.settings("north")
        assert settings.tls is not None
        south = replace(settings.tls, certificate=tmp_path / "tls/south.pem", key=tmp_path / "tls/south-tls.key")
        with pytest.raises(ClisonixError, match="heard nothing new"):
            SiteEngine(tiny(), replace(settings, tls=south, give_up_s=1))
        with pytest.raises(ClisonixError, match="heard nothing new"):
            SiteEngine(tiny(), replace(settings, tls=None, give_up_s=1))

    federation = Federation(tmp_path, ["north", "south"], 6, tls=True)
    sites = run(federation, swap)
    assert sites[0].digest == sites[1].digest
    assert "is not made out to that name" in federation.said()
    # The documented settings are accepted as they stand.
    for marker in ("coordinator", "site"):
        (tmp_path / "documented.yaml").write_text(documented(marker))
        kind = {"coordinator": CoordinatorSettings, "site": SiteSettings}[marker]
        assert kind.read(tmp_path / "documented.yaml").tls is not None
