"""The fused low-rank product against two plain products."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from clisonix.errors import ClisonixError
from clisonix.kernels.lowrank import lowrank_matmul


def operands(m: int, n: int, r: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = ((2, 3, n), (r, n), (m, r))
    x, right, left = (torch.randn(*s, generator=generator, dtype=torch.float64) for s in sizes)
    return x, right, left


def test_the_default_is_the_product_with_the_dense_matrix() -> None:
    x, right, left = operands(5, 7, 3)
    torch.testing.assert_close(lowrank_matmul(x, right, left), x @ (left @ right).T)


def test_what_a_backend_cannot_do_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    x, right, left = operands(5, 7, 3)
    with pytest.raises(ClisonixError, match="did you mean 'triton'"):
        lowrank_matmul(x, right, left, backend="trition")  # type: ignore[arg-type]
    monkeypatch.setattr("clisonix.kernels.lowrank.find_spec", lambda name: None)
    with pytest.raises(ClisonixError, match="needs the package triton"):
        lowrank_matmul(x, right, left, backend="triton")
    monkeypatch.setattr("clisonix.kernels.lowrank.find_spec", lambda name: object())
    with pytest.raises(ClisonixError, match="three of float16"):
        lowrank_matmul(x, right, left, backend="triton")
    x, right, left = (t.float() for t in operands(5, 7, 257))
    with pytest.raises(ClisonixError, match="ranks up to 256, not 257"):
        lowrank_matmul(x, right, left, backend="triton")


def test_importing_the_kernel_does_not_import_triton() -> None:
    code = (
        "import clisonix.kernels.lowrank, clisonix.liam, sys; print('clisonix.kernels.lowrank_triton' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


@pytest.mark.skipif(find_spec("triton") is None, reason="the package triton is not installed")
def test_the_triton_kernel_in_the_interpreter() -> None:
    """Values, gradients, compiled graphs and memory bounds; in a process of its own, as the
    interpreter is chosen by an environment variable when the kernel is imported."""
    script = Path(__file__).with_name("interpret_lowrank.py")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    result = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "checked 22" in result.stdout
