"""A compressed model as ONNX, weight by weight in the form it has, as far as ONNX has words for it.

>>> import torch
>>> from clisonix.compress.export import exportable
>>> from clisonix.liam import Binary
>>> exportable(Binary.nearest(torch.randn(4, 6))).codes.dtype
torch.int8
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clisonix.compress.convert import copied
from clisonix.compress.layers import LiamGRU, LiamLSTM, held_matrices
from clisonix.errors import ClisonixError
from clisonix.files import write_atomic
from clisonix.kernels.binary import unpack_signs
from clisonix.kernels.integer import unpack_codes
from clisonix.liam.binary import Binary
from clisonix.liam.dense import Dense
from clisonix.liam.diagonal import Diagonal
from clisonix.liam.integer import Integer
from clisonix.liam.lowrank import LowRank
from clisonix.liam.matrix import Matrix
from clisonix.liam.nodes import Product, Sum, Transpose, matrices

# The first with scales for blocks of an axis.
OPSET = 21


def export_onnx(
    model: nn.Module,
    example: Any,  # noqa: ANN401 - whatever the model takes
    path: str | Path,
    *,
    dynamic_shapes: Any = None,  # noqa: ANN401 - as torch.onnx.export takes them
) -> None:
    """Write `model` as an ONNX file that computes the same.

    Low rank becomes two products. Integers, signs and three levels become int8 weights behind a `DequantizeLinear`,
    so that 8 bits are stored for each, also where this library packs fewer. A runtime may round more than the file
    says: onnxruntime beyond `ORT_ENABLE_BASIC` multiplies such weights in 8 bits.

    Args:
        model: compressed or not; exported as in `eval()`.
        example: of its inputs: a tensor, a tuple or list of arguments, or a dict of named ones.
        path: of the file; its folder is made if need be.
        dynamic_shapes: which sizes may change, as `torch.onnx.export` takes them; none by default.

    Raises:
        ClisonixError: a weight whose form ONNX cannot express, a package that is missing (`clisonix[onnx]`), or a
            model that torch cannot export.
    """
    for package in ("onnx", "onnxscript"):
        if find_spec(package) is None:
            raise ClisonixError(f"ONNX export needs the package {package}; install clisonix[onnx]")
    args, kwargs = _inputs(example)
    written = _exportable_model(getattr(model, "_orig_mod", model)).eval()
    try:
        with torch.no_grad():
            program = torch.onnx.export(
                written,
                args,
                kwargs=kwargs,
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=dynamic_shapes,
                # Folding would turn packed weights back into floats.
                optimize=False,
                verbose=False,
            )
    except Exception as error:
        raise ClisonixError(f"torch cannot export this model to ONNX: {_first_line(error)}") from error
    assert program is not None

    write_atomic(Path(path), lambda temporary: program.save(str(temporary), external_data=False))


class Dequantised(Dense):
    """Whole numbers times scales, as ONNX writes them: a dense matrix whose entries are computed when asked for.

    Only for export: outside of it torch computes nothing for the operator.

    Args:
        codes: int8 `(m, n)`.
        scales: `(m,)`, or `(m, ceil(n / group))`.
        group: columns that share a scale, 0 for one scale a row.
    """

    codes: Tensor
    scales: Tensor

    def __init__(self, codes: Tensor, scales: Tensor, group: int) -> None:
        Matrix.__init__(self)
        self.register_buffer("codes", codes.contiguous())
        self.register_buffer("scales", scales.detach().contiguous())
        self.group = group

    @property
    def shape(self) -> tuple[int, int]:
        return self.codes.shape[0], self.codes.shape[1]

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The entries `(m, n)`."""
        attributes: dict[str, Any] = {"axis": 1, "block_size": self.group} if self.group else {"axis": 0}
        entries: Tensor = torch.onnx.ops.symbolic(
            "DequantizeLinear",
            (self.codes, self.scales),
            attributes,
            dtype=self.scales.dtype,
            shape=self.shape,
            version=OPSET,
        )
        return entries


def exportable(matrix: Matrix) -> Matrix:
    """The same matrix in terms that ONNX has.

    Raises:
        ClisonixError: it has none.
    """
    match matrix:
        case Dense() | Diagonal():
            return matrix
        case Integer():
            codes = (unpack_codes(matrix.by_row(), matrix.columns).short() - matrix.offset).to(torch.int8)
            if matrix.group >= matrix.columns:
                return Dequantised(codes, matrix.scales.flatten(), 0)
            return Dequantised(codes, matrix.scales, matrix.group)
        case Binary():
            return Dequantised(unpack_signs(matrix.by_row(), matrix.columns).to(torch.int8), matrix.scales, 0)
        case LowRank() if matrix.packed:
            return LowRank(*map(exportable, matrix.factors))
        case LowRank():
            return matrix
        case Transpose():
            return exportable(matrix.T).T
        case Product():
            return Product(*map(exportable, matrices(matrix.factors)))
        case Sum():
            return Sum(*map(exportable, matrices(matrix.terms)))
    raise ClisonixError(f"ONNX has no words for a {type(matrix).__name__}")


def _exportable_model(model: nn.Module) -> nn.Module:
    memo: dict[int, Any] = {}
    for name, module in model.named_modules():
        for weight, matrix in held_matrices(module):
            whole = f"{name}.{weight}" if name else weight
            try:
                if isinstance(module, LiamLSTM | LiamGRU):
                    raise ClisonixError("ONNX has recurrent layers with dense weights only")
                found = exportable(matrix)
            except ClisonixError as error:
                raise ClisonixError(
                    f"{whole!r} cannot be exported as {type(matrix).__name__}: {error}; give it another form, or "
                    "export expand(model)"
                ) from None
            if found is not matrix:
                memo[id(matrix)] = found
    return copied(model, memo)


def _inputs(example: Any) -> tuple[tuple[Any, ...], dict[str, Any] | None]:  # noqa: ANN401
    if isinstance(example, Mapping):
        return (), dict(example)
    return (tuple(example), None) if isinstance(example, tuple | list) else ((example,), None)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
