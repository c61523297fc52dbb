"""No product with packed weights holds more than a little beside the packed weights, its input and its output."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from clisonix.kernels import cpu

MISSING = cpu.load("packed").missing
MEASURE = """
import re, sys, torch
from pathlib import Path
from clisonix.kernels.planes import Layout, packed_matmul, packed_matmul_t
from clisonix.kernels.planes import AUTO, REFERENCE

backend, operation, batch, bits, dtype = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
torch.set_num_threads(2)
operators = {"cpu": AUTO, "reference": REFERENCE}[backend]

def prepare(n, batch):
    x = torch.ones(batch, n, dtype=getattr(torch, dtype))
    return x, torch.ones(n, dtype=x.dtype), torch.full((bits, n, n // 8), 0x5A, dtype=torch.uint8)

def run(x, scales, planes):
    layout = (x.shape[1], x.shape[1], 1, 1)
    if operation == "scale_sums":
        return operators.scale_sums(x, x, planes, *layout)
    return getattr(operators, operation)(x, scales[:, None], planes, *layout)

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

with torch.inference_mode():
    x, scales, planes = prepare(8192, batch)
    run(x, scales, planes)  # what is made once and stays, as the buffers of the library that multiplies
    Path("/proc/self/clear_refs").write_text("5")  # the peak becomes what is used now
    before = peak()
    y = run(x, scales, planes)
    held = x.nbytes + scales.nbytes + planes.nbytes + y.nbytes
    print((peak() - before - y.nbytes) / held)
"""


def extra(backend: str, operation: str, batch: int, bits: int, dtype: str = "float32") -> float:
    """What a product needs at its peak beside what it is given and gives, as a fraction of that."""
    command = [sys.executable, "-c", MEASURE, backend, operation, str(batch), str(bits), dtype]
    # Freed memory goes back at once, so that what a second run needs is seen again.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(result.stdout)


linux = pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")


@linux
@pytest.mark.skipif(MISSING is not None, reason=f"no C++ kernels: {MISSING}")
@pytest.mark.parametrize(
    ("operation", "batch", "bits", "dtype"),
    [("matmul", 1, 1, "float32"), ("matmul_t", 64, 4, "float32"), ("scale_sums", 64, 2, "bfloat16")],
)
def test_the_kernels_need_a_twentieth_more(operation: str, batch: int, bits: int, dtype: str) -> None:
    assert extra("cpu", operation, batch, bits, dtype) < 0.05


@linux
@pytest.mark.skipif(MISSING is not None, reason=f"no C++ kernels: {MISSING}")
@pytest.mark.parametrize("batch", [385, 768])
def test_what_is_unpacked_for_many_rows_takes_a_quarter_at_most(batch: int) -> None:
    assert extra("cpu", "matmul", batch, 2) < 0.25


@linux
@pytest.mark.parametrize(
    ("operation", "batch", "dtype"),
    [("matmul", 1, "float32"), ("matmul_t", 64, "bfloat16"), ("scale_sums", 16, "float32")],
)
def test_the_reference_needs_a_quarter_more(operation: str, batch: int, dtype: str) -> None:
    assert extra("reference", operation, batch, 1, dtype) < 0.25
