"""The Triton kernels without a GPU: their results in the interpreter, and their machine code for real devices."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from clisonix.errors import ClisonixError
from clisonix.kernels import gpu, gpu_blocks
from clisonix.kernels.planes import Layout

HERE = Path(__file__).parent
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="the package triton is not installed")


def run(script: Path, *arguments: str, **environment: str) -> str:
    """What a script prints, in a process of its own: the interpreter is chosen when a kernel is imported."""
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_triton
def test_packed_products_in_the_interpreter() -> None:
    """Values, gradients, graphs, memory bounds and the order of programs, against plain torch."""
    assert "checked 14" in run(HERE / "interpret_packed.py", TRITON_INTERPRET="1")


@needs_triton
def test_products_of_blocks_and_stacks_in_the_interpreter() -> None:
    assert "checked 15" in run(HERE / "interpret_blocks.py", TRITON_INTERPRET="1")


@needs_triton
def test_kernels_compile_for_gpus_without_spilling_and_reach_the_tensor_cores(tmp_path: Path) -> None:
    script = HERE.parents[1] / "scripts" / "bench" / "compile_kernels.py"
    lines = run(script, "--quick", "--json", TRITON_CACHE_DIR=str(tmp_path), TRITON_INTERPRET="0").splitlines()
    rows = [json.loads(line) for line in lines]
    kernels = {"rows_kernel", "columns_kernel", "add_kernel", "multiply_kernel", "symmetric_kernel"}
    assert {(row["kernel"], row["arch"]) for row in rows} >= {(k, "sm_90") for k in kernels}
    for row in rows:
        assert row["stack_bytes"] == 0, row
        # One vector, and sums of parts, have nothing for a tensor core to do.
        small = "1 rows" in row["product"] or row["kernel"] == "add_kernel"
        assert bool(row["tensor_cores"]) != small, row
        assert bool(row["loop_tensor_core"]) != small, row
    assert any(row["tensor_cores"] == "wgmma" for row in rows if row["arch"] == "sm_90")


def test_importing_the_operators_does_not_import_triton() -> None:
    code = "import clisonix.kernels.gpu_blocks, clisonix.kernels.newton_schulz, sys; print('triton' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_what_a_backend_cannot_do_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.zeros(2, 16)
    packed, scales, layout = torch.zeros(3, 2, dtype=torch.uint8), torch.ones(3), Layout(16, 16, 2, 1)
    thin = torch.zeros(1, 16), torch.zeros(3, 1)
    with pytest.raises(ClisonixError, match="did you mean 'triton'"):
        gpu.operators("trition", x)  # type: ignore[arg-type]
    with pytest.raises(ClisonixError, match="is unknown"):
        gpu.packed_lowrank_matmul(x, scales, packed, layout, *thin, backend="cuda")
    with pytest.raises(ClisonixError, match="16, 32 or 64"):
        gpu_blocks.BlockPlaces.of(torch.tensor([0, 0]), torch.tensor([], dtype=torch.long), (8, 8), 8)
    if find_spec("triton") is not None:
        with pytest.raises(ClisonixError, match=re.escape("was given torch.float64")):
            gpu.operators("triton", x.double())
        with pytest.raises(ClisonixError, match="a tensor on cpu; move it to a GPU"):
            gpu.operators("triton", x)
    monkeypatch.setattr("clisonix.kernels.gpu.find_spec", lambda name: None)
    with pytest.raises(ClisonixError, match="needs the package triton"):
        gpu.operators("triton", x)


def test_references_of_the_fused_products_are_the_dense_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    signs1 = torch.randn(5, 6, generator=generator) >= 0
    signs2 = torch.randn(6, 9, generator=generator) >= 0
    s1, s2 = 2.0 * signs1.double() - 1, 2.0 * signs2.double() - 1
    from clisonix.kernels.planes_reference import pack_bits

    x, a, b, c = (torch.randn(*s, generator=generator).double() for s in ((2, 9), (5,), (6,), (9,)))
    chain = a[:, None] * s1 * b @ s2 * c
    torch.testing.assert_close(gpu.double_binary(x, a, pack_bits(signs1), b, pack_bits(signs2), c), x @ chain.T)
    right, left = torch.randn(2, 9, generator=generator).double(), torch.randn(6, 2, generator=generator).double()
    dense = b[:, None] * s2 + left @ right
    ours = gpu.packed_lowrank_matmul(x, b, pack_bits(signs2), Layout(9, 9, 2, 1), right, left)
    torch.testing.assert_close(ours, x @ dense.T)
