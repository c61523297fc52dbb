"""Runs by the green recipe: what each part does, and that nothing of it is lost on the way."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_runs import ROOT, command, environment

from clisonix.errors import ClisonixError
from clisonix.liam import LowRank
from clisonix.meter import Meter
from clisonix.meter.recording.record import read_record
from clisonix.models import StreamTransformer, TokenSpec
from clisonix.train import RunConfig, load_config, train
from clisonix.train.learner import Learner
from clisonix.train.optim import Spectral
from clisonix.train.recipe.config import FactorsPart
from clisonix.train.recipe.factors import factorised
from clisonix.train.recipe.pace import Pace
from clisonix.train.task import open_task

CONFIG = ROOT / "configs/quickstart.yaml"
# Early enough to stop that a cut-off run meets every state; timing may not decide the precision of a test.
SMALL = (
    "recipe=green", "model.width=48", "model.depth=1", "data.window.hop_s=4.0", "train.epochs=8",
    "train.evaluate_every=0", "recipe.stop={gain: 0.45, alpha: 0.5}", "recipe.precision=false",
    "recipe.optimizer.state_bits=8", "recipe.factors.budget=0.6", "train.batch_size=128",
    "recipe.lengths=true",
)  # fmt: skip
PARTS = ("factors", "optimizer", "tokens", "lengths", "stop", "precision")


def config(*overrides: str) -> RunConfig:
    return load_config(CONFIG, [*SMALL, *overrides])


def said_of(folder: Path) -> str:
    return next(note for note in read_record(folder).notes if note.startswith("recipe green: "))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe") / "straight"
    train(config(), folder)
    return folder


class CutOffError(Exception):
    """The run ends here."""


class Cutting:
    """Stops a run after some steps."""

    def __init__(self, at: int) -> None:
        self.at = at

    def begin(self, steps: int, done: int, meter: Meter) -> None: ...

    def step(self, step: int) -> None:
        if step == self.at:
            raise CutOffError

    def say(self, sentence: str) -> None: ...


@pytest.mark.parametrize("at", [2, 15])
def test_a_run_that_is_cut_off_ends_in_the_same_weights(straight: Path, tmp_path: Path, at: int) -> None:
    with pytest.raises(CutOffError):
        train(config("train.checkpoint_every_s=0"), tmp_path / "cut", progress=Cutting(at))
    train(config("train.checkpoint_every_s=0"), tmp_path / "cut", resume=True)
    first, second = weights(straight), weights(tmp_path / "cut")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert said_of(straight) == said_of(tmp_path / "cut")


def test_a_killed_process_goes_on_to_the_same_weights(straight: Path, tmp_path: Path) -> None:
    run = ("train", CONFIG, *SMALL, "train.checkpoint_every_s=0", "--out", tmp_path / "killed")
    one_thread = environment(OMP_NUM_THREADS=str(torch.get_num_threads()))
    process = subprocess.Popen(command(*run), env=one_thread, stderr=subprocess.PIPE)
    checkpoints = tmp_path / "killed" / "checkpoint"
    while process.poll() is None and len(list(checkpoints.glob("step-*"))) < 2:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    done = subprocess.run(command(*run, "--resume"), env=one_thread, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second = weights(straight), weights(tmp_path / "killed")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_record_says_which_parts_were_on(straight: Path, tmp_path: Path) -> None:
    record = read_record(straight)
    note = said_of(straight)
    assert "no further gain after epoch" in note
    assert "8-bit state" in note
    assert note.endswith("precision off")
    assert any("set aside for the early stop" in n for n in record.notes)
    assert any(name.endswith(".left") for name in weights(straight))
    assert "recipe green" in (straight / "report.html").read_text()


@pytest.mark.parametrize("part", PARTS)
def test_each_part_can_be_switched_off(part: str) -> None:
    chosen = config("recipe.precision=true", f"recipe.{part}=false")
    learner = Learner(chosen, open_task(chosen, None), torch.device("cpu"))
    factors = any(isinstance(m, LowRank) for m in learner.model.modules())
    next(learner.advance())
    keep, span = learner.pace.sampling(0)
    found = {
        "factors": factors,
        "optimizer": isinstance(learner.optimiser, Spectral),
        "tokens": keep < 1,
        "lengths": span < 1,
        "stop": learner.task.validation is not None,
        "precision": learner.pace.bf16 is not None,
    }
    assert found == {name: name != part for name in PARTS}
    assert f"; {part} off" in learner.notes[0]


def test_without_a_recipe_nothing_changes() -> None:
    plain = load_config(CONFIG, ["train.epochs=3"])
    pace = Pace(plain, 10)
    assert pace.notes(None) == []
    assert {pace.sampling(step) for step in range(30)} == {(1.0, 1.0)}
    assert pace.learning_rate(0) == pytest.approx(plain.train.learning_rate / 3)
    assert pace.learning_rate(15) == pytest.approx(plain.train.learning_rate / 2)


def test_windows_grow_and_all_tokens_come_back() -> None:
    chosen = config("recipe.lengths={start: 0.5, until: 0.5, levels: 2}", "recipe.tokens={keep: 0.4, until: 0.75}")
    pace = Pace(chosen, 10)
    seen = [pace.sampling(step) for step in range(80)]
    assert seen[0] == (0.4, 0.5)
    assert seen[20] == (0.4, 0.75)
    assert seen[40] == (0.4, 1.0)
    assert seen[60] == (1.0, 1.0)


def test_the_rate_is_level_until_the_end_is_settled() -> None:
    chosen = config("recipe.stop={cooldown: 0.25, alpha: 0.5}", "train.warmup=0")
    pace = Pace(chosen, 10)
    top = chosen.train.learning_rate
    assert pace.learning_rate(59) == top
    assert pace.learning_rate(70) == pytest.approx(top / 2)
    losses = [2.0] * 20
    settled = [epoch for epoch, loss in enumerate(losses, start=1) if pace.look(epoch, loss)]
    assert len(settled) == 1
    assert pace.learning_rate(settled[0] * 10) == top
    assert pace.learning_rate(pace.steps - 1) < 0.2 * top
    assert pace.epochs <= 8


def model(width: int = 64) -> StreamTransformer:
    torch.manual_seed(0)
    return StreamTransformer({"imu": TokenSpec(3, 50.0, 100, token_s=0.4, hop_s=0.2)}, 3, width=width, depth=2)


@pytest.mark.parametrize("init", ["spectral", "random"])
@pytest.mark.parametrize("budget", [0.3, 0.5, 0.9])
def test_factors_keep_to_the_budget_and_to_the_size_of_the_weight(init: str, budget: float) -> None:
    dense = model()
    small = factorised(dense, FactorsPart(budget=budget, init=init))
    entries = [sum(p.numel() for p in m.parameters()) for m in (small, dense)]
    assert 0.9 * budget < entries[0] / entries[1] <= budget
    assert isinstance(small.head, torch.nn.Linear)
    for one, other in zip(dense.blocks, small.blocks, strict=True):
        ratio = other.up.weight.dense().norm() / one.up.weight.norm()
        assert ratio.item() == pytest.approx(1.0, abs=1e-4 if init == "spectral" else 0.35)


def test_a_spectral_start_has_the_leading_directions() -> None:
    dense = model()
    small = factorised(dense, FactorsPart(budget=0.4))
    weight, matrix = dense.blocks[0].qkv.weight.detach(), small.blocks[0].qkv.weight
    u, s, vh = torch.linalg.svd(weight, full_matrices=False)
    rank = matrix.rank
    best = u[:, :rank] * s[:rank] @ vh[:rank]
    made = matrix.dense().detach()
    assert torch.allclose(made / made.norm(), best / best.norm(), atol=1e-5)
    assert matrix.left.norm().item() == pytest.approx(matrix.right.norm().item(), rel=1e-4)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["recipe=gren"], "recipe: the recipe 'gren' is unknown; did you mean 'green'"),
        (["recipe={tokens: false}"], "recipe: the recipe has no name; give name: green"),
        (["recipe=green", "recipe.tokens.kep=0.3"], "unknown key 'recipe.tokens.kep'; did you mean 'keep'"),
        (["recipe=green", "recipe.tokns=false"], "unknown key 'recipe.tokns'; did you mean 'tokens'"),
        (["recipe=green", "recipe.tokens.keep=0"], "recipe.tokens.keep: input should be greater than 0"),
        (["recipe=green", "recipe.stop.alpha=2"], "recipe.stop.alpha: input should be less than 1"),
        (
            ["recipe={name: green, factors: true}", "compress={budget: 0.3}"],
            "compress and recipe.factors both make the model small",
        ),
    ],
)
def test_mistakes_in_a_recipe_are_one_sentence(overrides: list[str], sentence: str) -> None:
    with pytest.raises(ClisonixError, match=sentence) as caught:
        load_config(CONFIG, overrides)
    assert "\n" not in str(caught.value)


def test_a_budget_below_rank_one_is_one_sentence() -> None:
    with pytest.raises(
        ClisonixError, match=r"recipe\.factors\.budget is 0\.001 of the dense model, and rank 1 takes"
    ):
        factorised(model(), FactorsPart(budget=0.001))
