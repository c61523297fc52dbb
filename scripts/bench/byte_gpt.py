"""A small byte-level GPT, trained on the sources of Python's standard library: something to compress and judge.

Checkpoints are kept in a work folder, so that every study of one seed begins with the same weights.

    python scripts/bench/byte_gpt.py --work DIR --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

VOCABULARY = 256


@dataclass(frozen=True)
class Shape:
    """What the model is and how it is trained."""

    width: int = 192
    layers: int = 3
    heads: int = 6
    context: int = 128
    batch: int = 16
    steps: int = 3000
    rate: float = 2e-3


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, time_, width = x.shape
        q, k, v = self.qkv(x).view(batch, time_, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(mixed.transpose(1, 2).reshape(batch, time_, width))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.before_mlp = nn.LayerNorm(width)
        self.wide = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.before_attention(x))
        return x + self.narrow(F.gelu(self.wide(self.before_mlp(x))))


class ByteGpt(nn.Module):
    """Bytes `(batch, time)` to logits `(batch, time, 256)` of the next byte."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.symbols = nn.Embedding(VOCABULARY, shape.width)
        self.places = nn.Embedding(shape.context, shape.width)
        self.blocks = nn.ModuleList(Block(shape.width, shape.heads) for _ in range(shape.layers))
        self.last = nn.LayerNorm(shape.width)
        self.head = nn.Linear(shape.width, VOCABULARY, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                deep = name.endswith(("out.weight", "narrow.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * shape.layers) if deep else 0.02)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.symbols(x) + self.places.weight[: x.shape[1]]
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(self.last(hidden))


def corpus() -> tuple[Tensor, Tensor]:
    """Bytes to train on and bytes held out, uint8: whole files, told apart by the hash of their names."""
    root = Path(sysconfig.get_path("stdlib"))
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if not {"site-packages", "test", "tests", "__pycache__"}.intersection(name.split("/")):
            held_out = hashlib.sha256(name.encode()).digest()[0] < 26  # one file in ten
            parts[held_out].append(path.read_bytes())
    train, test = (torch.frombuffer(bytearray(b"\n".join(part)), dtype=torch.uint8) for part in parts)
    return train, test


def windows(data: Tensor, count: int, length: int, generator: torch.Generator) -> Tensor:
    """`(count, length)` int64, each from a random place."""
    starts = torch.randint(len(data) - length, (count, 1), generator=generator)
    return data[starts + torch.arange(length)].long()


def loss_of(logits: Tensor, window: Tensor) -> Tensor:
    """Nats a byte of `window (batch, time + 1)` for the logits of its first `time` bytes."""
    return F.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten())


@torch.no_grad()
def evaluate(model: nn.Module, test: Tensor, context: int, count: int = 512) -> float:
    """Nats a byte over `count` windows spread evenly over the held-out bytes: the same for every model."""
    starts = torch.linspace(0, len(test) - context - 2, count).long()[:, None]
    held_out = test[starts + torch.arange(context + 1)].long()
    total = 0.0
    for part in held_out.split(64):
        total += float(loss_of(model(part[:, :-1]), part)) * len(part)
    return total / count


def train(shape: Shape, seed: int, train_bytes: Tensor) -> Iterator[tuple[int, ByteGpt]]:
    """The model after every hundred steps."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = ByteGpt(shape)
    decay = [p for p in model.parameters() if p.ndim == 2]
    rest = [p for p in model.parameters() if p.ndim != 2]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}],
        lr=shape.rate,
        betas=(0.9, 0.95),
        fused=True,
    )
    for step in range(shape.steps):
        warm, left = min(1.0, (step + 1) / 100), 0.5 * (1 + math.cos(math.pi * step / shape.steps))
        for group in optimizer.param_groups:
            group["lr"] = shape.rate * warm * (0.05 + 0.95 * left)
        window = windows(train_bytes, shape.batch, shape.context + 1, generator)
        optimizer.zero_grad()
        loss_of(model(window[:, :-1]), window).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 100 == 0 or step + 1 == shape.steps:
            yield step + 1, model


def trained(shape: Shape, seed: int, work: Path) -> ByteGpt:
    """The finished model of one seed, in eval mode, from the work folder if it is there."""
    key = hashlib.sha256(json.dumps(asdict(shape), sort_keys=True).encode()).hexdigest()[:10]
    path = work / f"byte-gpt-{key}-{seed}.safetensors"
    model = ByteGpt(shape)
    if not path.exists():
        train_bytes, test_bytes = corpus()
        start = time.perf_counter()
        for step, model in train(shape, seed, train_bytes):
            if step % 500 == 0 or step == shape.steps:
                loss = evaluate(model, test_bytes, shape.context, 128)
                print(f"seed {seed} step {step}: {loss:.4f} nats, {time.perf_counter() - start:.0f} s", flush=True)
        work.mkdir(parents=True, exist_ok=True)
        save_file(model.state_dict(), path)
    model.load_state_dict(load_file(path))
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=Shape.steps)
    arguments = parser.parse_args()
    for seed in arguments.seeds:
        trained(Shape(steps=arguments.steps), seed, arguments.work)


if __name__ == "__main__":
    main()
