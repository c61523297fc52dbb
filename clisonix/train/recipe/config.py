"""The section `recipe` of a config: which parts of the green recipe are on, and how."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from clisonix.errors import nearest
from clisonix.train.data_config import Strict

NAMES = ("green",)


def _switch(value: Any) -> Any:  # noqa: ANN401 - what YAML holds
    """`true` and `false` in place of a section switch a part on and off."""
    return {"use": value} if isinstance(value, bool) else value


class _Part(Strict):
    """A part of the recipe; `use: false`, or `false` in place of the section, leaves it out."""

    use: bool = True


class FactorsPart(_Part):
    """Weights are products of two thin factors from the first step, at most `budget` of the dense weights' bytes.

    Off unless asked for: it makes the model small, and costs accuracy.

    `init`: `spectral` takes the leading singular triples of a dense random weight, at the size it had; `random`
    draws both factors.
    """

    budget: float = Field(default=0.25, gt=0, le=1)
    init: Literal["spectral", "random"] = "spectral"


class OptimizerPart(_Part):
    """`Spectral` in place of `train.optimizer`; `state_bits: 8` keeps its state in a byte an entry."""

    state_bits: Literal[8, 32] = 32


class TokensPart(_Part):
    """A step looks at the share `keep` of each modality's tokens; from the share `until` of the steps on, at all."""

    keep: float = Field(default=0.5, gt=0, le=1)
    until: float = Field(default=0.9, ge=0, le=1)


class LengthsPart(_Part):
    """Windows begin at the share `start` of their length and are whole from the share `until` of the steps on.

    In between they grow in `levels` stages. Off unless asked for.
    """

    start: float = Field(default=0.6, gt=0, le=1)
    until: float = Field(default=0.4, ge=0, le=1)
    levels: int = Field(default=2, ge=1)


class StopPart(_Part):
    """The learning rate stays up until a test finds no further gain, then falls to 0 and the run ends.

    `validation`: share of the training recordings that is held out for the test; `gain`: what an epoch must be
    expected to lower the loss by, relative to it; `alpha`: odds of stopping while it does; `cooldown`: share of the
    run in which the rate falls. `train.epochs` is the most that is run.
    """

    validation: float = Field(default=0.1, gt=0, lt=0.5)
    gain: float = Field(default=0.02, gt=0, lt=0.5)
    alpha: float = Field(default=0.05, gt=0, lt=1)
    cooldown: float = Field(default=0.3, gt=0, lt=1)


class PrecisionPart(_Part):
    """With `precision: auto`, a few timed steps choose between float32 and bf16; bf16 must be `gain` times faster."""

    gain: float = Field(default=1.1, ge=1)


def _named(value: Any) -> Any:  # noqa: ANN401
    """`recipe: green` is short for the section with that name and nothing else."""
    if isinstance(value, str):
        value = {"name": value}
    if isinstance(value, dict) and value.get("name") not in NAMES:
        name = value.get("name")
        hint = nearest(str(name), NAMES) if name else "; give name: green"
        raise ValueError(f"the recipe {name!r} is unknown{hint}" if name else f"the recipe has no name{hint}")
    return value


class RecipeConfig(Strict):
    """How to train with less. Each part can be switched off, `tokens: false`, or on, `factors: true`."""

    name: Literal["green"]
    factors: Annotated[FactorsPart, BeforeValidator(_switch)] = FactorsPart(use=False)
    optimizer: Annotated[OptimizerPart, BeforeValidator(_switch)] = OptimizerPart()
    tokens: Annotated[TokensPart, BeforeValidator(_switch)] = TokensPart()
    lengths: Annotated[LengthsPart, BeforeValidator(_switch)] = LengthsPart(use=False)
    stop: Annotated[StopPart, BeforeValidator(_switch)] = StopPart()
    precision: Annotated[PrecisionPart, BeforeValidator(_switch)] = PrecisionPart()


Recipe = Annotated[RecipeConfig | None, BeforeValidator(_named)]
