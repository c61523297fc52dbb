"""Try the tiles of every kernel on this device and print the fastest as lines of the tables: used by liam_gpu.py."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from gpu_contenders import randn, random_weight
from gpu_timing import captured

from clisonix.kernels import bsr_triton, cuda, lowrank_triton, newton_schulz_triton
from clisonix.kernels import planes_launch_triton as launch
from clisonix.kernels.planes_triton import Tile, device_of

SIZE = 16384


def tune(device: torch.device, wrong: set[str]) -> None:
    """Print a measured entry for every key of every table whose kernel passed its checks."""
    x = {batch: randn(batch, SIZE, device=device) for batch in (1, 2, 8, 16, 32, 64)}
    capability = device_of(x[1]).capability
    weight = random_weight(device, SIZE, 2, 0)
    if "triton rows" not in wrong:
        for batch in (1, 16, 32, 64):
            tiles = tiles_of((8, 16, 32) if batch == 1 else (64, 128), (64, 128, 256) if batch == 1 else (16, 32, 64))
            best("ROW_TILES", (batch, capability), tiles, lambda t, b=batch: launch.matmul(x[b], weight, tile=t))
    if "triton columns" not in wrong:
        for batch in (16, 32, 64):
            tiles = tiles_of((32, 64, 128), (16, 32, 64))
            best("COLUMN_TILES", (batch, capability), tiles, lambda t, b=batch: launch.matmul_t(x[b], weight, tile=t))
    if "triton low rank" not in wrong:
        thin = randn(64, SIZE, device=device)
        for batch in (1, 16, 64):
            tiles = [
                lowrank_triton.ThinTile(*t)
                for t in itertools.product((16, 32, 64), (64, 128, 256), (4, 8), (2, 3, 4))
                if batch == 1 or t[1] <= 128
            ]
            best(
                "INNER_TILES", (batch, capability), tiles,
                lambda t, b=batch: lowrank_triton.inner_parts(x[b], thin, tile=t),
            )  # fmt: skip
    if "triton symmetric" not in wrong:
        for m in (96, 384, 1024):
            stack = randn(64, m, 4 * m, device=device)
            out = torch.empty(64, m, m, dtype=stack.dtype, device=device)
            least = max(least for least, _ in newton_schulz_triton.SQUARE_TILES if least <= m)
            squares = [
                newton_schulz_triton.SquareTile(*t)
                for t in itertools.product((32, 64, 128), (32, 64), (4, 8), (3, 4))
            ]
            best(
                "SQUARE_TILES", (least, capability), squares,
                lambda t, s=stack, o=out: newton_schulz_triton.launch(s, None, o, 1.0, 0.0, tile=t),
            )  # fmt: skip
    if "triton blocks" not in wrong:
        tune_blocks(device, capability)
    if "cuda" not in wrong:
        tune_cuda(device, x)


def tune_blocks(device: torch.device, capability: int) -> None:
    n = 8192
    for size in bsr_triton.SIZES:
        generator = torch.Generator(device).manual_seed(0)
        kept = torch.rand(n // size, n // size, generator=generator, device=device) < 0.1
        crow = torch.cat([kept.new_zeros(1, dtype=torch.long), kept.sum(1).cumsum(0)]).int()
        col = kept.nonzero()[:, 1].int()
        values, x = randn(col.shape[0], size, size, device=device), randn(256, n, device=device)
        tiles = [bsr_triton.BlockTile(*t) for t in itertools.product((16, 32, 64, 128), (2, 4, 8), (2, 3, 4))]

        product = partial(bsr_triton.multiply, x, values, crow, col, None, n)
        best("BLOCK_TILES", (size, capability), tiles, lambda t, product=product: product(tile=t))


def tune_cuda(device: torch.device, x: dict[int, torch.Tensor]) -> None:
    """The layouts of blocks of the CUDA kernel beside the one that its estimate chooses."""
    limits = cuda.limits_of(device)
    for bits, batch in itertools.product((1, 2), (1, 2, 8, 16)):
        weight = random_weight(device, SIZE, bits, 0)
        planes, out = weight.planes, torch.empty(batch, SIZE, dtype=torch.bfloat16, device=device)
        work = cuda.plan(x[batch], planes, SIZE, weight.step, weight.offset, None, None, out, limits)
        down, chunk = work.numbers[6:8]
        print(f"# cuda: {bits} bits, batch {batch}: the estimate chooses {(down, work.threads // 32 // down)}")
        best(
            "layout", (bits, batch), cuda.layouts(chunk, work.variant.threads // 32),
            lambda t, b=batch, w=weight: cuda.packed_product(
                x[b], w.planes, SIZE, step=w.step, offset=w.offset, layout=t
            ),
        )  # fmt: skip


def tiles_of(rows: Iterable[int], columns: Iterable[int]) -> list[Tile]:
    return [Tile(*t) for t in itertools.product(rows, columns, (4, 8), (2, 3, 4))]


def best(table: str, key: tuple[int, ...], choices: Iterable[Any], run: Callable[[Any], object]) -> None:
    """Print the choice with the least median time of twenty calls in a graph."""
    times = {}
    for choice in choices:
        try:
            graph = captured([lambda c=choice: run(c)] * 20)  # type: ignore[misc]
        except Exception:  # a tile that needs more than the device has is no choice
            continue
        marks = []
        for _ in range(20):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            graph.replay()
            end.record()
            marks.append((start, end))
        torch.cuda.synchronize()
        times[choice] = statistics.median(start.elapsed_time(end) for start, end in marks) / 20
    if not times:
        print(f"# {table}[{key}]: no choice ran")
        return
    choice = min(times, key=lambda c: times[c])
    shown = f"{type(choice).__name__}{tuple(choice)}" if hasattr(choice, "_fields") else str(choice)
    print(f"    {key}: {shown},  # {table}: {1e3 * times[choice]:.1f} µs", flush=True)
