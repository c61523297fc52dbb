"""The layers of a compressed model: ordinary modules whose weights are matrices of the algebra."""

from clisonix.compress.layers.attention import LiamMultiheadAttention
from clisonix.compress.layers.base import LiamLayer, held_matrices
from clisonix.compress.layers.conv import Conv, LiamConv, pad_widths
from clisonix.compress.layers.embedding import LiamEmbedding
from clisonix.compress.layers.linear import LiamConv1D, LiamLinear
from clisonix.compress.layers.recurrent import LiamGRU, LiamLSTM

__all__ = [
    "Conv",
    "LiamConv",
    "LiamConv1D",
    "LiamEmbedding",
    "LiamGRU",
    "LiamLSTM",
    "LiamLayer",
    "LiamLinear",
    "LiamMultiheadAttention",
    "held_matrices",
    "pad_widths",
]
