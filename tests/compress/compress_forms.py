"""One of every form, matrices of them with random numbers, and models with a weight of every kind."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clisonix.compress import Form, survey
from clisonix.liam import Binary, Dense, Integer, Matrix, SemiSparse, Sparse, Ternary, double_binary, svd_compress

INTEGER = Form("integer", bits=3, group=5)
FORMS = [
    Form("dense"),
    Form("diagonal"),
    Form("lowrank", rank=3),
    Form("lowrank", rank=3, bits=4),
    Form("lowrank", rank=2, bits=8, group=2),
    Form("lowrank", rank=2, parts=(Form("transpose", parts=(INTEGER,)), Form("binary"))),
    INTEGER,
    Form("integer", bits=8, group=64),
    Form("ternary"),
    Form("binary"),
    Form("double binary", rank=11),
    Form("sparse", nnz=0),
    Form("sparse", nnz=12),
    Form("two of four"),
    Form("block sparse", nnz=2, block=(2, 4)),
    Form("latent binary"),
    Form("latent ternary"),
    Form("transpose", parts=(Form("sparse", nnz=4),)),
    Form("sum", parts=(Form("lowrank", rank=1), Form("sparse", nnz=3))),
    Form("product", inner=(4,), parts=(Form("binary"), INTEGER)),
]


def filled(form: Form, shape: tuple[int, int], dtype: torch.dtype = torch.float32, seed: int = 0) -> Matrix:
    """A matrix of `form` with random floats and random bits; its places are those of an empty one."""
    matrix = form.empty(shape, dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in matrix.state_dict(keep_vars=True).items():
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
            elif name.endswith(("planes", "packed")):
                tensor.copy_(torch.randint(256, tensor.shape, generator=generator, dtype=torch.uint8))
    return matrix


# Ways from a weight to a matrix of some form near it.
MAKERS = {
    "dense": Dense,
    "low rank": lambda w: svd_compress(w, k=max(1, min(w.shape) // 2)),
    "low rank of integers": lambda w: svd_compress(w, k=max(1, min(w.shape) // 2)).quantize(6),
    "integer": lambda w: Integer.rounded(w, 5, 8),
    "ternary": Ternary.nearest,
    "binary": Binary.nearest,
    "double binary": lambda w: double_binary(w, rank=9, iterations=2),
    "sparse": lambda w: Sparse.largest(w, 0.4),
    "two of four": SemiSparse.nearest,
    "sum": lambda w: svd_compress(w, k=1) + Sparse.largest(w, 0.2),
    "half": lambda w: Integer.rounded(w, 5, 8).half(),
    "low rank in half": lambda w: svd_compress(w, k=max(1, min(w.shape) // 2)).bfloat16(),
}


def matrices_for(model: nn.Module, maker: str) -> dict[str, Matrix]:
    """A matrix for every weight of `model` that can be one."""
    return {s.name: MAKERS[maker](s.weight.contiguous()) for s in survey(model) if s.reason is None}


class Everything(nn.Module):
    """Every kind of layer that can be compressed, some of them tied, and some that cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, 16, padding_idx=0)
        layer = nn.TransformerEncoderLayer(16, 4, 24, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(16))
        self.lstm = nn.LSTM(16, 12, num_layers=2, bidirectional=True, batch_first=True, proj_size=7)
        self.gru = nn.GRU(14, 10)
        self.conv = nn.Conv1d(10, 16, 3, padding=1)
        self.attention = nn.MultiheadAttention(16, 2, kdim=10, vdim=6)
        self.position = nn.Parameter(torch.randn(1, 7, 16))
        self.grouped = nn.Conv1d(16, 16, 3, padding="same", groups=4)
        self.head = nn.Linear(16, 30, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.encoder(self.embedding(tokens) + self.position, src_key_padding_mask=tokens == 1)
        y = self.gru(self.lstm(x)[0])[0]
        x = self.attention(self.conv(y.mT).mT, y, y[..., :6], need_weights=False)[0]
        return self.head(self.grouped(x.mT).mT)


def everything() -> tuple[Everything, Tensor]:
    """The model in eval mode and tokens for it, some of them padding."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        tokens = torch.randint(2, 30, (5, 7))
        tokens[0, 5:] = 1
        return Everything().eval(), tokens
