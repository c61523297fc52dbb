"""An ONNX file computes what the compressed model does, or is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from compress_forms import MAKERS, matrices_for
from torch import Tensor, nn

from clisonix.compress import converted
from clisonix.compress.export import export_onnx, exportable
from clisonix.errors import ClisonixError


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.conv = nn.Embedding(20, 8), nn.Conv1d(8, 8, 3, padding=1)
        self.attention, self.linear = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 12)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.conv(self.embedding(tokens).mT).mT
        return self.linear(x + self.attention(x, x, x, need_weights=False)[0])


@pytest.mark.parametrize("maker", ["low rank", "integer", "low rank of integers", "double binary"])
@pytest.mark.filterwarnings("ignore")
def test_the_file_computes_what_the_model_does(maker: str, tmp_path: Path) -> None:
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    model = Small().eval()
    small = converted(model, matrices_for(model, maker))
    tokens = torch.randint(20, (2, 5))
    file = tmp_path / "deep" / "model.onnx"
    export_onnx(small, tokens, file)
    options = runtime.SessionOptions()
    # Beyond the basics the runtime multiplies quantised weights in 8 bits, which is another function.
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    [found] = session.run(None, {session.get_inputs()[0].name: tokens.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), small(tokens).detach(), rtol=1e-4, atol=1e-5)
    operators = {node.op_type for node in onnx.load(file).graph.node}
    assert ("DequantizeLinear" in operators) == (maker != "low rank")


@pytest.mark.parametrize("maker", sorted(MAKERS.keys() - {"sparse", "two of four", "sum"}))
def test_every_form_that_onnx_knows_is_the_same_matrix(maker: str) -> None:
    matrix = MAKERS[maker](torch.randn(9, 13))
    found = exportable(matrix)
    assert found.shape == matrix.shape
    assert found.dtype == matrix.dtype


@pytest.mark.parametrize(
    ("model", "maker", "message"),
    [
        (nn.Linear(8, 8), "sparse", r"'weight' cannot be exported as Sparse: .*export expand\(model\)"),
        (nn.Sequential(nn.Linear(8, 8)), "two of four", r"'0\.weight' cannot be exported as SemiSparse"),
        (nn.Sequential(nn.Linear(8, 8)), "sum", "no words for a Sparse"),
        (nn.Sequential(nn.GRU(8, 8)), "low rank", r"'0\.weight_ih_l0' .* recurrent layers with dense weights only"),
    ],
)
def test_what_onnx_cannot_say_is_refused_by_name(model: nn.Module, maker: str, message: str, tmp_path: Path) -> None:
    small = converted(model, matrices_for(model, maker))
    with pytest.raises(ClisonixError, match=message):
        export_onnx(small, torch.randn(2, 8), tmp_path / "never.onnx")
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> Any:
        return None

    monkeypatch.setattr("clisonix.compress.export.find_spec", nothing)
    with pytest.raises(ClisonixError, match=r"install clisonix\[onnx\]"):
        export_onnx(nn.Linear(3, 3), torch.randn(1, 3), tmp_path / "never.onnx")
