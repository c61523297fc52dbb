"""Builds and launches `cuda/packed.cu`: small batches times a matrix of signs or of 2-bit codes.

Nothing here runs at import. A variant is compiled when it is first launched, by NVRTC, which comes with a CUDA build
of torch, or by `nvcc` where NVRTC is not found, and kept for the life of the process. Not yet run on a GPU: see
docs/gpu.md.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from clisonix.errors import ClisonixError

SOURCE = Path(__file__).with_name("cuda") / "packed.cu"
MAX_BATCH = 16
TYPES = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2}

# Most threads of a block, by (planes, tiles): what leaves a thread the registers it needs without spilling.
THREADS = {(1, 1): 512, (1, 3): 512, (1, 6): 256, (2, 1): 384, (2, 3): 384, (2, 6): 256}
# Shared memory of a block where the device grants it: sm_80 has 163 KiB, sm_90 227 KiB, sm_86 and sm_89 only 99.
SHARED_BYTES = 160 * 1024
STEP_COLUMNS, WARP_ROWS = 512, 32
HEADER_BYTES = 16 * 4 + 16 * 8


@dataclass(frozen=True)
class Variant:
    """The compile-time choices of the kernel: bits a weight, groups of eight digit columns, alignment of a row."""

    planes: int
    tiles: int
    align: int

    @property
    def threads(self) -> int:
        return THREADS[self.planes, self.tiles]

    @property
    def definitions(self) -> list[str]:
        values = {"PLANES": self.planes, "TILES": self.tiles, "ALIGN": self.align, "THREADS": self.threads}
        return [f"-D{name}={value}" for name, value in values.items()]


class Limits(NamedTuple):
    """What a launch must know of its device: multiprocessors, and bytes of shared memory that a block may ask for."""

    multiprocessors: int
    shared_bytes: int


@dataclass(frozen=True)
class Launch:
    """One launch, complete: what to compile, its shape, and the fields of the kernel's `Product` in their order."""

    variant: Variant
    grid: int
    threads: int
    shared_bytes: int
    tensors: tuple[Tensor, Tensor | None, Tensor, Tensor | None, Tensor]
    numbers: tuple[int, ...]


def packed_product(
    x: Tensor,
    planes: Tensor,
    n: int,
    *,
    step: int,
    offset: int,
    row_scales: Tensor | None = None,
    column_scales: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    layout: tuple[int, int] | None = None,
) -> Tensor:
    """`(x * column_scales) @ (step * codes - offset).T * row_scales`, in as many launches as 16 rows of `x` take.

    Args:
        x: `(batch, n)`, contiguous float16, bfloat16 or float32 on a GPU. Each row is rounded to 23 bits relative to
            its largest entry; a row with an infinity or a NaN gives NaN.
        planes: uint8 `(bits, m, ceil(n / 8))`, contiguous, 1 or 2 bits.
        n: columns.
        step: what one unit of a code is worth: 2 for signs, else 1.
        offset: what is taken off: 1 for signs and three levels.
        row_scales: `(m,)` of one of the three types, or None for ones.
        column_scales: `(n,)`, likewise.
        out_dtype: of the result; that of `x` unless given.
        layout: warps of a block `(down, across)`: with different rows, and sharing rows; chosen when not given.

    Returns:
        `(batch, m)`. The sums are exact, so the result does not depend on `layout`.

    Raises:
        ClisonixError: a type or a number of bits that the kernel does not have.
    """
    bits, m, _ = planes.shape
    if bits not in (1, 2) or not {t.dtype for t in (x, row_scales, column_scales) if t is not None} <= TYPES.keys():
        raise ClisonixError(
            f"The CUDA kernel was given {bits} bits and {x.dtype}; it takes 1 or 2 bits and float16, bfloat16 or "
            'float32, so use "triton" or "reference".'
        )
    out = x.new_empty(x.shape[0], m, dtype=out_dtype or x.dtype)
    if out.numel() == 0:
        return out
    if n == 0:
        return out.zero_()
    limits = limits_of(x.device)
    for first in range(0, x.shape[0], MAX_BATCH):
        rows, results = x[first : first + MAX_BATCH], out[first : first + MAX_BATCH]
        launch(plan(rows, planes, n, step, offset, row_scales, column_scales, results, limits, layout))
    return out


def double_binary(
    x: Tensor,
    a: Tensor,
    s1: Tensor,
    b: Tensor,
    s2: Tensor,
    c: Tensor,
) -> Tensor:
    """`a * (S1 @ (b * (S2 @ (c * x))))` for every row of `x`, in two launches for 16 rows; the middle stays float32.

    Args:
        x: `(batch, n)`, as in `packed_product`.
        a: `(m,)`. s1: uint8 `(m, ceil(r / 8))`. b: `(r,)`. s2: uint8 `(r, ceil(n / 8))`. c: `(n,)`.
    """
    wide = torch.float32
    inner = packed_product(x, s2[None], c.shape[0], step=2, offset=1, column_scales=c, out_dtype=wide)
    return packed_product(
        inner, s1[None], b.shape[0], step=2, offset=1, column_scales=b, row_scales=a, out_dtype=x.dtype
    )


def plan(
    x: Tensor,
    planes: Tensor,
    n: int,
    step: int,
    offset: int,
    row_scales: Tensor | None,
    column_scales: Tensor | None,
    out: Tensor,
    limits: Limits,
    layout: tuple[int, int] | None = None,
) -> Launch:
    """The launch that writes the product of up to 16 rows into `out`; arguments as in `packed_product`."""
    bits, m, row_bytes = planes.shape
    batch = x.shape[0]
    tiles = next(count for count in (1, 3, 6) if 3 * batch <= 8 * count)
    align = next(size for size in (16, 4, 1) if row_bytes % size == 0 and planes.data_ptr() % size == 0)
    variant = Variant(bits, tiles, align)
    digit_bytes = 3 * batch * STEP_COLUMNS
    room = (limits.shared_bytes - HEADER_BYTES - 4 * 8 * tiles * WARP_ROWS * (variant.threads // 32)) // digit_bytes
    steps = -(-n // STEP_COLUMNS)
    chunk = min(steps, room)
    down, across = layout or choose_layout(
        m, steps, chunk, batch, bits, variant.threads // 32, limits.multiprocessors
    )
    rows = down * WARP_ROWS
    numbers = (
        *(batch, m, n, row_bytes, step, offset, down, chunk),
        *(TYPES[t.dtype] if t is not None else 0 for t in (x, column_scales, row_scales, out)),
    )
    shared = HEADER_BYTES + 4 * 8 * tiles * rows + chunk * digit_bytes
    tensors = (x, column_scales, planes, row_scales, out)
    return Launch(variant, -(-m // rows), 32 * down * across, shared, tensors, numbers)


def choose_layout(
    m: int, steps: int, chunk: int, batch: int, bits: int, warps: int, multiprocessors: int
) -> tuple[int, int]:
    """Warps of a block, those with different rows and those that share rows.

    A block prepares its vectors once and then waits for latency or bandwidth. The three constants are estimates for
    an H100 in nanoseconds; `scripts/bench/liam_gpu.py --tune` prints what measuring every layout would choose.
    """
    prepare_ns = 0.03 * STEP_COLUMNS * steps * batch
    latency_ns, transfer_ns = 800.0, 90.0 * bits

    def cost(layout: tuple[int, int]) -> float:
        down, across = layout
        waves = -(-m // (WARP_ROWS * down * multiprocessors))
        rounds = -(-steps // across)
        spread = prepare_ns * warps / (down * across)
        return waves * (spread + max(latency_ns * rounds, transfer_ns * down * steps))

    return min(layouts(chunk, warps), key=cost)


def layouts(chunk: int, warps: int) -> list[tuple[int, int]]:
    """Every `(down, across)` that fits a block of `warps` and gives each warp a step of a chunk."""
    return [
        (down, across)
        for down in (1, 2, 4, 8, 16)
        for across in (1, 2, 4, 6, 8, 12, 16)
        if down * across <= warps and across <= max(chunk, 1)
    ]


def launch(work: Launch) -> None:
    """Run `work` on the current stream of the device its tensors are on."""
    device = work.tensors[0].device
    fields = [t.data_ptr() if t is not None else 0 for t in work.tensors] + list(work.numbers)
    product = (ctypes.c_int64 * len(fields))(*fields)
    with torch.cuda.device(device):
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        function = _function(work.variant, torch.cuda.current_device())
        arguments = (ctypes.c_void_p * 1)(ctypes.addressof(product))
        code = _driver().cuLaunchKernel(
            function, work.grid, 1, 1, work.threads, 1, 1, work.shared_bytes, stream, arguments, None
        )
        _check(code, "launched")


def compile_nvcc(variant: Variant, capability: str, *, verbose: bool = False) -> tuple[bytes, str]:
    """The machine code of `variant` for `sm_{capability}` and what the compiler said, by `nvcc`.

    Raises:
        ClisonixError: there is no `nvcc`, or it refused.
    """
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        raise ClisonixError("The CUDA kernels need NVRTC or nvcc to be compiled, and neither is there; install one.")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "packed.cubin"
        options = ["-std=c++17", f"-arch=sm_{capability}", "-cubin", *(["-Xptxas", "-v"] if verbose else [])]
        command = [nvcc, *options, *variant.definitions, "-o", str(path), str(SOURCE)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ClisonixError(f"nvcc could not compile {SOURCE.name} for sm_{capability}: {done.stderr.strip()}")
        return path.read_bytes(), done.stderr


def compile_nvrtc(variant: Variant, capability: str, library: ctypes.CDLL) -> bytes:
    """The machine code of `variant` for `sm_{capability}`, by NVRTC.

    Raises:
        ClisonixError: it refused.
    """
    options = [b"--std=c++17", f"--gpu-architecture=sm_{capability}".encode()]
    options += [definition.encode() for definition in variant.definitions]
    program = ctypes.c_void_p()
    source = SOURCE.read_bytes()
    library.nvrtcCreateProgram(ctypes.byref(program), source, SOURCE.name.encode(), 0, None, None)
    code = library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    size = ctypes.c_size_t()
    if code:
        library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        library.nvrtcGetProgramLog(program, log)
        library.nvrtcDestroyProgram(ctypes.byref(program))
        raise ClisonixError(f"NVRTC could not compile {SOURCE.name} for sm_{capability}: {log.value.decode()}")
    library.nvrtcGetCUBINSize(program, ctypes.byref(size))
    binary = ctypes.create_string_buffer(size.value)
    library.nvrtcGetCUBIN(program, binary)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return binary.raw


def find_nvrtc() -> ctypes.CDLL | None:
    """NVRTC as a package of NVIDIA or the system offers it."""
    package = find_spec("nvidia")
    folders = [Path(folder) for folder in (package.submodule_search_locations or ())] if package else []
    installed = [path for folder in folders for path in sorted(folder.rglob("libnvrtc.so.*"), reverse=True)]
    for path in installed:
        # NVRTC opens this library by its bare name, which only finds it when it is already loaded.
        for builtins in path.parent.glob("libnvrtc-builtins.so.*"):
            ctypes.CDLL(str(builtins))
    for name in (*map(str, installed), "libnvrtc.so.13", "libnvrtc.so.12"):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


@cache
def _function(variant: Variant, device: int) -> ctypes.c_void_p:
    capability = "{}{}".format(*torch.cuda.get_device_capability(device))
    library = find_nvrtc()
    binary = compile_nvrtc(variant, capability, library) if library else compile_nvcc(variant, capability)[0]
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    _check(_driver().cuModuleLoadData(ctypes.byref(module), binary), "loaded")
    _check(_driver().cuModuleGetFunction(ctypes.byref(function), module, b"packed_product"), "found")
    # 8 is CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES: more than 48 KiB must be asked for.
    shared = limits_of(torch.device("cuda", device)).shared_bytes
    _check(_driver().cuFuncSetAttribute(function, 8, shared), "given its shared memory")
    return function


def limits_of(device: torch.device) -> Limits:
    """The limits of a GPU.

    Raises:
        ClisonixError: it is older than compute capability 8.0, whose int8 tensor cores the kernel uses.
    """
    properties = torch.cuda.get_device_properties(device)
    if properties.major < 8:
        raise ClisonixError(
            f"The CUDA kernel needs compute capability 8.0; {properties.name} has {properties.major}."
            f'{properties.minor}, so use "triton" or "reference".'
        )
    granted = getattr(properties, "shared_memory_per_block_optin", 96 * 1024)
    return Limits(int(properties.multi_processor_count), min(SHARED_BYTES, int(granted)))


@cache
def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")


def _check(code: int, done: str) -> None:
    if code:
        text = ctypes.c_char_p()
        _driver().cuGetErrorString(code, ctypes.byref(text))
        reason = (text.value or b"no reason given").decode()
        raise RuntimeError(f"The kernel packed_product could not be {done}: {reason} (code {code}).")
