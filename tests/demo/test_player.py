"""Recordings played as live streams: what arrives, what gets lost, and what the weaver makes of it."""

from __future__ import annotations

import gzip
import itertools
import struct
from pathlib import Path

import numpy as np
import pytest

from clisonix import SignalFabric
from clisonix.demo import material
from clisonix.demo.material import GENERATED, bring, made_up, stock
from clisonix.demo.player import Player
from clisonix.demo.session import Session
from clisonix.errors import ClisonixError
from clisonix.fabric import Recording, Stream


def short(seconds: float = 6.0) -> Recording:
    chance = np.random.default_rng(1)
    pulse = chance.normal(size=(1, round(64 * seconds))).astype(np.float32)
    pulse[:, 100:150] = np.nan
    return Recording(
        "short",
        {
            "eeg": Stream(chance.normal(size=(3, round(256 * seconds))).astype(np.float32), 256.0, 5.0),
            "pulse": Stream(pulse, 64.0, 5.5),
        },
    )


def play(session: Session, until_s: float, start_s: float = 0.0) -> list[dict[str, object]]:
    windows = []
    for tick in range(round(start_s * 20), round(until_s * 20)):
        windows += session.step((tick + 1) / 20)["windows"]
    return windows


@pytest.mark.parametrize("steps", [(0.01,), (0.1, 0.37), (3.0,)])
def test_a_player_gives_every_sample_once_whatever_the_steps(steps: tuple[float, ...]) -> None:
    recording, now_s, got = short(), 0.0, []
    player = Player(recording)
    for step in itertools.cycle(steps):
        now_s += step
        got += player.advance(now_s)
        if now_s > 6.4:
            break
    eeg = np.concatenate([p.chunk.samples for p in got if p.chunk.stream == "eeg" and p.taken_s < 6.0], axis=1)
    np.testing.assert_array_equal(eeg, recording.streams["eeg"].samples)
    pulse = recording.streams["pulse"].samples
    sent = np.concatenate([p.chunk.samples for p in got if p.chunk.stream == "pulse" and p.taken_s < 6.6], axis=1)
    np.testing.assert_array_equal(sent, pulse[:, np.isfinite(pulse[0])][:, : sent.shape[1]])


def test_without_faults_windows_are_those_of_the_fabric() -> None:
    recording = short()
    session = Session(recording, window_s=2.0)
    live: list[object] = []
    cut = session.weaver.windows
    session.weaver.windows = lambda: (live.append(w) or w for w in cut())  # type: ignore[method-assign,func-returns-value]
    told = play(session, 6.0)
    still = list(SignalFabric([recording], window=2.0, hop=1.0))
    assert len(live) == 4  # the last needs what comes after it
    for ours, theirs, said in zip(live, still, told, strict=False):
        assert float(ours["t0_s"]) == pytest.approx(float(theirs["t0_s"]) - 5.0)  # type: ignore[index]
        for name in recording.streams:
            assert ours["masks"][name].equal(theirs["masks"][name].expand_as(ours["masks"][name]))  # type: ignore[index]
            assert ours["streams"][name].equal(theirs["streams"][name])  # type: ignore[index]
            assert said["streams"][name]["measured"] == pytest.approx(float(theirs["masks"][name].float().mean()))  # type: ignore[index]


def test_a_pulled_cable_is_masked_and_comes_back() -> None:
    session = Session(made_up(), window_s=1.0)
    play(session, 5.0)
    session.change({"stream": "eeg", "pulled": True})
    windows = play(session, 12.0, 5.0)
    assert windows[-1]["streams"]["eeg"]["measured"] == 0.0  # type: ignore[index]
    assert windows[-1]["streams"]["wrist"]["measured"] == 1.0  # type: ignore[index]
    assert session.step(12.0)["state"]["eeg"]["silent"]
    session.change({"stream": "eeg", "pulled": False})
    assert play(session, 20.0, 12.0)[-1]["streams"]["eeg"]["measured"] > 0.99  # type: ignore[index]


def test_lost_packets_are_masked_and_counted() -> None:
    session = Session(made_up(), window_s=1.0)
    session.change({"stream": "eeg", "loss": 0.5})
    windows = play(session, 15.0)
    share = np.mean([w["streams"]["eeg"]["measured"] for w in windows])  # type: ignore[index]
    assert 0.3 < share < 0.7
    state = session.step(15.0)["state"]["eeg"]
    assert state["received"] + state["lost"] == pytest.approx(15 * 256, abs=30)


def test_a_drifting_clock_is_found_and_followed() -> None:
    session = Session(made_up(), window_s=1.0)
    session.change({"stream": "eeg", "drift_ppm": 5000})
    play(session, 40.0)
    state = session.step(40.0)["state"]["eeg"]
    assert state["off_s"] == pytest.approx(0.2, abs=0.001)
    assert state["found_ppm"] == pytest.approx(5000, abs=4 * state["found_sd_ppm"] + 100)
    session.change({"follow": True})
    assert abs(session.step(40.3)["state"]["eeg"]["off_s"]) < 0.08  # the delay of the way itself is not seen


def test_a_machine_that_slept_does_not_play_the_night_in_one_go() -> None:
    session = Session(made_up())
    play(session, 3.0)
    assert session.step(3.0 + 8 * 3600)["now_s"] <= 5.0


def test_memory_stays_flat_over_rounds() -> None:
    session = Session(short(), window_s=1.0)
    held = []
    for minute in range(3):
        play(session, 60.0 * (minute + 1), 60.0 * minute)
        held.append(session.weaver.nbytes)
    assert max(held) < 200_000


@pytest.mark.parametrize(
    "what",
    [
        {},
        {"follow": 1},
        {"stream": "nose", "pulled": True},
        {"stream": "eeg", "pulled": 1},
        {"stream": "eeg", "drift_ppm": 1e9},
        {"stream": "eeg", "drift_ppm": float("nan")},
        {"stream": "eeg", "loss": True},
        {"stream": "eeg", "ahead_s": 3.0},
        {"stream": ["eeg"], "pulled": True},
    ],
)
def test_what_cannot_be_changed_is_refused(what: dict[str, object]) -> None:
    with pytest.raises(ClisonixError):
        Session(made_up()).change(what)


def test_without_recordings_there_are_generated_ones_only(tmp_path: Path) -> None:
    for root in (None, tmp_path):
        assert [piece.key for piece in stock(root).pieces] == [GENERATED]
    assert made_up().streams["pulse"].masked > 0


def test_hostile_files_are_passed_over_or_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.xdf").write_bytes(b"XDF:" + b"\xff" * 200)
    (tmp_path / "b.wav").write_bytes(b"RIFF" + struct.pack("<I", 2**31) + b"WAVEfmt " + b"\xff" * 40)
    (tmp_path / "c.csv").write_bytes(b"\x00" * 1000)
    (tmp_path / "d.npz").write_bytes(b"PK\x03\x04" + b"\x00" * 50)
    (tmp_path / "e.edf").write_bytes(b"0       " + b"9" * 248)
    (tmp_path / "<img src=x>.csv").write_text("time,x\n" + "".join(f"{k / 50},{k % 7}\n" for k in range(500)))
    (tmp_path / "away.csv").symlink_to("/etc/passwd")
    with gzip.open(tmp_path / "huge.csv.gz", "wt") as file:
        file.write("time,x\n" + "".join(f"{k / 1000},1\n" for k in range(200_000)))
    shelf = stock(tmp_path)
    assert "<img src=x>.csv" in [piece.key for piece in shelf.pieces]
    assert "away.csv" not in [piece.key for piece in shelf.pieces]
    monkeypatch.setattr(material, "MOST_BYTES", 1 << 20)
    for piece in shelf.pieces:
        try:
            recording, notes = bring(piece)
        except ClisonixError:
            continue
        assert sum(s.samples.nbytes for s in recording.streams.values()) < 4 << 20
        if piece.key == "huge.csv.gz":
            assert notes == ["only the first 1 MiB are played"]


@pytest.mark.data
def test_real_recordings_play(data_root: Path) -> None:
    shelf = stock(data_root)
    assert len(shelf.pieces) > 3
    recording, _ = bring(shelf.pieces[0])
    assert len({stream.rate_hz for stream in recording.streams.values()}) > 2
    assert play(Session(recording), 10.0)
