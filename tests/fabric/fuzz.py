"""Damage files at random and read them: nothing but a `ClisonixError` may come out, soon and in little memory."""

from __future__ import annotations

import time
import tracemalloc
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from sample_files import WRITERS

from clisonix.errors import ClisonixError
from clisonix.fabric.source import to_json
from clisonix.fabric.sources import open_source


@dataclass
class Outcome:
    """What came of many damaged files of one format."""

    counts: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    most_bytes: int = 0
    failures: list[str] = field(default_factory=list)


def damaged(content: bytes, generator: np.random.Generator) -> bytes:
    """Cut short, with flipped bits, with bytes overwritten, or with a piece left out or doubled."""
    kind = generator.integers(5)
    at = int(generator.integers(len(content)))
    if kind == 0:
        return content[:at]
    changed = bytearray(content)
    if kind == 1:
        for i in generator.integers(0, len(content), int(generator.integers(1, 9))):
            changed[i] ^= 1 << int(generator.integers(8))
    elif kind == 2:
        # Headers are where lies do most.
        i = int(generator.integers(min(len(content), 1500)))
        changed[i : i + 4] = generator.choice([b"\xff\xff\xff\xff", b"9999", b"\0\0\0\0", b"-1  ", b"nan "])
    elif kind == 3:
        del changed[at : at + int(generator.integers(1, 64))]
    else:
        changed[at:at] = changed[at : at + int(generator.integers(1, 64))]
    return bytes(changed)


def read_all(path: Path) -> None:
    """Everything a user can ask of a source."""
    source = open_source(path, rate_hz=100.0, units=["uV", "uS", "g", "degC"])
    to_json(source.inspect())
    for chunk in source.chunks(seconds=1.0):
        assert chunk.samples.shape[1] == len(chunk.times_s) > 0
        assert chunk.samples.dtype == np.float32
        assert chunk.times_s.dtype == np.float64
    source.events()
    source.inspect()


def fuzz(name: str, count: int, folder: Path, seed: int = 0, trace: bool = True) -> Outcome:
    """Damage and read `count` files of one format of `sample_files.WRITERS`."""
    generator = np.random.default_rng([seed, *name.encode()])
    folder.mkdir(parents=True, exist_ok=True)
    path = WRITERS[name](folder / name)
    whole = {other: other.read_bytes() for other in folder.iterdir()}
    outcome = Outcome()
    for case in range(count):
        target = list(whole)[int(generator.integers(len(whole)))]
        target.write_bytes(damaged(whole[target], generator))
        if trace:
            tracemalloc.start()
        begin = time.perf_counter()
        try:
            read_all(path)
            outcome.counts["read"] += 1
        except ClisonixError as error:
            outcome.counts[type(error).__name__] += 1
        except Exception as error:
            outcome.counts[type(error).__name__] += 1
            outcome.failures.append(f"case {case} of {name}: {error!r}")
        outcome.slowest_s = max(outcome.slowest_s, time.perf_counter() - begin)
        if trace:
            outcome.most_bytes = max(outcome.most_bytes, tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        target.write_bytes(whole[target])
    return outcome
