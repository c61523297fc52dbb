"""The state of a recipe during a run: how long it is, how fast it learns, what a step looks at."""

from __future__ import annotations

import math
from typing import Any

from clisonix.train.config import RunConfig, TrainConfig
from clisonix.train.recipe.stopping import NoFurtherGain, epochs_with_cooldown


class Pace:
    """Schedules of one run, with or without a recipe. Everything that a checkpoint must hold is in `state_dict`.

    Attributes:
        epochs: of the whole run, as far as is known.
        bf16: whether autocast was chosen by measurement; None until it was.
        bf16_gain: how many times faster it was.
    """

    def __init__(self, config: RunConfig, steps_per_epoch: int) -> None:
        self._train, self._recipe, self._per_epoch = config.train, config.recipe, steps_per_epoch
        self.epochs = config.train.epochs
        self.bf16: bool | None = None
        self.bf16_gain: float | None = None
        stop = config.recipe.stop if config.recipe else None
        self._stop = stop if stop and stop.use else None
        self.test = NoFurtherGain(self._stop.gain, self._stop.alpha) if self._stop else None
        self._cooldown_from = self.steps
        if self._stop:
            self._cooldown_from = round(self.steps * (1 - self._stop.cooldown))
        self._stopped_after: int | None = None

    @property
    def steps(self) -> int:
        """Steps of the whole run, as far as is known."""
        return self.epochs * self._per_epoch

    @property
    def cooling(self) -> bool:
        """Whether the end of the run is settled."""
        return self._stopped_after is not None

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then half a cosine down to 0; with early stop level, then straight down to 0."""
        train = self._train
        # Of the longest run: the warm-up is over before anybody knows how long this one will be.
        longest = train.epochs * self._per_epoch
        rate = train.learning_rate * min(1.0, (step + 1) / max(1.0, train.warmup * longest))
        if self._stop is None:
            return rate * 0.5 * (1 + math.cos(math.pi * step / self.steps))
        if step < self._cooldown_from:
            return rate
        return rate * (self.steps - step) / (self.steps - self._cooldown_from)

    def sampling(self, step: int) -> tuple[float, float]:
        """Share of the tokens that this step looks at, and share of the window that they are drawn from."""
        if self._recipe is None:
            return 1.0, 1.0
        tokens, lengths, done = self._recipe.tokens, self._recipe.lengths, step / self.steps
        keep = tokens.keep if tokens.use and done < tokens.until else 1.0
        span = 1.0
        if lengths.use and done < lengths.until:
            level = math.floor(done / lengths.until * lengths.levels)
            span = lengths.start + (1 - lengths.start) * level / lengths.levels
        return keep, span

    def look(self, epoch: int, loss: float) -> str | None:
        """Take the validation loss after `epoch` epochs into account.

        Returns:
            a sentence if the end of the run has been settled by it.
        """
        if self.test is None or self._stop is None or self.cooling or epoch * self._per_epoch >= self._cooldown_from:
            return None
        if not self.test.look(loss):
            return None
        self._stopped_after = epoch
        self.epochs = epochs_with_cooldown(epoch, self._stop.cooldown, self.epochs)
        self._cooldown_from = epoch * self._per_epoch
        return f"no further gain after epoch {epoch}: cooling down, {self.epochs} epochs in all"

    def notes(self, parameters: tuple[int, int] | None) -> list[str]:
        """What the recipe has done, for the record; `parameters` of the dense and of the factorised model."""
        recipe = self._recipe
        if recipe is None:
            return []
        said = []
        if recipe.factors.use and parameters is not None:
            said.append(f"factors ({parameters[0]:,} to {parameters[1]:,} parameters)")
        if recipe.optimizer.use:
            said.append(f"optimizer (spectral, {recipe.optimizer.state_bits}-bit state)")
        if recipe.tokens.use:
            said.append(f"tokens (a share of {recipe.tokens.keep:g} up to {recipe.tokens.until:g} of the steps)")
        if recipe.lengths.use:
            said.append(f"lengths (from {recipe.lengths.start:g}, whole from {recipe.lengths.until:g} of the steps)")
        if self._stop:
            after = self._stopped_after
            how = (
                "ran to the end" if after is None else f"no further gain after epoch {after} of {self._train.epochs}"
            )
            said.append(f"stop ({how})")
        if recipe.precision.use and self.bf16_gain is not None:
            chosen = "bf16" if self.bf16 else "float32"
            said.append(f"precision ({chosen}: bf16 was {self.bf16_gain:.2f} times as fast)")
        parts = ("factors", "optimizer", "tokens", "lengths", "stop", "precision")
        off = [part for part in parts if not getattr(recipe, part).use]
        return [
            f"recipe {recipe.name}: {', '.join(said) or 'no part'} on; {', '.join(off) or 'none'} off",
        ]

    def state_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "epochs": self.epochs,
            "cooldown_from": self._cooldown_from,
            "stopped_after": self._stopped_after,
            "bf16": self.bf16,
            "bf16_gain": self.bf16_gain,
            "test": self.test.state_dict() if self.test else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.epochs, self._cooldown_from = state["epochs"], state["cooldown_from"]
        self._stopped_after, self.bf16, self.bf16_gain = state["stopped_after"], state["bf16"], state["bf16_gain"]
        if self.test:
            self.test.load_state_dict(state["test"])


def effective(config: RunConfig) -> TrainConfig:
    """The section `train` with what the recipe puts in its place."""
    recipe = config.recipe
    if recipe is None or not recipe.optimizer.use:
        return config.train
    return config.train.model_copy(update={"optimizer": "spectral", "state_bits": recipe.optimizer.state_bits})
