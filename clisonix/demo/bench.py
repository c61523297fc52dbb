"""Compressing while the page stays awake: one worker thread, and everything it found kept for the next question."""

from __future__ import annotations

import base64
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import clisonix
from clisonix.compress import Plan, inference_costs
from clisonix.demo.pitch import VOICED, Tracker, hertz, pitch_cents, trackers
from clisonix.demo.speech import Clip, Speech, find_speech, heard
from clisonix.errors import ClisonixError
from clisonix.fabric.stream import FloatArray

OBJECTIVES = {
    "bytes": (0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.45, 0.6, 0.8),
    "seconds": (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0),
    "joules": (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0),
}
"""The shares of the dense model's cost at which the slider stops."""
FIRST = {"bytes": 0.3, "seconds": 0.85, "joules": 0.85}
CLOSE_CENTS = 50.0
RAISED = 4
"""Bins that one row of a picture stands for."""
MOST_HEARD = 4
"""Recordings of the microphone that are kept; the oldest goes."""


class Task(NamedTuple):
    """A point of a frontier."""

    tracker: str
    objective: str
    share: float


class Bench:
    """Plans, compressed models and what they do, made one at a time.

    Args:
        root: the data folder; None if there is none.
    """

    def __init__(self, root: Path | None) -> None:
        self._root = root
        self._tasks: deque[Task] = deque()
        self._points: dict[Task, dict[str, Any]] = {}
        self._plans: dict[Task, dict[str, Any]] = {}
        self._current: Task | None = None
        self._doing: tuple[Task, str, int, int, float] | None = None
        self._models: dict[str, nn.Module] = {}
        self._dense: dict[tuple[str, str], Tensor] = {}
        self._heard: deque[Clip] = deque(maxlen=MOST_HEARD)
        self._recordings = 0
        self._speech: Speech | None = None
        self._trackers: dict[str, Tracker] | None = None
        self._wake = threading.Condition()
        self._making = threading.Lock()
        self._worker: threading.Thread | None = None

    @property
    def trackers(self) -> dict[str, Tracker]:
        """The models that can be chosen, by key."""
        with self._making:
            if self._trackers is None:
                self._trackers = {tracker.key: tracker for tracker in trackers()}
            return self._trackers

    @property
    def speech(self) -> Speech:
        """What they hear."""
        with self._making:
            if self._speech is None:
                self._speech = find_speech(self._root)
            return self._speech

    def clips(self) -> list[Clip]:
        """What can be listened to: the speech that was found, and what a microphone heard."""
        speech = self.speech.clips
        with self._wake:
            return [*speech, *self._heard]

    def hear(self, sound: FloatArray) -> str:
        """Keep `(count,)` samples of a microphone at 16 kHz, in memory only, as a clip; its name.

        Raises:
            ClisonixError: too short, or silent.
        """
        with self._wake:
            self._recordings += 1
            name = f"microphone, recording {self._recordings}"
        clip = heard(name, sound)
        with self._wake:
            self._heard.append(clip)
        return name

    def want(self, task: Task) -> None:
        """Have a point made next, and the others of its frontier after it.

        Raises:
            ClisonixError: there is no such model, objective or share.
        """
        shares = OBJECTIVES.get(task.objective)
        if task.tracker not in self.trackers or shares is None or task.share not in shares:
            raise ClisonixError("there is no such model, objective or budget: choose one of those on the page")
        rest = sorted(shares, key=lambda share: abs(share - task.share))
        with self._wake:
            # Whoever chose something else does not wait for what was chosen before.
            # What is being made is not made again: a point that was shown would get other times.
            wanted = (task._replace(share=share) for share in rest)
            self._tasks = deque(t for t in wanted if t not in self._points and t != self._current)
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name="clisonix-demo", daemon=True)
                self._worker.start()
            self._wake.notify()

    def state(self, tracker: str, objective: str) -> dict[str, Any]:
        """How far it is: the frontier so far, and what is being done."""
        with self._wake:
            points = {t.share: p for t, p in self._points.items() if (t.tracker, t.objective) == (tracker, objective)}
            doing = self._doing
            left = len(self._tasks)
        told = None
        if doing is not None:
            task, what, done, total, since = doing
            told = {
                "tracker": task.tracker,
                "objective": task.objective,
                "share": task.share,
                "what": what,
                "done": done,
                "total": total,
                "seconds": time.monotonic() - since,
            }
        found = [{"share": share, **points[share]["summary"]} for share in sorted(points)]
        return {"points": found, "doing": told, "left": left}

    def point(self, task: Task, clip: str) -> tuple[bool, dict[str, Any]]:
        """Whether a point is made, and what there is of it with this clip: at first the dense model and the plan."""
        with self._wake:
            found = self._points.get(task)
            early = {"plan": self._plans.get(task)}
            output = self._dense.get((task.tracker, clip))
            model = self._models.get(task.tracker)
            spoken = next((c for c in self._heard if c.name == clip), None)
        if spoken is not None and model is not None:
            # Quick, so that nothing is kept which would have to go with the recording.
            with torch.no_grad():
                output = model(spoken.frames)
        if found is not None:
            shown = {key: value for key, value in found.items() if key not in ("clips", "model")}
            if "clips" not in found:
                return True, shown
            if spoken is None or output is None:
                return True, {**shown, "clip": found["clips"].get(clip)}
            return True, {**shown, "clip": tried(output, found["model"], spoken)}
        if output is None:
            return False, early
        outline = (spoken or next(c for c in self.speech.clips if c.name == clip)).outline
        return False, {**early, "clip": {"outline": outline, "dense": drawn(output)}}

    def _work(self) -> None:
        while True:
            with self._wake:
                while not self._tasks:
                    self._wake.wait()
                task = self._current = self._tasks.popleft()
            try:
                found = self._make(task)
            except ClisonixError as error:
                found = {"summary": {"problem": str(error)}}
            except (RuntimeError, MemoryError) as error:  # torch's own: the page must not wait for ever
                found = {"summary": {"problem": f"this did not work ({type(error).__name__}: {error})"}}
            with self._wake:
                self._points[task], self._doing, self._current = found, None, None

    def _make(self, task: Task) -> dict[str, Any]:
        since = time.monotonic()

        def say(what: str, done: int, total: int) -> None:
            with self._wake:
                self._doing = (task, what, done, total, since)

        say("prepare", 0, 1)
        speech = self.speech
        model = self._models.get(task.tracker)
        if model is None:
            model = self._models[task.tracker] = self.trackers[task.tracker].make(say)
            with torch.no_grad():
                outputs = {(task.tracker, clip.name): model(clip.frames) for clip in speech.clips}
            with self._wake:
                self._dense.update(outputs)
        plan = clisonix.plan(
            model, budget=task.share, objective=task.objective, calibration=speech.calibration, progress=say
        )
        with self._wake:
            self._plans[task] = told_plan(plan)
        say("compress", 0, 1)
        small = clisonix.compress(model, plan, calibration=speech.calibration, progress=say)
        say("try", 0, 1)
        clips = {clip.name: tried(self._dense[task.tracker, clip.name], small, clip) for clip in speech.clips}
        say("time", 0, 1)
        with clisonix.Meter() as meter:
            dense, packed = inference_costs(
                [model, small], speech.clips[0].frames, meter=meter, rounds=3, seconds=0.1
            )
        voiced = sum(t["voiced"] for t in clips.values())
        close = sum(t["close"] for t in clips.values())
        summary = {
            "bytes": plan.file_bytes,
            "dense_bytes": plan.dense_file_bytes,
            "cost": plan.cost_after,
            "dense_cost": plan.cost_before,
            "unit": plan.unit,
            "voiced": voiced,
            "close": close / voiced if voiced else None,
            "seconds": packed.seconds,
            "dense_seconds": dense.seconds,
            "joules": packed.joules,
            "dense_joules": dense.joules,
            "how": packed.how,
            "took_s": time.monotonic() - since,
        }
        return {"summary": summary, "plan": told_plan(plan), "clips": clips, "model": small}


@torch.no_grad()
def tried(before: Tensor, small: nn.Module, clip: Clip) -> dict[str, Any]:
    """What `small` makes of a clip, beside the dense model's `before`, `(frames, 360)`."""
    after = small(clip.frames)
    voiced = before.amax(1) > VOICED
    off = (pitch_cents(after) - pitch_cents(before)).abs()
    return {
        "outline": clip.outline,
        "dense": drawn(before),
        "compressed": drawn(after),
        "voiced": int(voiced.sum()),
        "close": int((off[voiced] <= CLOSE_CENTS).sum()),
        "error": float((after - before).square().sum() / before.square().sum()),
    }


def told_plan(plan: Plan) -> dict[str, Any]:
    """The plan, weight by weight, as the page shows it."""
    layers = [
        {
            "name": layer.name,
            "kind": layer.kind,
            "shape": list(layer.shape),
            "form": str(layer.form),
            "before": layer.bytes_before,
            "after": layer.bytes_after,
            "error": layer.error,
            "reason": layer.reason,
        }
        for layer in plan.layers
    ]
    return {"layers": layers, "budget": plan.budget, "unit": plan.unit, "notes": list(plan.notes)}


def drawn(salience: Tensor) -> dict[str, Any]:
    """A picture of `(frames, 360)`, a byte a cell, and the pitch in Hz where the model is sure of one."""
    frames, bins = salience.shape
    rows = salience.reshape(frames, bins // RAISED, RAISED).amax(2).clamp(0, 1)
    pixels = (rows.T * 255).round().to(torch.uint8).contiguous()
    pitch = hertz(pitch_cents(salience)).tolist()
    sure = (salience.amax(1) > VOICED).tolist()
    return {
        "rows": bins // RAISED,
        "frames": frames,
        "pixels": base64.b64encode(pixels.numpy().tobytes()).decode(),
        "pitch_hz": [round(hz, 2) if ok else None for hz, ok in zip(pitch, sure, strict=True)],
    }
