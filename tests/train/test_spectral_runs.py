"""Runs that a config asks to train by `Spectral`."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.numpy import load_file
from small_runs import ROOT, SMALL

from clisonix.errors import ClisonixError
from clisonix.meter import Meter
from clisonix.train import load_config, train

STOP = 9


class CutOffError(Exception):
    """The run ends here."""


class Cutting:
    """Stops a run after some steps."""

    def begin(self, steps: int, done: int, meter: Meter) -> None:
        assert steps > STOP + 2

    def step(self, step: int) -> None:
        if step == STOP:
            raise CutOffError

    def say(self, sentence: str) -> None: ...


def test_a_run_that_is_cut_off_ends_in_the_same_weights(tmp_path: Path) -> None:
    # Wide enough that some state is packed and some is not; compressed from the start, so that products are stepped.
    wide = ("model.width=48", "train.epochs=2", "compress={budget: 0.6, after: 0.0}", "train.checkpoint_every_s=0")
    overrides = [*SMALL, *wide, "train.optimizer=spectral", "train.state_bits=8"]
    config = load_config(ROOT / "configs/quickstart.yaml", overrides)
    train(config, tmp_path / "straight")
    with pytest.raises(CutOffError):
        train(config, tmp_path / "cut", progress=Cutting())
    train(config, tmp_path / "cut", resume=True)
    straight, cut = (load_file(tmp_path / name / "model.safetensors") for name in ("straight", "cut"))
    assert any(name.endswith(".left") for name in straight)
    assert straight.keys() == cut.keys()
    assert all(straight[name].tobytes() == cut[name].tobytes() for name in straight)


def test_optimisers_that_cannot_be_are_refused() -> None:
    with pytest.raises(ClisonixError, match=r"train\.optimizer"):
        load_config(ROOT / "configs/quickstart.yaml", ["train.optimizer=muon"])
    with pytest.raises(ClisonixError, match="state_bits: 8 needs optimizer: spectral"):
        load_config(ROOT / "configs/quickstart.yaml", ["train.state_bits=8"])
