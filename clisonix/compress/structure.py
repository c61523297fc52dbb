"""The form of a matrix, read off its types and sizes."""

from __future__ import annotations

from clisonix.compress.forms import KINDS, Form
from clisonix.errors import ClisonixError
from clisonix.liam.binary import Binary
from clisonix.liam.blocksparse import BlockSparse
from clisonix.liam.dense import Dense
from clisonix.liam.diagonal import Diagonal
from clisonix.liam.integer import Integer, Ternary
from clisonix.liam.latent import LatentBinary, LatentTernary
from clisonix.liam.lowrank import LowRank
from clisonix.liam.matrix import Matrix
from clisonix.liam.nodes import Product, Sum, Transpose, matrices
from clisonix.liam.semistructured import SemiSparse
from clisonix.liam.sparse import Sparse


def structure_of(matrix: Matrix) -> Form:
    match matrix:
        case Ternary():
            return Form("ternary")
        case Integer():
            return Form("integer", bits=matrix.bits, group=matrix.group)
        case Binary():
            return Form("binary")
        case Dense():
            return Form("dense")
        case Diagonal():
            return Form("diagonal")
        case LatentBinary():
            return Form("latent binary")
        case LatentTernary():
            return Form("latent ternary")
        case LowRank():
            return _lowrank(matrix)
        case Sparse():
            return Form("sparse", nnz=matrix.values.shape[0])
        case SemiSparse():
            return Form("two of four")
        case BlockSparse():
            return Form("block sparse", nnz=matrix.values.shape[0], block=matrix.block)
        case Transpose():
            return Form("transpose", parts=(structure_of(matrix.T),))
        case Sum():
            return Form("sum", parts=tuple(structure_of(term) for term in matrices(matrix.terms)))
        case Product():
            factors = matrices(matrix.factors)
            if [type(factor) for factor in factors] == [Binary, Binary, Diagonal]:
                return Form("double binary", rank=factors[1].shape[0])
            inner = tuple(factor.shape[0] for factor in factors[1:])
            return Form("product", inner=inner, parts=tuple(structure_of(factor) for factor in factors))
    raise ClisonixError(
        f"a {type(matrix).__name__} has no form that a file can name; give it as one of {', '.join(KINDS)}"
    )


def _lowrank(matrix: LowRank) -> Form:
    if not matrix.packed:
        return Form("lowrank", rank=matrix.rank)
    left, right = matrix.factors
    if type(left) is Integer and type(right) is Integer and left.bits == right.bits:
        if (left.group, right.group) == (left.columns, right.columns):
            return Form("lowrank", rank=matrix.rank, bits=left.bits)
        if left.group == right.group:
            return Form("lowrank", rank=matrix.rank, bits=left.bits, group=left.group)
    return Form("lowrank", rank=matrix.rank, parts=(structure_of(left), structure_of(right)))
