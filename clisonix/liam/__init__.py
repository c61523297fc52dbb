"""LIAM: low-rank, integer and masked matrices behind one small algebra."""

from clisonix.liam.algebra import BinaryAlgebra
from clisonix.liam.binary import Binary
from clisonix.liam.blockdiagonal import Batch, BlockDiagonal
from clisonix.liam.blocksparse import BlockSparse
from clisonix.liam.cat import Cat
from clisonix.liam.dense import Dense
from clisonix.liam.diagonal import Diagonal
from clisonix.liam.double_binary import double_binary
from clisonix.liam.factorize import Candidate, candidates, factorize
from clisonix.liam.integer import Integer, Ternary
from clisonix.liam.latent import LatentBinary, LatentTernary, pack, unpack
from clisonix.liam.lowrank import LowRank
from clisonix.liam.matrix import Matrix
from clisonix.liam.nodes import Product, Scaled, Sum, Transpose
from clisonix.liam.packed_lowrank import packed_lowrank
from clisonix.liam.permutation import Permutation
from clisonix.liam.semistructured import SemiSparse
from clisonix.liam.simplify import simplify
from clisonix.liam.slicing import Slice
from clisonix.liam.solve import solve
from clisonix.liam.sparse import Sparse
from clisonix.liam.svd import svd_compress, whitened_svd
from clisonix.liam.thin import recompress
from clisonix.liam.tiled import tile_

__all__ = [
    "Batch",
    "Binary",
    "BinaryAlgebra",
    "BlockDiagonal",
    "BlockSparse",
    "Candidate",
    "Cat",
    "Dense",
    "Diagonal",
    "Integer",
    "LatentBinary",
    "LatentTernary",
    "LowRank",
    "Matrix",
    "Permutation",
    "Product",
    "Scaled",
    "SemiSparse",
    "Slice",
    "Sparse",
    "Sum",
    "Ternary",
    "Transpose",
    "candidates",
    "double_binary",
    "factorize",
    "pack",
    "packed_lowrank",
    "recompress",
    "simplify",
    "solve",
    "svd_compress",
    "tile_",
    "unpack",
    "whitened_svd",
]
