"""The algebra against what people use today, one row for each claim.

    python scripts/bench/liam.py                    every row, as a table
    python scripts/bench/liam.py --json binary svd  some rows, one JSON line each
    python scripts/bench/liam.py --out FILE binary  and kept in a file, whose other rows stay

Contenders take turns in one process (`timing.py`); the claim is the median ratio of a round. `must` and `aim` are the
figures that the project set itself beforehand.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from raw_record import keep, load_average
from timing import alternately, best_of, times_faster
from torch import Tensor
from torch.nn import functional as F

from clisonix.liam import Binary, Dense, Diagonal, Integer, LowRank, Matrix, Sparse, Ternary, tile_
from clisonix.meter import software

N = 8192
Row = dict[str, Any]


def packed(form: str) -> Matrix:
    """A packed `N × N` weight, laid out as a CPU serves it."""
    return tile_(by_row(form))


def by_row(form: str) -> Matrix:
    """A packed `N × N` weight as its constructor leaves it."""
    weight = torch.randn(N, N, generator=torch.Generator().manual_seed(0))
    if form == "binary":
        return Binary.nearest(weight)
    if form == "ternary":
        return Ternary.nearest(weight)
    if form == "chain":
        half = N // 2
        outer, inner = Binary.nearest(weight[:, :half].contiguous()), Binary.nearest(weight[:half].contiguous())
        ones = [Diagonal(torch.ones(size)) for size in (N, half, N)]
        return ones[0] @ outer @ ones[1] @ inner @ ones[2]
    return Integer.rounded(weight, int(form.removeprefix("integer")), group=64)


def product(form: str, batch: int, must: float, aim: float | None, rounds: int = 15) -> Row:
    """One packed product against torch's dense one, in float32 and in bfloat16 (weights and input), the faster."""
    matrix = packed(form)
    weight, x = matrix.dense().detach(), torch.randn(batch, N)
    contenders: dict[str, Callable[[], Tensor]] = {
        "clisonix": lambda: matrix(x),
        "torch float32": lambda: F.linear(x, weight),
    }
    if batch < 64:  # above, bfloat16 is several times slower than float32 on a CPU without it
        half_weight, half_x = weight.bfloat16(), x.bfloat16()
        contenders["torch bfloat16"] = lambda: F.linear(half_x, half_weight)
    with torch.no_grad():
        exact = F.linear(x.double(), weight.double())
        error = float((matrix(x) - exact).norm() / exact.norm())
        theirs_error = float((F.linear(x, weight) - exact).norm() / exact.norm())
        spent = alternately(contenders, rounds)
    found = times_faster(spent, "clisonix", best_of(spent, [name for name in contenders if name != "clisonix"]))
    return {
        **found, "must": must, "aim": aim,
        "relative_error": error, "relative_error_of_torch_float32": theirs_error,
    }  # fmt: skip


def overhead() -> Row:
    """What `LowRank(512×512, r=32) @ x` with 16 columns adds to the two products by hand, without gradients."""
    left, right, x = torch.randn(512, 32), torch.randn(32, 512), torch.randn(512, 16)
    matrix = LowRank(left, right)
    with torch.no_grad():
        spent = alternately({"by hand": lambda: left @ (right @ x), "clisonix": lambda: matrix @ x}, rounds=41)
    return {**times_faster(spent, "by hand", "clisonix"), "must_be_below": 1.3, "aim_below": 1.1}


def memory() -> Iterator[Row]:
    """Peak bytes of a product over the bytes of what it must hold: the weight as packed, input and output.

    The peak is resident memory, sampled every millisecond, so it counts what libraries allocate by themselves too.
    """
    # What is freed goes back to the system at once: memory that stays would hide what a product takes.
    libc = ctypes.CDLL(None)
    for option in (-3, -1):  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of glibc
        libc.mallopt(option, 65536)
    forms: dict[str, Callable[[], Matrix]] = {
        "binary": lambda: packed("binary"),
        "ternary": lambda: packed("ternary"),
        "integer4": lambda: packed("integer4"),
        "chain": lambda: packed("chain"),
        "lowrank": lambda: LowRank(torch.randn(N, 512), torch.randn(512, N)),
        "sparse": lambda: Sparse.largest(torch.randn(N, N), 0.01),
        "lowrank + sparse": lambda: (
            LowRank(torch.randn(N, 512), torch.randn(512, N)) + Sparse.largest(torch.randn(N, N), 0.01)
        ),
        "dense": lambda: Dense(torch.randn(N, N)),
    }
    for name, make in forms.items():
        matrix = make()
        for batch in (1, 256, 4096):
            gc.collect()
            x = torch.randn(batch, N)
            with torch.inference_mode():
                matrix(x[:1])  # tables and threads that stay
                with resident_peak() as peak:
                    out = matrix(x)
            needed = matrix.nbytes + x.nbytes + out.nbytes
            # What was resident before the product: the weight and the input.
            ratio = (matrix.nbytes + x.nbytes + peak.bytes) / needed
            yield {"form": name, "batch": batch, "ratio": ratio, "must_be_below": 1.25, "aim_below": 1.05}
            del out, x


class _Peak:
    bytes = 0


@contextmanager
def resident_peak() -> Iterator[_Peak]:
    """Resident bytes above those at entry, at most, sampled by a thread."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    start, peak, stop = resident(), _Peak(), threading.Event()

    def watch() -> None:
        while not stop.is_set():
            peak.bytes = max(peak.bytes, resident() - start)
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        peak.bytes = max(peak.bytes, resident() - start)
        stop.set()
        watcher.join()


def rows() -> dict[str, Callable[[], Iterator[Row]]]:
    """The rows by name; a name may give several."""
    import sparse
    import svd

    def batches() -> Iterator[Row]:
        for form in ("binary", "ternary", "integer4", "chain"):
            for batch in (2, 4, 8, 16, 32, 64, 128, 256):
                row = product(form, batch, must=0.95, aim=1.3 if batch == 256 else None, rounds=7)
                yield {"form": form, "batch": batch, **row}

    return {
        "binary": lambda: iter([product("binary", 1, must=6, aim=12, rounds=31)]),
        "ternary": lambda: iter([product("ternary", 1, must=4, aim=8, rounds=31)]),
        "chain": lambda: iter([product("chain", 1, must=6, aim=12, rounds=31)]),
        "integer4": lambda: iter([product("integer4", 1, must=0.95, aim=None, rounds=31)]),
        "batches": batches,
        "svd": lambda: iter([svd.randomized()]),
        "streaming": lambda: iter([svd.streaming()]),
        "transform": lambda: iter([sparse.transform()]),
        "overhead": lambda: iter([overhead()]),
        "memory": memory,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = rows()
    parser.add_argument("rows", nargs="*", help=f"of {', '.join(known)}; all of them when left out")
    parser.add_argument("--json", action="store_true", help="one JSON line for each row")
    parser.add_argument("--out", type=Path, help="also keep the rows in this file")
    chosen = parser.parse_args()
    unknown = [name for name in chosen.rows if name not in known]
    if unknown:
        parser.error(f"unknown row {unknown[0]!r}; choose from {', '.join(known)}")
    torch.set_num_threads(2)
    for name in chosen.rows or known:
        before, found = load_average(), []
        for row in known[name]():
            found.append(row)
            row = {"row": name, **row}
            text = "  ".join(f"{k}={short(v)}" for k, v in row.items())
            print(json.dumps(row) if chosen.json else text, flush=True)
        if chosen.out:
            keep(chosen.out, {name: found}, before, software(("scipy", "scikit-learn", "torch-sparse")))


def short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
