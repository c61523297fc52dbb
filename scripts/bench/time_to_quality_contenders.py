"""What `time_to_quality.py` compares: tasks, sizes, contenders, and the one run that measures a contender."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from spectral import MuonFloat32
from torch import Tensor, nn

from clisonix.meter import Meter
from clisonix.train.config import RunConfig, load_config
from clisonix.train.learner import Learner, choose_device
from clisonix.train.recipe.factors import factorised
from clisonix.train.task import build_model, open_task

ROOT = Path(__file__).parent.parent.parent
PARTS = ("factors", "optimizer", "tokens", "lengths", "stop", "precision")
# Changes of width, depth and feed-forward expansion of the provided configs. `reference` is the size that is taken
# from the shelf; `small` is what two cores can repeat often enough.
SIZES = {"reference": (256, 8, 4), "small": (96, 3, 4)}


@dataclass(frozen=True)
class TaskPlan:
    """A config, how it is split, and how long it is trained."""

    config: str
    folds: int
    metric: str
    overrides: tuple[str, ...] = ()


TASKS = {
    "fsdd": TaskPlan(
        "fsdd",
        6,
        "accuracy",
        ("data.split={by: speaker, fold: 0}", "train.augment={gain: 1.0, shift_s: 0.1, noise: 0.3, tempo: 0.2}"),
    ),
    "watch": TaskPlan("watch", 5, "accuracy"),
    "p300": TaskPlan("p300", 6, "auc"),
}


@dataclass(frozen=True)
class Contender:
    """One way to train.

    Attributes:
        rates: learning rates that the search tries, as many for each contender.
        recipe: parts of the green recipe that are on; None trains without it.
        muon: `torch.optim.Muon` for the matrices.
        twin: narrow the dense model to the parameters of the factorised one.
        extra: further overrides.
    """

    rates: tuple[float, ...]
    recipe: tuple[str, ...] | None = None
    muon: bool = False
    twin: bool = False
    extra: tuple[str, ...] = ()


LOOKS_PER_EPOCH = 4
# Steps of few directions are small steps, so factors take higher rates.
ADAMW, MUON, FACTORS = (5e-4, 1e-3, 2e-3), (1e-3, 2e-3, 4e-3), (2e-3, 4e-3, 8e-3)
GREEN = ("factors", "optimizer", "tokens", "stop")
CONTENDERS = {
    "dense-adamw": Contender(ADAMW),
    "dense-muon": Contender(MUON, muon=True),
    "twin-adamw": Contender(ADAMW, twin=True),
    "twin-muon": Contender(MUON, muon=True, twin=True),
    "lowrank-adamw": Contender(MUON, recipe=("factors",), extra=("recipe.factors.init=random",)),
    "ours": Contender(FACTORS, recipe=GREEN),
}
ABLATIONS = {
    **{
        f"ours-without-{part}": Contender(
            FACTORS if part == "tokens" or part == "stop" else MUON, recipe=tuple(p for p in GREEN if p != part)
        )
        for part in GREEN
    },
    "ours-with-lengths": Contender(FACTORS, recipe=(*GREEN, "lengths")),
    "ours-random-start": Contender(FACTORS, recipe=GREEN, extra=("recipe.factors.init=random",)),
    "ours-8-bit": Contender(FACTORS, recipe=GREEN, extra=("recipe.optimizer.state_bits=8",)),
}
ALL = {**CONTENDERS, **ABLATIONS}


class MuonAndAdamW(torch.optim.Optimizer):
    """`torch.optim.Muon` for hidden matrices and `torch.optim.AdamW` for the rest, behind one face.

    Muon iterates in float32 on a CPU, which most emulate bfloat16 on: that is the faster one there.
    """

    def __init__(self, model: nn.Module, *, lr: float, weight_decay: float, betas: tuple[float, float]) -> None:
        head = [m for m in model.modules() if isinstance(m, nn.Linear)][-1].weight
        matrices = [
            m.weight for m in model.modules() if isinstance(m, nn.Linear) and m.weight is not head
        ]  # fmt: skip
        own = {id(p) for p in matrices}
        rest = [p for p in model.parameters() if id(p) not in own]
        on_cpu = matrices[0].device.type == "cpu"
        muon = (MuonFloat32 if on_cpu else torch.optim.Muon)(
            matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
        )
        groups = [
            {"params": [p for p in rest if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.parts = [muon, torch.optim.AdamW(groups, lr=lr, betas=betas)]
        super().__init__([p for p in model.parameters() if p.requires_grad], {"lr": lr})
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none)

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for part in self.parts:
            part.step()

    @property
    def held(self) -> list[dict[str, Any]]:
        """State of both."""
        return [state for part in self.parts for state in part.state.values()]


class MuonLearner(Learner):
    """The loop of the library with torch's Muon in it."""

    def _adopt(self, model: nn.Module) -> None:
        super()._adopt(model)
        train = self.config.train
        self.optimiser = MuonAndAdamW(
            model, lr=train.learning_rate, weight_decay=train.weight_decay, betas=(0.9, train.beta2)
        )


class Spent:
    """Seconds inside its blocks."""

    def __init__(self) -> None:
        self.cpu_s = self.wall_s = 0.0

    def __enter__(self) -> None:
        self._cpu_s, self._wall_s = time.process_time(), time.perf_counter()
        self._split_s = self._cpu_s

    def __exit__(self, *_: object) -> None:
        self.cpu_s += time.process_time() - self._cpu_s
        self.wall_s += time.perf_counter() - self._wall_s

    def split_s(self) -> float:
        """Processor seconds since the last call in this block."""
        now_s = time.process_time()
        passed_s, self._split_s = now_s - self._split_s, now_s
        return passed_s


def config_of(
    task: str, size: str, name: str, *, rate: float, epochs: int, seed: int, fold: int, root: Path, compiled: bool
) -> RunConfig:
    """The whole config of one run; the twin's width is found here."""
    plan, contender = TASKS[task], ALL[name]
    width, depth, expansion = SIZES[size]
    overrides = [
        *plan.overrides, f"data.split.fold={fold}", f"seed={seed}", f"model.width={width}", f"model.depth={depth}",
        f"model.expansion={expansion}", f"train.learning_rate={rate}", f"train.epochs={epochs}",
        "train.loader_threads=0", f"compile={str(compiled).lower()}",
    ]  # fmt: skip
    if contender.recipe is not None:
        overrides.append(f"recipe={_parts(contender.recipe)}")
    config = load_config(ROOT / f"configs/{plan.config}.yaml", [*overrides, *contender.extra])
    if not contender.twin:
        return config
    green = load_config(ROOT / f"configs/{plan.config}.yaml", [*overrides, f"recipe={_parts(('factors',))}"])
    assert green.recipe is not None
    opened = open_task(config, root)
    most = _count(factorised(build_model(green, opened), green.recipe.factors))
    step = 2 * config.model.heads
    widths = range(step, width + 1, step)
    fits = [w for w in widths if _count(build_model(_narrow(config, w), opened)) <= most]
    return _narrow(config, fits[-1])


def measure(config: RunConfig, task: str, name: str, root: Path) -> dict[str, Any]:
    """Train once and look at the held-out side several times an epoch; looking is not counted.

    Runs in a process of its own, so that its memory is its own.
    """
    torch.manual_seed(config.seed)
    opened = open_task(config, root)
    kind = MuonLearner if ALL[name].muon else Learner
    before = _reset_peak()
    made_s = -time.process_time()
    learner = kind(config, opened, choose_device(config.device))
    made_s += time.process_time()
    spent = Spent()
    curve: list[dict[str, float]] = []
    first_steps_s: list[float] = []
    every = max(1, len(opened.train) // LOOKS_PER_EPOCH)
    with Meter() as meter:
        while not learner.finished:
            steps = learner.advance()
            over = False
            while not over:
                with meter.window("train"), spent:
                    for step in steps:
                        if len(first_steps_s) < 8:
                            first_steps_s.append(spent.split_s())
                        if step % every == 0:
                            break
                    else:
                        over = True
                        learner.end_epoch()
                        learner.look()
                if over and curve and curve[-1]["step"] == learner.step:
                    continue
                scores, labels = learner.predict()
                learner.model.train()
                curve.append(
                    {
                        "epoch": learner.step / len(opened.train), "step": learner.step, "cpu_s": spent.cpu_s,
                        "wall_s": spent.wall_s, "joules": meter.energy("train").joules or math.nan,
                        **judged(scores, labels, TASKS[task].metric),
                    }
                )  # fmt: skip
        energy = meter.energy("train")
    state = (
        learner.optimiser.held if isinstance(learner.optimiser, MuonAndAdamW) else learner.optimiser.state.values()
    )
    return {
        "curve": curve,
        "windows": len(opened.test.table),
        "made_s": made_s,
        # What the first two steps took beyond the others is compiling, or allocating where nothing is compiled.
        "start_s": sum(first_steps_s[:2]) - 2 * sorted(first_steps_s[2:])[len(first_steps_s[2:]) // 2],
        "energy_how": energy.how(),
        "parameters": _count(learner.model),
        "width": config.model.width,
        "model_bytes": sum(x.nbytes for x in learner.model.state_dict().values()),
        "state_bytes": sum(x.nbytes for held in state for x in held.values() if isinstance(x, Tensor)),
        "peak_rise_bytes": _peak() - before,
        "notes": learner.notes,
    }


def judged(scores: Tensor, labels: Tensor, metric: str) -> dict[str, float]:
    """Quality from 0 to 1, and the mean log loss."""
    loss = float(nn.functional.cross_entropy(scores, labels))
    if metric == "accuracy":
        return {"quality": float((scores.argmax(1) == labels).float().mean()), "log_loss": loss}
    # The odds that a window of class 1 scores above one of class 0, ties counting half (Mann and Whitney).
    margin = (scores[:, 1] - scores[:, 0]).double()
    above, below = margin[labels == 1][:, None], margin[labels == 0][None, :]
    return {"quality": float(((above > below).double() + 0.5 * (above == below).double()).mean()), "log_loss": loss}


def _parts(on: tuple[str, ...]) -> str:
    return "{name: green, " + ", ".join(f"{part}: {{use: {str(part in on).lower()}}}" for part in PARTS) + "}"


def _narrow(config: RunConfig, width: int) -> RunConfig:
    return config.model_copy(update={"model": config.model.model_copy(update={"width": width})})


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _reset_peak() -> int:
    """Bytes that the process holds now; its peak counts from here on."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024
