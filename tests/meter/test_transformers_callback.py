"""The callback in the real `transformers.Trainer`."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from clisonix import ClisonixError
from clisonix.meter import Meter, Trace, read_record, verify

transformers = pytest.importorskip("transformers", exc_type=ImportError)
pytest.importorskip("accelerate")
pytestmark = pytest.mark.slow  # importing the trainer alone takes ten seconds on a slow disk


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.layer(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def trainer_of(folder: Path, callbacks: list[Any] | None = None, **settings: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    rows = [{"x": torch.randn(8, generator=generator), "labels": torch.tensor(i % 2)} for i in range(16)]
    chosen = {
        "num_train_epochs": 2, "per_device_train_batch_size": 4, "logging_steps": 1, "report_to": [],
        "use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "seed": 7, **settings,
    }  # fmt: skip
    args = transformers.TrainingArguments(str(folder), **chosen)
    return transformers.Trainer(Classifier(), args, train_dataset=rows, eval_dataset=rows, callbacks=callbacks)


def energy_callback(*given: Any, **more: Any) -> Any:
    from clisonix.meter.integrations.transformers import EnergyCallback

    return EnergyCallback(*given, **more)


def test_logs_windows_and_folder_of_a_training(tmp_path: Path) -> None:
    callback = energy_callback(tmp_path / "run", place="FRA")
    trainer = trainer_of(
        tmp_path / "out", [callback], eval_strategy="steps", eval_steps=3, save_strategy="epoch", learning_rate=1e-3
    )
    result = trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logged) == 8
    for entry in logged:
        assert entry["energy_low_j"] <= entry["energy_j"] <= entry["energy_high_j"]
        assert entry["energy_how"] == callback.how
    spent = [entry["energy_j"] for entry in trainer.state.log_history]
    assert spent == sorted(spent)
    assert spent[-1] > 0
    assert result.metrics["energy_j"] == spent[-1]
    assert any(entry.get("power_w", 0) > 0 for entry in logged)

    record = read_record(tmp_path / "run")
    assert record == callback.record
    assert set(record.energy) == {"run", "train", "train/fit", "evaluate", "checkpoint"}
    assert record.energy["run"]["total"]["joules"] >= spent[-1]
    assert (record.seed, record.size) == (7, {"parameters": 18})
    assert record.config["learning_rate"] == 1e-3
    assert "weight_decay" not in record.config
    assert record.carbon is not None
    assert record.carbon["grams"] > 0
    assert all(finding.ok for finding in verify(tmp_path / "run"))
    assert (tmp_path / "run/report.html").is_file()
    names = [span.name for span in Trace.load(tmp_path / "run/trace-0.npz").windows]
    first, second = "train/fit/epoch-1", "train/fit/epoch-2"
    assert list(dict.fromkeys(names)) == ["run", first, "evaluate", "checkpoint", second]
    # Evaluations in and after the epochs and a checkpoint after each of them interrupt the epochs.
    assert names.count("evaluate") == sum("eval_loss" in entry for entry in trainer.state.log_history) >= 2
    assert names.count("checkpoint") == 2
    spans = sorted(
        (s for s in Trace.load(tmp_path / "run/trace-0.npz").windows if s.name != "run"), key=lambda s: s.start_s
    )
    assert all(a.end_s <= b.start_s for a, b in itertools.pairwise(spans))


def test_a_training_that_goes_on_from_a_checkpoint_adds_up(tmp_path: Path) -> None:
    class Fails(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 6:
                raise RuntimeError("the machine is gone")

    broken = energy_callback(tmp_path / "run")
    with pytest.raises(RuntimeError):
        trainer_of(tmp_path / "out", [broken, Fails()], save_strategy="steps", save_steps=4).train()
    broken._session.abort(None)  # the trainer tells nobody; after two seconds the trace would be there all the same
    assert not (tmp_path / "run/record.json").exists()
    with pytest.raises(ClisonixError, match="holds a run already"):
        trainer_of(tmp_path / "out", [energy_callback(tmp_path / "run")]).train()
    callback = energy_callback(tmp_path / "run")
    trainer_of(tmp_path / "out", [callback]).train(resume_from_checkpoint=str(tmp_path / "out/checkpoint-4"))
    assert [attempt["ended_cleanly"] for attempt in callback.record.attempts] == [False, True]
    assert all(finding.ok for finding in verify(tmp_path / "run"))
    windows = [Trace.load(tmp_path / f"run/trace-{i}.npz").names() for i in range(2)]
    assert "train/fit/epoch-2" in windows[0]
    assert windows[1] == ["run", "train/fit/epoch-2"]


def test_attached_it_comes_before_what_reports(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []

    class Reporter(transformers.TrainerCallback):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
            seen.append(dict(logs))

    trainer = trainer_of(tmp_path / "out", [Reporter()], max_steps=2, eval_strategy="steps", eval_steps=2)
    callback = energy_callback()
    callback.attach(trainer)
    trainer.train()
    assert all(isinstance(entry["energy_j"], float) for entry in seen)
    assert all("energy_how" not in entry for entry in seen)
    assert callback.record is None


def test_without_a_sensor_nothing_is_logged_as_energy(tmp_path: Path) -> None:
    with Meter([]) as meter:
        trainer = trainer_of(tmp_path / "out", [energy_callback(tmp_path / "run", meter=meter)], max_steps=2)
        trainer.train()
    assert not any(key in entry for entry in trainer.state.log_history for key in ("energy_j", "power_w"))
    assert all(entry["energy_how"].startswith("unknown: ") for entry in trainer.state.log_history)
    record = read_record(tmp_path / "run")
    assert record.total("train").joules is None
    assert record.total("train").reason
    assert all(finding.ok for finding in verify(tmp_path / "run"))
