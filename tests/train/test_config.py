"""A config is checked whole before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from clisonix.errors import ClisonixError
from clisonix.train import load_config

CONFIGS = sorted((Path(__file__).parent.parent.parent / "configs").glob("*.yaml"))
QUICKSTART = next(p for p in CONFIGS if p.name == "quickstart.yaml")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_provided_configs_are_valid_and_carry_credit(path: Path) -> None:
    config = load_config(path)
    assert config.name == path.stem
    assert config.data.credit


def test_overrides_reach_every_depth() -> None:
    config = load_config(QUICKSTART, ["seed=7", "train.augment.noise=0.5", "compress.budget=0.2", "place=FRA"])
    assert (config.seed, config.train.augment.noise, config.place) == (7, 0.5, "FRA")
    assert config.compress is not None
    assert config.compress.budget == 0.2


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("trian.epochs=3", "unknown key 'trian'; did you mean 'train'"),
        ("train.epoch=3", "unknown key 'train.epoch'; did you mean 'epochs'"),
        ("train.augment.nose=1", "unknown key 'train.augment.nose'; did you mean 'noise'"),
        ("data.window.hop=1", "unknown key 'data.window.hop'; did you mean 'hop_s'"),
        ("data.streams.rotation.column=[1]", "unknown key .*column'; did you mean 'columns'"),
        ("model.tokens.rotation.font=mel", "unknown key 'model.tokens.rotation.font'; did you mean 'front'"),
        ("model.tokens.rotatoin.front=mel", "names the stream 'rotatoin'; did you mean 'rotation'"),
        ("train.epochs=0", "train.epochs: input should be greater than or equal to 1"),
        ("train.epochs=many", "train.epochs: input should be a valid integer"),
        ("data.split.fold=5", "data.split: fold 5 of 5: folds count from 0"),
        ("data.streams.rotation.reader=wach", "does not match any of the expected tags"),
        ("name=../up", "name: string should match pattern"),
        ("epochs", "is not of the form key.key=value"),
        ("name.x=1", "goes through 'name', which is no section"),
        ("seed=[1", "is not valid YAML"),
    ],
)
def test_mistakes_are_one_sentence(override: str, sentence: str) -> None:
    with pytest.raises(ClisonixError, match=sentence) as caught:
        load_config(QUICKSTART, [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "", "name: x"])
def test_broken_files_are_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ClisonixError, match=r"c\.yaml") as caught:
        load_config(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ClisonixError, match=r"cannot read the config .*gone\.yaml"):
        load_config(tmp_path / "gone.yaml")


def test_a_config_survives_json(tmp_path: Path) -> None:
    config = load_config(QUICKSTART)
    path = tmp_path / "again.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert load_config(path) == config
