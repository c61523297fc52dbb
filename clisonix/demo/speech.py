"""Speech to try pitch trackers on: spoken digits or other sound files of the data folder, or tones made here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clisonix.demo.material import UNREADABLE
from clisonix.demo.pitch import RATE_HZ, frames_of
from clisonix.errors import ClisonixError
from clisonix.fabric.load import load
from clisonix.fabric.sources import open_source
from clisonix.fabric.stream import FloatArray

MOST_S = 3.0
BATCH, BATCHES = 64, 3
MOST_FILE_BYTES = 64 << 20
LEAST_S = 0.2


@dataclass(frozen=True)
class Clip:
    """A stretch of sound.

    Attributes:
        name: what is heard.
        frames: `(count, 1024)`, one every 10 ms.
        outline: the least and largest sample of each frame's 10 ms, for drawing.
    """

    name: str
    frames: Tensor
    outline: list[tuple[float, float]]


@dataclass(frozen=True)
class Speech:
    """What a model is calibrated on, and what it is tried on: never the same stretch.

    Attributes:
        clips: to try it on.
        calibration: batches of frames.
        about: where both come from.
        generated: whether a formula made them.
    """

    clips: tuple[Clip, ...]
    calibration: tuple[Tensor, ...]
    about: str
    generated: bool


def find_speech(root: Path | None) -> Speech:
    """Spoken digits (`fsdd`) of the data folder, else its first sound file, else generated tones."""
    if root is not None:
        for find in (_digits, _sound_file):
            found = find(root)
            if found is not None:
                return found
    chance = np.random.default_rng(0)
    sounds = [_glide(chance) for _ in range(6)]
    clips = tuple(_clip(f"generated glide {k + 1}", sound, RATE_HZ) for k, sound in enumerate(sounds[:3]))
    about = "generated tones: no speech was found; give a folder with sound files, clisonix demo --data FOLDER"
    return Speech(clips, _batches([frames_of(sound, RATE_HZ) for sound in sounds[3:]]), about, True)


def _digits(root: Path) -> Speech | None:
    """Three digits of each speaker to try, the data set's own test recordings; others to calibrate."""
    files: dict[tuple[str, str, str], Path] = {}
    for path in sorted((root / "fsdd" / "recordings").glob("*_*_*.wav")):
        digit, speaker, take = path.stem.split("_", 2)
        files[speaker, digit, take] = path
    speakers = sorted({speaker for speaker, _, _ in files})[:4]
    clips = []
    for at, speaker in enumerate(speakers):
        digits = [str((3 * at + k) % 10) for k in range(3)]
        parts = [_read(files[speaker, digit, "0"]) for digit in digits if (speaker, digit, "0") in files]
        sounds = [part for part in parts if part is not None]
        if len(sounds) == 3:
            sound = np.concatenate([sound for sound, _ in sounds])
            clips.append(_clip(f"{speaker} says {', '.join(digits)}", sound, sounds[0][1]))
    heard = [_read(path) for (_, _, take), path in files.items() if take in ("10", "20")][:60]
    frames = [frames_of(*part) for part in heard if part is not None]
    if not clips or not frames:
        return None
    about = "spoken digits of the Free Spoken Digit Dataset; calibrated on other recordings than those shown"
    return Speech(tuple(clips), _batches(frames), about, False)


def _sound_file(root: Path) -> Speech | None:
    """The beginning of a sound file to try, what comes after it to calibrate."""
    for path in sorted(p for p in root.rglob("*") if p.suffix.lower() in (".wav", ".flac"))[:20]:
        part = _read(path)
        if part is None or len(part[0]) < 4 * MOST_S * part[1]:
            continue
        sound, rate_hz = part
        size = int(MOST_S * rate_hz)
        clips = tuple(
            _clip(f"{path.name}, {MOST_S * k:g} s on", sound[k * size : (k + 1) * size], rate_hz) for k in (0, 1)
        )
        rest = frames_of(sound[2 * size : 20 * size], rate_hz)
        return Speech(clips, _batches([rest]), f"{path.relative_to(root)}; calibrated on a later part of it", False)
    return None


def _read(path: Path) -> tuple[FloatArray, float] | None:
    try:
        if path.stat().st_size > MOST_FILE_BYTES:
            return None
        stream = next(iter(load(open_source(path)).streams.values()))
        sound = np.nan_to_num(np.asarray(stream.samples[0], np.float32))
    except (ClisonixError, StopIteration, *UNREADABLE):
        return None
    return (sound, stream.rate_hz) if len(sound) > 400 and stream.rate_hz >= 4000 else None


def heard(name: str, sound: FloatArray) -> Clip:
    """A clip of what a microphone heard.

    Args:
        name: of the clip.
        sound: `(count,)` at 16 kHz; what is beyond three seconds is left out.

    Raises:
        ClisonixError: it is too short, or silent.
    """
    if len(sound) < LEAST_S * RATE_HZ:
        raise ClisonixError(f"the recording lasts {len(sound) / RATE_HZ:.2g} s: speak for at least {LEAST_S:g} s")
    if not np.any(sound):
        raise ClisonixError("the recording is silent: look whether the microphone is switched on")
    return _clip(name, sound, RATE_HZ)


def _clip(name: str, sound: FloatArray, rate_hz: float) -> Clip:
    sound = sound[: int(MOST_S * rate_hz)]
    frames = frames_of(sound, rate_hz)
    peak = float(np.abs(sound).max()) or 1.0
    edges = np.linspace(0, len(sound) - 1, len(frames)).astype(int)
    low, high = np.minimum.reduceat(sound, edges) / peak, np.maximum.reduceat(sound, edges) / peak
    return Clip(name, frames, [(round(float(a), 3), round(float(b), 3)) for a, b in zip(low, high, strict=True)])


def _batches(frames: list[Tensor]) -> tuple[Tensor, ...]:
    """Some batches of frames, taken from everywhere."""
    every = torch.cat(frames)
    chosen = torch.randperm(len(every), generator=torch.Generator().manual_seed(0))[: BATCH * BATCHES]
    return tuple(torch.split(every[chosen], BATCH))


def _glide(chance: np.random.Generator) -> FloatArray:
    """A voice-like tone whose pitch wanders, with pauses."""
    t = np.arange(int(2.5 * RATE_HZ)) / RATE_HZ
    pitch_hz = chance.uniform(90, 220) * 2 ** (0.3 * np.sin(2 * np.pi * chance.uniform(0.4, 1.2) * t))
    phase = 2 * np.pi * np.cumsum(pitch_hz) / RATE_HZ
    tone = sum(np.sin(k * phase) / k for k in range(1, 12)) * (np.sin(2 * np.pi * 0.8 * t) > -0.5)
    return (0.2 * tone + 0.005 * chance.normal(size=len(t))).astype(np.float32)
