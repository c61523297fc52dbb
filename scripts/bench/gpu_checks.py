"""Every GPU kernel against float64 sums of plain torch, on sizes that fill no block: used by liam_gpu.py.

A check runs a kernel three times and wants the same bits each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from clisonix.kernels import bsr_triton, cuda, lowrank_triton, newton_schulz_triton
from clisonix.kernels import planes_launch_triton as launch
from clisonix.kernels.planes_reference import unpack_bits, unpack_codes
from clisonix.kernels.planes_triton import Packed

# batch, m, n, bits, group.
SIZES = [
    (1, 16384, 4096, 1, 4096),
    (1, 1000, 1111, 1, 1111),
    (2, 257, 4104, 2, 4104),
    (5, 4096, 4096, 2, 4096),
    (8, 129, 8192, 1, 8192),
    (16, 2048, 2080, 2, 2080),
    (17, 515, 1030, 1, 1030),
    (40, 300, 777, 3, 64),
    (64, 1024, 1024, 4, 128),
    (3, 70, 333, 8, 5),
    (130, 260, 514, 1, 514),
]
SMALL = [(1, 33, 130, 1, 130), (2, 40, 64, 2, 64), (5, 19, 70, 4, 16), (17, 20, 40, 1, 40)]
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Roundings to the type of the data, of the largest entry, that a result may be off.
ROUNDINGS = 8


class Check(NamedTuple):
    """How far the result of a kernel was from the sums it should be, relative to its largest entry."""

    kernel: str
    case: str
    error: float
    allowed: float
    repeatable: bool
    reason: str

    @property
    def passed(self) -> bool:
        return not self.reason and self.repeatable and self.error <= self.allowed


def run(device: torch.device, *, small: bool = False, dtypes: tuple[torch.dtype, ...] = DTYPES) -> Iterator[Check]:
    """All checks. `small` is for tools under which a GPU is a thousand times slower."""
    generator = torch.Generator(device).manual_seed(0)
    for dtype in dtypes:
        for size in SMALL if small else SIZES:
            yield from _packed(size, dtype, generator)
        for sizes in (
            ((1, 33, 20, 130), (7, 100, 260, 70)) if small else ((1, 4096, 2050, 4096), (7, 1000, 515, 1111))
        ):
            yield from _chain(*sizes, dtype, generator)
        for size in (16,) if small else (16, 32, 64):
            yield from _blocks(size, 5 if small else 70, 5 * size + 3, 7 * size - 5, dtype, generator)
        for sizes in ((1, 300, 33, 5), (70, 64, 40, 17)) if small else ((1, 4096, 4099, 64), (30, 777, 515, 130)):
            yield from _lowrank(*sizes, dtype, generator)
        for m, k in ((40, 30),) if small else ((100, 70), (300, 1000), (515, 512)):
            yield from _symmetric(m, k, dtype, generator)


def _check(kernel: str, case: str, dtype: torch.dtype, run: Callable[[], Tensor], expected: Tensor) -> Check:
    case = f"{case} {str(dtype).removeprefix('torch.')}"
    allowed = ROUNDINGS * torch.finfo(dtype).eps
    try:
        results = [run() for _ in range(3)]
        size = expected.abs().max().clamp(min=1e-30)
        # A NaN must not pass, and the largest of numbers with a NaN is a NaN.
        error = float(((results[0].double() - expected).abs() / size).max())
        same = all(torch.equal(results[0], other) for other in results[1:])
        return Check(kernel, case, error, allowed, same, "" if error == error else "not a number")
    except Exception as error:  # whatever goes wrong belongs to this kernel
        return Check(kernel, case, float("inf"), allowed, False, f"{type(error).__name__}: {error}")


def randn(*shape: int, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    return torch.randn(*shape, generator=generator, device=generator.device).to(dtype)


def random_bytes(*shape: int, n: int, generator: torch.Generator) -> Tensor:
    """Packed bits whose padding is clear."""
    packed = torch.randint(0, 256, shape, generator=generator, device=generator.device, dtype=torch.uint8)
    if n % 8:
        packed[..., -1] &= (1 << (n % 8)) - 1
    return packed


def _packed(size: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> Iterator[Check]:
    batch, m, n, bits, group = size
    case = f"{batch}×{n} by {m}×{n}, {bits} bits in groups of {group}"
    planes = random_bytes(bits, m, -(-n // 8), n=n, generator=generator)
    step, offset = (2, 1) if bits == 1 else (1, 1 << (bits - 1))
    scales = randn(m, -(-n // group), dtype=dtype, generator=generator)
    weight = Packed(planes, scales, n, group, step, offset)
    levels = unpack_codes(planes, n).double() * step - offset
    entries = levels * scales.double().repeat_interleave(group, 1)[:, :n]
    x, y = randn(batch, n, dtype=dtype, generator=generator), randn(batch, m, dtype=dtype, generator=generator)
    right = randn(70, n, dtype=dtype, generator=generator) / n**0.5
    left = randn(m, 70, dtype=dtype, generator=generator)
    expected = x.double() @ entries.T
    yield _check("triton rows", case, dtype, lambda: launch.matmul(x, weight), expected)
    low = (x.double() @ right.double().T).to(dtype).double() @ left.double().T
    for overlap in (False, True) if _hopper(x) else (False,):

        def fused(overlap: bool = overlap) -> Tensor:
            inner = lowrank_triton.inner_parts(x, right, signal=overlap)
            return launch.matmul(x, weight, inner=inner, left=left, overlap=overlap)

        name = "triton fused, overlapped" if overlap else "triton fused"
        yield _check(name, case, dtype, fused, expected + low)
    yield _check("triton columns", case, dtype, lambda: launch.matmul_t(y, weight), y.double() @ entries)
    terms = torch.nn.functional.pad((y.double().T @ x.double()) * levels, (0, -n % group))
    sums = terms.view(m, -1, group).sum(-1)
    yield _check("triton scale sums", case, dtype, lambda: launch.scale_sums(y, x, weight), sums)
    if bits <= 2 and group == n:

        def exact() -> Tensor:
            return cuda.packed_product(x, planes, n, step=step, offset=offset, row_scales=scales[:, 0].contiguous())

        yield _check("cuda", case, dtype, exact, expected)


def _chain(batch: int, m: int, r: int, n: int, dtype: torch.dtype, generator: torch.Generator) -> Iterator[Check]:
    case = f"{batch}×{n} by {m}×{r}×{n}"
    s1 = random_bytes(m, -(-r // 8), n=r, generator=generator)
    s2 = random_bytes(r, -(-n // 8), n=n, generator=generator)
    x, a, b, c = (randn(*s, dtype=dtype, generator=generator) for s in ((batch, n), (m,), (r,), (n,)))
    signs = [unpack_bits(s, k).double() * 2 - 1 for s, k in ((s1, r), (s2, n))]
    scaled = x.double() * c.double()
    middle = scaled @ signs[1].T * b.double()
    # What enters a tensor core is rounded to the type of the data, which the exact kernel does not do.
    rounded = (scaled.to(dtype).double() @ signs[1].T * b.double()).to(dtype).double()
    for kernel, product, inner in (
        ("triton chain", launch.double_binary, rounded if batch > 1 else middle),
        ("cuda chain", cuda.double_binary, middle),
    ):
        expected = inner @ signs[0].T * a.double()
        yield _check(kernel, case, dtype, lambda f=product: f(x, a, s1, b, s2, c), expected)  # type: ignore[misc]


def _blocks(size: int, batch: int, m: int, n: int, dtype: torch.dtype, generator: torch.Generator) -> Iterator[Check]:
    case = f"{batch} rows, {m}×{n} in blocks of {size}"
    down, across = -(-m // size), -(-n // size)
    kept = torch.rand(down, across, generator=generator, device=generator.device) < 0.4
    crow = torch.cat([kept.new_zeros(1, dtype=torch.long), kept.sum(1).cumsum(0)]).int()
    rows, col = (t.int() for t in kept.nonzero().unbind(1))
    values = randn(col.shape[0], size, size, dtype=dtype, generator=generator)
    dense = torch.zeros(down, across, size, size, dtype=torch.float64, device=values.device)
    dense[rows.long(), col.long()] = values.double()
    dense = dense.permute(0, 2, 1, 3).reshape(down * size, across * size)[:m, :n]
    x, y = randn(batch, n, dtype=dtype, generator=generator), randn(batch, m, dtype=dtype, generator=generator)
    turned = bsr_triton.by_column(crow, col, across)
    yield _check(
        "triton blocks", case, dtype, lambda: bsr_triton.multiply(x, values, crow, col, None, m), x.double() @ dense.T
    )
    yield _check(
        "triton blocks",
        f"{case}, back",
        dtype,
        lambda: bsr_triton.multiply(y, values, *turned, n),
        y.double() @ dense,
    )
    outer = torch.zeros(down * size, across * size, dtype=torch.float64, device=values.device)
    outer[:m, :n] = y.double().T @ x.double()
    sampled = outer.view(down, size, across, size).permute(0, 2, 1, 3)[rows.long(), col.long()]
    yield _check(
        "triton blocks", f"{case}, sampled", dtype, lambda: bsr_triton.sample(y, x, rows, col, size), sampled
    )


def _lowrank(batch: int, n: int, m: int, r: int, dtype: torch.dtype, generator: torch.Generator) -> Iterator[Check]:
    x = randn(batch, n, dtype=dtype, generator=generator)
    right = randn(r, n, dtype=dtype, generator=generator) / n**0.5
    left = randn(m, r, dtype=dtype, generator=generator)

    def product() -> Tensor:
        out = torch.full((batch, m), float("nan"), dtype=dtype, device=x.device)
        lowrank_triton.launch(x, right, left, out)
        return out

    inner = (x.double() @ right.double().T).to(dtype).double()
    yield _check("triton low rank", f"{batch}×{n} by {m}×{r}×{n}", dtype, product, inner @ left.double().T)


def _symmetric(m: int, k: int, dtype: torch.dtype, generator: torch.Generator) -> Iterator[Check]:
    x, c = randn(3, m, k, dtype=dtype, generator=generator), randn(3, m, m, dtype=dtype, generator=generator)
    c = c + c.mT

    def product() -> Tensor:
        out = torch.full_like(c, float("nan"))
        newton_schulz_triton.launch(x, c, out, 0.75, -1.5)
        return out

    expected = 0.75 * x.double() @ x.double().mT - 1.5 * c.double()
    yield _check("triton symmetric", f"3 of {m}×{k}", dtype, product, expected)


def _hopper(x: Tensor) -> bool:
    return x.is_cuda and torch.cuda.get_device_capability(x.device) >= (9, 0)
