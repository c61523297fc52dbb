"""The recipe of a run: one YAML file, checked before anything starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from clisonix.errors import ClisonixError, nearest
from clisonix.models import Front
from clisonix.train.data_config import DataConfig, SplitConfig, Strict, keys_of_source
from clisonix.train.recipe.config import Recipe

__all__ = ["AugmentConfig", "DataConfig", "RunConfig", "SplitConfig", "TokenConfig", "load_config", "parse_config"]


class TokenConfig(Strict):
    """How one modality becomes tokens; see `clisonix.models.TokenSpec`."""

    front: Front = "patch"
    token_s: float = Field(default=0.2, gt=0)
    hop_s: float = Field(default=0.1, gt=0)
    bands: int = Field(default=40, ge=1)
    low_hz: float = Field(default=0.0, ge=0)
    high_hz: float | None = Field(default=None, gt=0)


class ModelConfig(Strict):
    """The stream transformer; see `clisonix.models.StreamTransformer`."""

    tokens: dict[str, TokenConfig] = Field(default_factory=dict)
    width: int = Field(default=64, ge=2)
    depth: int = Field(default=3, ge=1)
    heads: int = Field(default=4, ge=1)
    expansion: int = Field(default=3, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)


class AugmentConfig(Strict):
    """Random changes of training windows; each is 0 to switch it off.

    `gain`: standard deviation of a log-normal factor per window and channel. `noise`: white noise, in standard
    deviations of the channel. `shift_s`: largest shift in time; what is shifted in is masked. `rotate_rad`:
    largest rotation of three-axis sensors about a random axis (a strap that sits differently). `tempo`: largest
    relative change of speed (somebody who moves faster or slower); what lies past the end is masked.
    """

    gain: float = Field(default=0.0, ge=0)
    noise: float = Field(default=0.0, ge=0)
    shift_s: float = Field(default=0.0, ge=0)
    rotate_rad: float = Field(default=0.0, ge=0)
    tempo: float = Field(default=0.0, ge=0, lt=1)


class TrainConfig(Strict):
    """Optimisation.

    `optimizer`: `spectral` is orthogonalised momentum for matrices and AdamW for the rest, see
    `clisonix.train.Spectral`; `state_bits: 8` keeps its state in a quarter of the memory. `evaluate_every`: epochs
    between looks at the held-out windows; 0 looks once, at the end. `loader_threads`: how many threads make batches
    ahead of time; the result does not depend on it.
    """

    epochs: int = Field(default=12, ge=1)
    batch_size: int = Field(default=32, ge=1)
    optimizer: Literal["adamw", "spectral"] = "adamw"
    state_bits: Literal[8, 32] = 32
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    beta2: float = Field(default=0.98, gt=0, lt=1)
    warmup: float = Field(default=0.1, ge=0, le=1)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    clip_norm: float = Field(default=1.0, gt=0)
    augment: AugmentConfig = AugmentConfig()
    evaluate_every: int = Field(default=4, ge=0)
    checkpoint_every_s: float = Field(default=15.0, ge=0)
    loader_threads: int = Field(default=1, ge=0)

    @model_validator(mode="after")
    def _packed_state_is_spectrals(self) -> TrainConfig:
        if self.state_bits == 8 and self.optimizer != "spectral":
            raise ValueError("state_bits: 8 needs optimizer: spectral")
        return self


class CompressConfig(Strict):
    """Train dense for the share `after` of the epochs, compress to `budget`, go on in the compressed form."""

    budget: float = Field(gt=0)
    after: float = Field(default=0.25, ge=0, lt=1)


class PueConfig(Strict):
    """What the building draws over what its computers draw, and where that number comes from."""

    ratio: float = Field(ge=1, lt=100)
    source: str = Field(min_length=1)


class EmbodiedConfig(Strict):
    """Emissions of making a device, spread evenly over the hours it will be used, and where the numbers come from."""

    kg: float = Field(gt=0)
    lifetime_h: float = Field(gt=0)
    source: str = Field(min_length=1)


class RunConfig(Strict):
    """A whole run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    seed: int = Field(default=0, ge=0)
    data: DataConfig
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    compress: CompressConfig | None = None
    recipe: Recipe = None
    device: str = "auto"
    precision: Literal["auto", "float32", "bf16"] = "auto"
    compile: bool = False
    place: str | None = None
    pue: PueConfig | None = None
    embodied: list[EmbodiedConfig] = Field(default_factory=list)

    @model_validator(mode="after")
    def _tokens_have_streams(self) -> RunConfig:
        for name in self.model.tokens:
            if name not in self.data.streams:
                raise ValueError(f"model.tokens names the stream {name!r}{nearest(name, self.data.streams)}")
        return self

    @model_validator(mode="after")
    def _made_small_once(self) -> RunConfig:
        if self.compress is not None and self.recipe is not None and self.recipe.factors.use:
            raise ValueError("compress and recipe.factors both make the model small; leave one out (factors: false)")
        return self


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file and apply `key.key=value` overrides (values are YAML too).

    Raises:
        ClisonixError: a missing file, broken YAML, an unknown key (with the nearest valid one) or a bad value.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ClisonixError(f"cannot read the config {path}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ClisonixError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ClisonixError(f"{path} holds {type(content).__name__}, expected the keys of a run")
    for override in overrides:
        if isinstance(content.get("recipe"), str):  # the short form, which an override may go into
            content["recipe"] = {"name": content["recipe"]}
        _override(content, override)
    return parse_config(content, str(path))


def parse_config(content: Mapping[str, Any], origin: str) -> RunConfig:
    """Check a config that is already in memory; `origin` names it in errors."""
    try:
        return RunConfig.model_validate(content)
    except ValidationError as error:
        raise ClisonixError(f"{origin}: {_sentence(error, content)}") from error


def _override(content: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise ClisonixError(f"the override {override!r} is not of the form key.key=value")
    *sections, key = path.split(".")
    for section in sections:
        if content.get(section) is None:
            content[section] = {}
        content = content[section]
        if not isinstance(content, dict):
            raise ClisonixError(f"the override {override!r} goes through {section!r}, which is no section")
    try:
        content[key] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ClisonixError(f"the value of the override {override!r} is not valid YAML") from error


def _sentence(error: ValidationError, content: Mapping[str, Any]) -> str:
    """The first problem in one sentence; unknown keys come first, since they cause others."""
    problems = error.errors()
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    path = [str(part) for part in problem["loc"]]
    where = ".".join(path)
    if problem["type"] == "extra_forbidden":
        return f"unknown key {where!r}{nearest(path[-1], _keys_beside(problem['loc'], content))}"
    if problem["type"] == "missing":
        return f"the key {where!r} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{where or 'config'}: {message[0].lower()}{message[1:]}"


def _keys_beside(loc: tuple[int | str, ...], content: Mapping[str, Any]) -> list[str]:
    """The valid keys of the section in which the unknown key stands."""
    section: Any = RunConfig
    value: Any = content
    for part in loc[:-1]:
        value = value.get(part) if isinstance(value, Mapping) and part in value else value
        if isinstance(section, type) and issubclass(section, BaseModel):
            section = section.model_fields[str(part)].annotation if part in section.model_fields else section
            for candidate in (section, *getattr(section, "__args__", ())):
                if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                    section = candidate
                    break
        elif isinstance(value, Mapping) and "reader" in value:
            # A tagged union: the tag picks the model.
            section = keys_of_source(value["reader"]) or section
        elif getattr(section, "__origin__", None) is dict:
            section = section.__args__[1]
    return list(section.model_fields) if isinstance(section, type) and issubclass(section, BaseModel) else []
