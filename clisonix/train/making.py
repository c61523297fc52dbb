"""The optimiser that a config asks for."""

from __future__ import annotations

import torch
from torch import nn

from clisonix.train.config import TrainConfig
from clisonix.train.optim import Spectral


def make_optimiser(model: nn.Module, train: TrainConfig) -> torch.optim.Optimizer:
    """`train.optimizer` for the parameters of a model, without decay of vectors."""
    betas = (0.9, train.beta2)
    if train.optimizer == "spectral":
        # `Health` has looked at the gradients before.
        return Spectral(
            model,
            lr=train.learning_rate,
            weight_decay=train.weight_decay,
            betas=betas,
            state_bits=train.state_bits,
            nonfinite="ignore",
        )
    matrices = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": train.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=train.learning_rate, betas=betas)
