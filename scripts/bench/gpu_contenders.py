"""What is timed against what, and what it should reach: used by liam_gpu.py."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from gpu_timing import Call, Clock, Contender
from torch import Tensor
from torch.nn import functional as F

from clisonix.kernels import bsr_triton, cuda, lowrank_triton, newton_schulz
from clisonix.kernels import planes_launch_triton as launch
from clisonix.kernels.planes_reference import unpack_bits, unpack_codes
from clisonix.kernels.planes_triton import Packed


class Target(NamedTuple):
    """`theirs` should take at least `factor` times as long as the best of `ours`; `aim` is what is hoped for."""

    ours: tuple[str, ...]
    theirs: str
    factor: float
    aim: float


class Claim(NamedTuple):
    """Contenders for one product, with the result that all must give, and what is wanted of them.

    `moved` counts the bytes that the packed product must read and write; `bandwidth` is the part of the bandwidth of
    a copy that it should reach. `kernels` are the names in gpu_checks.py of what each of ours runs.
    """

    name: str
    contenders: list[Contender]
    expected: Tensor | None
    targets: list[Target]
    kernels: dict[str, tuple[str, ...]]
    moved: int = 0
    bandwidth: float = 0.0
    modes: tuple[str, ...] = ("flushed", "rotating", "warm")
    notes: tuple[str, ...] = ()
    # A baseline in bfloat16 rounds every entry and product; a wrong contender is off by much more.
    tolerance: float = 0.02


def claims(device: torch.device, clock: Clock, sizes: list[int]) -> Iterator[Claim]:
    """All claims, one at a time, since the weights of one may fill much of the memory."""
    for size in sizes:
        goals = {1: Target(("cuda", "triton"), "cublas", 9.0, 12.0)}
        yield packed_claim(device, clock, size, 1, 1, goals[1], bandwidth=0.65)
        for batch, factor in ((1, 6.0), (16, 4.0), (64, 2.0)):
            target = Target(("cuda", "triton"), "cublas", factor, factor)
            yield packed_claim(device, clock, size, 2, batch, target)
        yield chain_claim(device, clock, size)
        for batch in (1, 16):
            yield fused_claim(device, clock, size, batch)
        yield transposed_claim(device, clock, size)
    yield blocks_claim(device)
    yield newton_schulz_claim(device)


def randn(*shape: int, device: torch.device, seed: int = 0) -> Tensor:
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(*shape, generator=generator, device=device).bfloat16()


def random_weight(device: torch.device, size: int, bits: int, seed: int) -> Packed:
    generator = torch.Generator(device).manual_seed(seed)
    planes = torch.randint(0, 256, (bits, size, size // 8), generator=generator, device=device, dtype=torch.uint8)
    step, offset = (2, 1) if bits == 1 else (1, 2)
    return Packed(planes, randn(size, 1, device=device, seed=seed + 1) / size**0.5, size, size, step, offset)


def entries_of(weight: Packed) -> Tensor:
    """The entries in bfloat16, a part of the rows at a time."""
    assert weight.scales is not None
    out = torch.empty(weight.planes.shape[1], weight.n, dtype=torch.bfloat16, device=weight.planes.device)
    for first in range(0, out.shape[0], 1024):
        rows = slice(first, first + 1024)
        codes = unpack_codes(weight.planes[:, rows], weight.n)
        out[rows] = (codes.bfloat16() * weight.step - weight.offset) * weight.scales[rows]
    return out


def dense_contenders(x: Tensor, copies: list[Tensor]) -> list[Contender]:
    """The dense product by cuBLAS, and by whatever `torch.compile` finds fastest."""
    tuned = torch.compile(F.linear, mode="max-autotune-no-cudagraphs", dynamic=False)
    return [
        Contender("cublas", [lambda w=w: F.linear(x, w) for w in copies]),
        Contender("max-autotune", [lambda w=w: tuned(x, w) for w in copies]),
    ]


def dense_copies(first: Packed, clock: Clock) -> list[Tensor]:
    """The entries of a weight, as often as `rotating` needs them."""
    entries = entries_of(first)
    return [entries] + [entries.clone() for _ in range(1, clock.copies(entries.nbytes))]


def packed_claim(
    device: torch.device, clock: Clock, size: int, bits: int, batch: int, target: Target, bandwidth: float = 0.0
) -> Claim:
    first = random_weight(device, size, bits, 0)
    copies = [first] + [random_weight(device, size, bits, 2 * i) for i in range(1, clock.copies(first.planes.nbytes))]
    x = randn(batch, size, device=device)
    dense = dense_copies(first, clock)
    contenders = dense_contenders(x, dense)
    contenders.append(Contender("triton", [lambda w=w: launch.matmul(x, w) for w in copies]))

    def exact(weight: Packed) -> Tensor:
        assert weight.scales is not None
        return cuda.packed_product(
            x,
            weight.planes,
            size,
            step=weight.step,
            offset=weight.offset,
            row_scales=weight.scales[:, 0].contiguous(),
        )

    contenders.append(Contender("cuda", [lambda w=w: exact(w) for w in copies]))
    targets, notes = [target], ()
    try:
        contenders.append(gemlite(x, copies, size, bits))
        targets.append(Target(target.ours, "gemlite", 1.3, 1.3))
    except Exception as error:  # a peer that is absent or has changed is a note, not a failure
        notes = (f"gemlite was not compared: {type(error).__name__}: {error}",)
    return Claim(
        f"{bits}-bit weights, {size}×{size}, batch {batch}",
        contenders,
        F.linear(x.float(), dense[0].float()),
        targets,
        {"triton": ("triton rows",), "cuda": ("cuda",)},
        moved=first.planes.nbytes + size * (2 + 4 * batch),
        bandwidth=bandwidth,
        notes=notes,
    )


def gemlite(x: Tensor, copies: list[Packed], size: int, bits: int) -> Contender:
    """The same matrices in GemLite, in float16, which it is made for, with its own groups of 128."""
    if find_spec("gemlite") is None:
        raise ModuleNotFoundError("the package gemlite is not installed")
    from gemlite.core import DType, GemLiteLinear  # type: ignore[import-not-found]

    half = x.half()

    def layer(weight: Packed) -> Call:
        assert weight.scales is not None
        linear: Any = GemLiteLinear(
            bits, group_size=128, in_features=size, out_features=size, input_dtype=DType.FP16, output_dtype=DType.FP16
        )
        # Its entries are (code - zero) * scale.
        scales = (weight.scales * weight.step).half().expand(-1, size // 128).reshape(-1, 1).contiguous()
        zeros = torch.full_like(scales, weight.offset / weight.step)
        linear.pack(unpack_codes(weight.planes, size), scales, zeros, None)
        return lambda: linear(half)

    return Contender("gemlite", [layer(weight) for weight in copies])


def chain_claim(device: torch.device, clock: Clock, size: int) -> Claim:
    """`diag(a) S1 diag(b) S2 diag(c)` with as many inner as outer columns: two bits an entry of the product."""

    def bits(seed: int) -> Tensor:
        return random_weight(device, size, 1, seed).planes[0]

    copies = [(bits(4 * i), bits(4 * i + 2)) for i in range(clock.copies(size * size // 4))]
    x, a, b, c = (randn(*s, device=device, seed=i) for i, s in enumerate(((1, size), (size,), (size,), (size,))))
    b = b / size
    signs = [unpack_bits(s, size).float() * 2 - 1 for s in copies[0]]
    expected = F.linear(F.linear(x.float() * c.float(), signs[1]) * b.float(), signs[0]) * a.float()
    dense = dense_copies(random_weight(device, size, 1, 1), clock)
    return Claim(
        f"double binary, {size}×{size}×{size}, batch 1",
        [
            Contender("cublas", [lambda w=w: F.linear(x, w) for w in dense]),
            Contender("triton", [lambda s=s: launch.double_binary(x, a, s[0], b, s[1], c) for s in copies]),
            Contender("cuda", [lambda s=s: cuda.double_binary(x, a, s[0], b, s[1], c) for s in copies]),
        ],
        expected,
        [Target(("cuda", "triton"), "cublas", 4.5, 6.0)],
        {"triton": ("triton chain",), "cuda": ("cuda chain",)},
        moved=size * size // 4,
        notes=("the dense contender multiplies another matrix of that size",),
    )


def fused_claim(device: torch.device, clock: Clock, size: int, batch: int) -> Claim:
    """A term of rank 64 added to 2-bit weights: what it adds to the time of the weights alone."""
    first = random_weight(device, size, 2, 0)
    copies = [first] + [random_weight(device, size, 2, 2 * i) for i in range(1, clock.copies(first.planes.nbytes))]
    x = randn(batch, size, device=device)
    right, left = randn(64, size, device=device, seed=1) / size**0.5, randn(size, 64, device=device, seed=2)

    def fused(weight: Packed, overlap: bool) -> Tensor:
        inner = lowrank_triton.inner_parts(x, right, signal=overlap)
        return launch.matmul(x, weight, inner=inner, left=left, overlap=overlap)

    contenders = [
        Contender("alone", [lambda w=w: launch.matmul(x, w) for w in copies]),
        Contender("unfused", [lambda w=w: launch.matmul(x, w) + F.linear(F.linear(x, right), left) for w in copies]),
        Contender("fused", [lambda w=w: fused(w, False) for w in copies]),
    ]
    kernels = {"fused": ("triton fused", "triton rows"), "alone": ("triton rows",), "unfused": ("triton rows",)}
    if torch.cuda.get_device_capability(device) >= (9, 0):
        contenders.append(Contender("overlapped", [lambda w=w: fused(w, True) for w in copies]))
        kernels["overlapped"] = ("triton fused, overlapped",)
    return Claim(
        f"2-bit weights + rank 64, {size}×{size}, batch {batch}",
        contenders,
        None,
        # At most 5 % more than the weights alone.
        [Target(("fused", "overlapped"), "alone", 1 / 1.05, 1 / 1.03)],
        kernels,
    )


def transposed_claim(device: torch.device, clock: Clock, size: int) -> Claim:
    first = random_weight(device, size, 1, 0)
    copies = [first] + [random_weight(device, size, 1, 2 * i) for i in range(1, clock.copies(first.planes.nbytes))]
    x = randn(16, size, device=device)
    dense = dense_copies(first, clock)
    return Claim(
        f"gradient of the input, 1-bit weights, {size}×{size}, batch 16",
        [
            Contender("cublas", [lambda w=w: x @ w for w in dense]),
            Contender("triton", [lambda w=w: launch.matmul_t(x, w) for w in copies]),
        ],
        x.float() @ dense[0].float(),
        [Target(("triton",), "cublas", 2.0, 4.0)],
        {"triton": ("triton columns",)},
    )


def blocks_claim(device: torch.device) -> Claim:
    """One block in ten of a 8192 × 8192 matrix, 64 rows of input."""
    n, size = 8192, 32
    generator = torch.Generator(device).manual_seed(0)
    kept = torch.rand(n // size, n // size, generator=generator, device=device) < 0.1
    crow = torch.cat([kept.new_zeros(1, dtype=torch.long), kept.sum(1).cumsum(0)]).int()
    col = kept.nonzero()[:, 1].int()
    values = randn(col.shape[0], size, size, device=device)
    x = randn(64, n, device=device, seed=1)
    sparse = torch.sparse_bsr_tensor(crow, col, values, (n, n))
    entries = sparse.to_dense()
    return Claim(
        f"block-sparse, {n}×{n}, a tenth of the blocks of {size}, batch 64",
        [
            Contender("cublas", [lambda: F.linear(x, entries)]),
            Contender("torch", [lambda: F.linear(x, sparse)]),
            Contender("triton", [lambda: bsr_triton.multiply(x, values, crow, col, None, n)]),
        ],
        F.linear(x.float(), entries.float()),
        [Target(("triton",), "torch", 1.0, 1.3)],
        {"triton": ("triton blocks",)},
        modes=("flushed", "warm"),
    )


def newton_schulz_claim(device: torch.device) -> Claim:
    """100 matrices of a transformer of width 384, in bfloat16, as `torch.optim.Muon` computes them one by one."""
    from torch.optim._muon import _zeropower_via_newtonschulz

    shapes = [(384, 384)] * 66 + [(1536, 384)] * 17 + [(384, 1536)] * 17
    random.Random(0).shuffle(shapes)
    matrices = [randn(*shape, device=device, seed=i) for i, shape in enumerate(shapes)]

    def of(run: Callable[[], list[Tensor]]) -> Contender:
        return Contender(run.__name__, [lambda: torch.cat([y.flatten() for y in run()])])

    def muon() -> list[Tensor]:
        return [_zeropower_via_newtonschulz(x, newton_schulz.COEFFICIENTS, 5, 1e-7) for x in matrices]

    def stacked() -> list[Tensor]:
        return newton_schulz.orthogonalise(matrices)

    def triton() -> list[Tensor]:
        return newton_schulz.orthogonalise(matrices, backend="triton")

    wide = [newton_schulz.newton_schulz(x.float(), dtype=torch.float32) for x in matrices]
    return Claim(
        "Newton-Schulz of 100 matrices, width 384",
        [of(muon), of(stacked), of(triton)],
        torch.cat([y.flatten() for y in wide]),
        [Target(("stacked", "triton"), "muon", 6.0, 8.0)],
        {"triton": ("triton symmetric",)},
        modes=("eager", "warm"),
        tolerance=0.05,
    )
