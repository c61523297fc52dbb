"""Compile every GPU kernel for sm_80 and sm_90, without a GPU, and say what the machine code uses.

The launchers are called with tensors that have shapes but no data, on a stand-in for the driver, so that exactly what
a GPU would run is compiled: registers and stack of a thread (a stack means that registers spilled), shared memory of
a program, instructions of the main loop, and whether that reaches the tensor cores. The CUDA sources need `nvcc`.

    python scripts/bench/compile_kernels.py [--quick] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from clisonix.kernels import bsr_triton, cuda, lowrank_triton, newton_schulz_triton
from clisonix.kernels import planes_launch_triton as launch
from clisonix.kernels.planes_triton import Device, Packed

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
MULTIPROCESSORS = {80: 108, 90: 132}
MODULES = (launch, lowrank_triton, bsr_triton, newton_schulz_triton)
Row = dict[str, Any]


class Driver:
    """What Triton asks of a driver before it compiles."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return self.target.arch  # kernels are kept by device, so each target is one

    def get_current_stream(self, device: int) -> int:
        return 0


@contextlib.contextmanager
def compiling(capability: int) -> Iterator[list[Any]]:
    """Launches compile for `capability` and run nothing; yields what was compiled."""
    compiled: list[Any] = []
    run, devices = JITFunction.run, [module.device_of for module in MODULES]

    def only_compile(self: object, *args: object, warmup: bool = False, **kwargs: object) -> object:
        compiled.append(run(self, *args, warmup=True, **kwargs))
        return compiled[-1]

    triton.runtime.driver.set_active(Driver(capability))
    JITFunction.run = only_compile
    for module in MODULES:
        module.device_of = lambda tensor: Device(capability, MULTIPROCESSORS[capability])
    try:
        yield compiled
    finally:
        JITFunction.run = run
        for module, device_of in zip(MODULES, devices, strict=True):
            module.device_of = device_of


def empty(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def packed(bits: int, group: int, dtype: torch.dtype, size: int = 16384) -> Packed:
    planes = empty(bits, size, size // 8, dtype=torch.uint8)
    step, offset = (2, 1) if bits == 1 else (1, 1 << (bits - 1))
    return Packed(planes, empty(size, size // group, dtype=dtype), size, group, step, offset)


def products(dtype: torch.dtype) -> dict[str, Callable[[], object]]:
    """Every kind of launch, by name, on a matrix of 16384 rows and columns."""
    n = 16384
    x = {batch: empty(batch, n, dtype=dtype) for batch in (1, 8, 32, 64, 512)}
    signs, ternary = packed(1, n, dtype), packed(2, n, dtype)
    vector, bytes_of = empty(n, dtype=dtype), empty(n, n // 8, dtype=torch.uint8)
    thin, tall = empty(64, n, dtype=dtype), empty(n, 64, dtype=dtype)
    index, blocks = empty(1025, dtype=torch.int32), {b: empty(1024, b, b, dtype=dtype) for b in (16, 32, 64)}
    stack = empty(100, 512, 2048, dtype=dtype)
    square = empty(100, 512, 512, dtype=dtype)

    def lowrank(batch: int) -> None:
        lowrank_triton.launch(x[batch], thin, tall, empty(batch, n, dtype=dtype))

    def fused(batch: int, overlap: bool) -> None:
        inner = lowrank_triton.inner_parts(x[batch], thin, signal=overlap)
        launch.matmul(x[batch], ternary, inner=inner, left=tall, overlap=overlap)

    calls: dict[str, Callable[[], object]] = {}
    for batch in (1, 8, 32, 64):
        calls[f"signs, {batch} rows"] = lambda b=batch: launch.matmul(x[b], signs)
        calls[f"2 bits, {batch} rows"] = lambda b=batch: launch.matmul(x[b], ternary)
    for batch in (1, 8):
        calls[f"4 bits in groups of 64, {batch} rows"] = lambda b=batch: launch.matmul(x[b], packed(4, 64, dtype))
        calls[f"chain, {batch} rows"] = lambda b=batch: launch.double_binary(
            x[b], vector, bytes_of, vector, bytes_of, vector
        )
        calls[f"2 bits + low rank, {batch} rows"] = lambda b=batch: fused(b, False)
    for batch in (8, 64):
        calls[f"transposed signs, {batch} rows"] = lambda b=batch: launch.matmul_t(x[b], signs)
        calls[f"transposed 2 bits, {batch} rows"] = lambda b=batch: launch.matmul_t(x[b], ternary)
    calls["scale sums, 4 bits"] = lambda: launch.scale_sums(x[64], x[64], packed(4, 64, dtype))
    for batch in (1, 8, 512):
        calls[f"low rank, {batch} rows"] = lambda b=batch: lowrank(b)
    for b in (16, 32, 64):
        calls[f"blocks of {b}"] = lambda b=b: bsr_triton.multiply(x[64], blocks[b], index, index, None, n)
        calls[f"blocks of {b}, transposed"] = lambda b=b: bsr_triton.multiply(
            x[64], blocks[b], index, index, index, n
        )
        calls[f"blocks of {b}, sampled"] = lambda b=b: bsr_triton.sample(x[64], x[64], index, index, b)
    for m in (64, 256, 512):
        calls[f"symmetric, {m} rows"] = lambda m=m: newton_schulz_triton.launch(
            stack[:, :m], None, square[:, :m, :m], 1.0, 0.0
        )
    calls["symmetric + c, 512 rows"] = lambda: newton_schulz_triton.launch(square, square, square, 2.0, -4.8)
    calls["2 bits + low rank, 8 rows, overlapped"] = lambda: fused(8, True)
    return calls


# One launch of each kind, on Hopper, and one of them on its predecessor.
QUICK = {
    80: ("2 bits, 32 rows",),
    90: ("2 bits, 32 rows", "signs, 1 rows", "transposed signs, 8 rows", "blocks of 32", "symmetric + c, 512 rows"),
}
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def triton_rows(quick: bool) -> Iterator[Row]:
    for capability in MULTIPROCESSORS:
        for name, dtype in DTYPES.items():
            if quick and name != "bf16":
                continue
            for label, call in products(dtype).items():
                # Only Hopper can start a kernel while the one before it runs.
                if (quick and label not in QUICK[capability]) or ("overlapped" in label and capability < 90):
                    continue
                with compiling(capability) as compiled:
                    call()
                for kernel in compiled:
                    ptx = kernel.asm["ptx"]
                    yield {
                        "product": label,
                        "kernel": kernel.metadata.name,
                        "arch": f"sm_{capability}",
                        "dtype": name,
                        **usage(kernel.asm["cubin"]),
                        "shared_bytes": kernel.metadata.shared,
                        "tensor_cores": "wgmma" if "wgmma.mma" in ptx else "mma" if "mma.sync" in ptx else "",
                        "waits": "griddepcontrol" in ptx,
                    }


def cuda_rows(quick: bool) -> Iterator[Row]:
    if quick or shutil.which("nvcc") is None:
        return
    for capability in MULTIPROCESSORS:
        for (planes, tiles), threads in cuda.THREADS.items():
            for align in (16, 4, 1):
                variant = cuda.Variant(planes, tiles, align)
                binary, said = cuda.compile_nvcc(variant, str(capability), verbose=True)
                spilled = [int(count) for count in re.findall(r"(\d+) bytes spill", said)]
                yield {
                    "product": f"{planes} bits, {8 * tiles // 3} rows, aligned to {align}",
                    "kernel": "packed_product",
                    "arch": f"sm_{capability}",
                    "dtype": "any",
                    **usage(binary),
                    "spilled_bytes": sum(spilled),
                    "threads": threads,
                }


def usage(binary: bytes) -> Row:
    """Registers and stack bytes of a thread, and the instructions of the main loop."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        resources = _tool("cuobjdump", "-res-usage", file.name)
        code = _tool("nvdisasm", "-c", file.name)
    found = re.search(r"REG:(\d+) STACK:(\d+)", resources)
    assert found is not None, resources
    loop, tensor = main_loop(code)
    return {
        "registers": int(found[1]),
        "stack_bytes": int(found[2]),
        "loop_instructions": len(loop),
        "loop_tensor_core": tensor,
    }


def main_loop(code: str) -> tuple[list[str], int]:
    """The smallest loop with the most tensor-core instructions, or the longest if none has any, and their number."""
    labels: dict[str, int] = {}
    instructions: list[str] = []
    loops: list[list[str]] = [[]]
    for line in code.splitlines():
        if found := re.match(r"(\.L\w+):", line.strip()):
            labels[found[1]] = len(instructions)
        elif found := re.match(r"\s+/\*[0-9a-f]+\*/\s+(.*?);", line):
            instructions.append(found[1])
            back = re.search(r"BRA.*`\((\.L\w+)\)", found[1])
            if back and back[1] in labels:
                loops.append(instructions[labels[back[1]] :])

    def tensor(loop: list[str]) -> int:
        return sum(bool(re.search(r"\b(HMMA|HGMMA|IMMA|IGMMA)\b", line)) for line in loop)

    most = max(map(tensor, loops))
    chosen = min((loop for loop in loops if tensor(loop) == most), key=len) if most else max(loops, key=len)
    return chosen, most


def _tool(name: str, *arguments: str) -> str:
    return subprocess.run([str(TOOLS / name), *arguments], capture_output=True, text=True, check=True).stdout


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="some launches in bfloat16, and Triton only")
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of a table")
    chosen = parser.parse_args(arguments)
    for rows in (triton_rows(chosen.quick), cuda_rows(chosen.quick)):
        for row in rows:
            if chosen.json:
                print(json.dumps(row), flush=True)
            else:
                what = f"{row['arch']} {row['dtype']:4} {row['kernel']:18} {row['product']:38}"
                uses = (
                    f"{row['registers']:4} registers {row['stack_bytes']:4} B stack loop {row['loop_instructions']:5}"
                )
                tensor = f"tensor cores {row['loop_tensor_core']:3} {row.get('tensor_cores', '')}"
                print(what, uses, tensor, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
