"""Is a compressed model faster than the dense one that was compiled?

    python scripts/bench/compressed_speed.py --json --out docs/results/compressed_speed.json

Three models with random weights (a trained one may get other forms, and so another speed): an encoder of the size of
MiniLM, a transformer over EEG, and a small network of convolutions. Each at a share of its bytes, batches of 1 and
32, on the CPU: dense as it is and with torch.compile, compressed as it is and with torch.compile, in turns in one
process. Ratios above 1 say that compressed is faster; each is the median over rounds of ratios within a round, with
its 95 % bootstrap interval. `faster` has the faster of both ways of each side.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from raw_record import keep, load_average
from timing import alternately, best_of, times_faster
from torch import Tensor, nn

from clisonix.compress import compress, form_of
from clisonix.compress.layers import held_matrices
from clisonix.models import StreamTransformer, TokenSpec


class Subject(NamedTuple):
    """A model, and what a batch of a size is for it."""

    what: str
    model: nn.Module
    batch: Callable[[int], Any]


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(SUBJECTS), default=list(SUBJECTS))
    parser.add_argument("--budget", type=float, default=0.25, help="share of the bytes")
    parser.add_argument("--forms", nargs="+", help="families of forms; all by default")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--length", type=int, default=16, help="tokens of a sentence")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--eager-only", action="store_true", help="leave torch.compile out")
    parser.add_argument("--json", action="store_true", help="indent nothing")
    parser.add_argument("--out", type=Path, help="JSON file with every figure")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    found = {}
    for name in arguments.models:
        load = load_average()
        torch.manual_seed(0)
        found[name] = _measured(SUBJECTS[name](arguments.length), arguments)
        if arguments.out:
            keep(arguments.out, {name: found[name]}, load, {})
    print(json.dumps(found, indent=None if arguments.json else 1))


def _minilm(length: int) -> Subject:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=30522, hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )

    def batch(size: int) -> dict[str, Tensor]:
        ids = torch.randint(1000, 20000, (size, length), generator=torch.Generator().manual_seed(size))
        return {"input_ids": ids, "attention_mask": torch.ones(size, length, dtype=torch.long)}

    return Subject(f"BERT of 6 layers and width 384, {length} tokens a sentence", BertModel(config), batch)


class _Windows(nn.Module):
    """The transformer for one stream, with the stream and its mask as arguments."""

    def __init__(self, spec: TokenSpec) -> None:
        super().__init__()
        self.model = StreamTransformer({"eeg": spec}, 4, width=192, depth=6, heads=4)

    def forward(self, stream: Tensor, mask: Tensor) -> Tensor:
        scores: Tensor = self.model({"streams": {"eeg": stream}, "masks": {"eeg": mask}})
        return scores


def _eeg(_length: int) -> Subject:
    spec = TokenSpec(channels=16, rate_hz=256.0, samples=512)

    def batch(size: int) -> tuple[Tensor, Tensor]:
        stream = torch.randn(size, 16, 512, generator=torch.Generator().manual_seed(size))
        return stream, torch.ones_like(stream, dtype=torch.bool)

    return Subject("StreamTransformer of 6 blocks and width 192, 2 s of 16 channels at 256 Hz", _Windows(spec), batch)


def _convolutions(_length: int) -> Subject:
    layers: list[nn.Module] = []
    for inside, outside in ((8, 64), (64, 128), (128, 256), (256, 256)):
        layers += [nn.Conv1d(inside, outside, 9, stride=2, padding=4), nn.BatchNorm1d(outside), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(256, 4))

    def batch(size: int) -> Tensor:
        return torch.randn(size, 8, 512, generator=torch.Generator().manual_seed(size))

    return Subject("4 Conv1d of 64 to 256 channels and kernels of 9, on 512 samples of 8 channels", model, batch)


SUBJECTS: dict[str, Callable[[int], Subject]] = {"minilm": _minilm, "eeg": _eeg, "convolutions": _convolutions}


def _measured(subject: Subject, arguments: argparse.Namespace) -> dict[str, Any]:
    dense = subject.model.eval()
    calibration = [subject.batch(32) for _ in range(2)]
    start = time.perf_counter()
    small = compress(dense, arguments.budget, calibration=calibration, forms=arguments.forms).eval()
    seconds = time.perf_counter() - start
    forms = Counter(form_of(m).kind for module in small.modules() for _, m in held_matrices(module))
    return {
        "what": subject.what,
        "weights": "random",
        "budget": arguments.budget,
        "forms": dict(forms),
        "threads": arguments.threads,
        "compress_s": seconds,
        "rows": [_compared(dense, small, size, subject.batch(size), arguments) for size in arguments.batches],
    }


def _compared(
    dense: nn.Module,
    small: nn.Module,
    size: int,
    batch: Any,  # noqa: ANN401
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    works: dict[str, Callable[[], object]] = {}
    torch._dynamo.reset()
    for name, model in (("dense", dense), ("compressed", small)):
        works[name] = _work(model, batch)
        if not arguments.eager_only:
            works[f"{name}, compiled"] = _work(torch.compile(model, dynamic=False), batch)
    with torch.inference_mode():
        for work in works.values():
            work()
            work()
        spent = alternately(works, arguments.rounds, at_least_s=0.1)
    sides = {
        side: best_of(spent, [name for name in spent if name.startswith(side)]) for side in ("dense", "compressed")
    }
    return {
        "batch": size,
        "median_s": {name: statistics.median(values) for name, values in spent.items()},
        "eager": times_faster(spent, "compressed", "dense"),
        "faster": {"ours": sides["compressed"], **times_faster(spent, sides["compressed"], sides["dense"])},
    }


def _work(model: Callable[..., object], batch: Any) -> Callable[[], object]:  # noqa: ANN401
    if isinstance(batch, dict):
        return lambda: model(**batch)
    if isinstance(batch, Sequence):
        return lambda: model(*batch)
    return lambda: model(batch)


if __name__ == "__main__":
    main()
