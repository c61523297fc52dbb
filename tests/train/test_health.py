"""A run that goes wrong stops before it steps, and says where and why."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_runs import ROOT

from clisonix.errors import ClisonixError
from clisonix.train import load_config, train
from clisonix.train.learner import Learner
from clisonix.train.task import open_task

CONFIG = ROOT / "configs/quickstart.yaml"
SMALL = ("model.width=16", "model.depth=2", "train.epochs=3", "data.window.hop_s=4.0", "train.loader_threads=0")


def learner(*overrides: str) -> Learner:
    config = load_config(CONFIG, [*SMALL, *overrides])
    torch.manual_seed(0)
    return Learner(config, open_task(config, None), torch.device("cpu"))


def complaint(made: Learner) -> str:
    before = {name: p.detach().clone() for name, p in made.model.named_parameters()}
    steps = made.advance()
    with pytest.raises(ClisonixError) as caught:
        next(steps)
    assert all(
        torch.equal(before[name], p.detach()) for name, p in made.model.named_parameters() if p.isfinite().all()
    )
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_layer_that_overflows_is_named() -> None:
    made = learner()
    with torch.no_grad():
        made.model.blocks[1].up.weight.fill_(3e38)
    said = complaint(made)
    assert said.startswith("the loss is nan in step 1: the layer blocks.1.up makes what is not finite out of inputs")


def test_a_weight_that_is_not_finite_is_named() -> None:
    made = learner()
    with torch.no_grad():
        made.model.blocks[0].out.weight[0, 0] = float("nan")
    assert "in step 1: the parameter blocks.0.out.weight was not finite before it" in complaint(made)


def test_a_gradient_that_overflows_is_named() -> None:
    made = learner()
    made.model.norm.weight.register_hook(lambda grad: grad * float("inf"))
    assert "a gradient is not finite in step 1: the gradient of norm.weight is the first" in complaint(made)


def test_samples_that_are_not_finite_are_named() -> None:
    made = learner()
    batch = made.task.calibration(0)[0]
    batch["streams"]["rotation"][1, 0, 5] = float("inf")
    made._batches = iter([batch])
    said = complaint(made)
    assert f"rotation of window {int(batch['window'][1])} holds values that are not finite and are not masked" in said


def test_a_run_that_diverges_stops_with_step_layer_and_rate(tmp_path: Path) -> None:
    config = load_config(CONFIG, [*SMALL, "train.epochs=20", "train.learning_rate=30", "train.warmup=0"])
    with pytest.raises(ClisonixError) as caught:
        train(config, tmp_path / "run")
    said = str(caught.value)
    assert "by step" in said
    assert "the gradient of " in said
    assert "training diverges; lower train.learning_rate" in said
    assert not (tmp_path / "run" / "record.json").exists()


def test_a_healthy_run_is_left_alone() -> None:
    made = learner("train.learning_rate=0.01")
    while not made.finished:
        for _ in made.advance():
            assert made.health.average < made.health.limit
        made.end_epoch()
