"""Training: a config in, a run folder out."""

from clisonix.train.config import RunConfig, load_config
from clisonix.train.loop import Progress, train

__all__ = ["Progress", "RunConfig", "load_config", "train"]
