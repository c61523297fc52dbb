"""Training: a config in, a run folder out; and the optimiser for any other loop."""

from clisonix.train.config import RunConfig, load_config
from clisonix.train.loop import Progress, train
from clisonix.train.optim import Spectral

__all__ = ["Progress", "RunConfig", "Spectral", "load_config", "train"]
