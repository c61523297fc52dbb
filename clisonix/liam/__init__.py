"""LIAM: low-rank, integer and masked matrices behind one small algebra."""

from clisonix.liam.algebra import BinaryAlgebra
from clisonix.liam.binary import Binary
from clisonix.liam.dense import Dense
from clisonix.liam.diagonal import Diagonal
from clisonix.liam.integer import Integer, Ternary
from clisonix.liam.lowrank import LowRank
from clisonix.liam.matrix import Matrix
from clisonix.liam.nodes import Product, Scaled, Sum, Transpose
from clisonix.liam.sparse import Sparse
from clisonix.liam.svd import svd_compress, whitened_svd

__all__ = [
    "Binary",
    "BinaryAlgebra",
    "Dense",
    "Diagonal",
    "Integer",
    "LowRank",
    "Matrix",
    "Product",
    "Scaled",
    "Sparse",
    "Sum",
    "Ternary",
    "Transpose",
    "svd_compress",
    "whitened_svd",
]
