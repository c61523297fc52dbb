"""Optimisers: orthogonalised momentum for matrices, AdamW for the rest."""

from clisonix.train.optim.groups import parameter_groups
from clisonix.train.optim.spectral import Spectral

__all__ = ["Spectral", "parameter_groups"]
