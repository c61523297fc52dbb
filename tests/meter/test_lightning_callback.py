"""The callback in the real Lightning trainer, under both names of the package."""

from __future__ import annotations

import csv
import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from clisonix.meter import Meter, Trace, read_record, verify

# Lightning itself still uses what torch and others have deprecated.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]


@pytest.fixture(params=["lightning.pytorch", "pytorch_lightning"])
def package(request: pytest.FixtureRequest) -> Any:
    return pytest.importorskip(request.param, exc_type=ImportError)


def energy_callback(*given: Any, **more: Any) -> Any:
    from clisonix.meter.integrations.lightning import EnergyCallback

    return EnergyCallback(*given, **more)


def fit(
    package: Any, folder: Path, callback: Any, fail_at: int = -1, resume: Path | None = None, **settings: Any
) -> Any:
    class Classifier(package.LightningModule):  # type: ignore[misc,name-defined]
        def __init__(self, width: int = 2) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.layer = nn.Linear(8, width)

        def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
            if self.trainer.global_step == fail_at:
                raise RuntimeError("the machine is gone")
            return nn.functional.cross_entropy(self.layer(batch[0]), batch[1])

        def validation_step(self, batch: list[torch.Tensor], index: int) -> None:
            self.log("val_loss", nn.functional.cross_entropy(self.layer(batch[0]), batch[1]))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    rows = torch.utils.data.TensorDataset(torch.randn(32, 8), torch.arange(32) % 2)
    loaders = [torch.utils.data.DataLoader(rows, batch_size=4) for _ in range(2)]
    loggers = importlib.import_module(f"{package.__name__}.loggers")
    chosen = {
        "max_epochs": 2, "accelerator": "cpu", "logger": loggers.CSVLogger(folder / "csv", name="", version=""),
        "enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 3,
        "val_check_interval": 4, "default_root_dir": folder, **settings,
    }  # fmt: skip
    trainer = package.Trainer(callbacks=[callback], **chosen)
    trainer.fit(Classifier(), *loaders, ckpt_path=resume)
    return trainer


def test_logs_windows_and_folder_of_a_fit(package: Any, tmp_path: Path) -> None:
    callback = energy_callback(tmp_path / "run", place="FRA", seed=7)
    trainer = fit(package, tmp_path, callback)
    with (tmp_path / "csv/metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["energy_j"]]
    # After steps 3, 6, 9, 12 and 15, and after both epochs.
    assert len(rows) == 7
    assert all(float(r["energy_low_j"]) <= float(r["energy_j"]) <= float(r["energy_high_j"]) for r in rows)
    spent = [float(row["energy_j"]) for row in rows]
    assert spent == sorted(spent)
    assert float(trainer.callback_metrics["energy_j"]) == pytest.approx(spent[-1])
    assert float(rows[-1]["power_w"]) > 0
    record = read_record(tmp_path / "run")
    assert record == callback.record
    assert set(record.energy) == {"run", "train", "train/fit", "evaluate"}
    assert (record.seed, record.config, record.size) == (7, {"width": 2}, {"parameters": 18})
    assert all(finding.ok for finding in verify(tmp_path / "run"))
    names = [span.name for span in Trace.load(tmp_path / "run/trace-0.npz").windows]
    assert list(dict.fromkeys(names)) == ["run", "evaluate", "train/fit/epoch-1", "train/fit/epoch-2"]
    # The check before training, and two evaluations in each epoch.
    assert names.count("evaluate") == 5
    assert "obtained" in (tmp_path / "run/report.html").read_text()


def test_a_fit_that_fails_keeps_its_trace_and_goes_on_from_a_checkpoint(package: Any, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the machine is gone"):
        fit(package, tmp_path, energy_callback(tmp_path / "run"), fail_at=10)
    assert (tmp_path / "run/trace-0.npz").is_file()
    assert not (tmp_path / "run/record.json").exists()
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    callback = energy_callback(tmp_path / "run")

    fit(package, tmp_path, callback, resume=checkpoint)
    assert [attempt["ended_cleanly"] for attempt in callback.record.attempts] == [False, True]
    assert all(finding.ok for finding in verify(tmp_path / "run"))
    assert "train/fit/epoch-1" not in Trace.load(tmp_path / "run/trace-1.npz").names()


def test_without_a_sensor_nothing_is_logged_as_energy(package: Any, tmp_path: Path) -> None:
    with Meter([]) as meter:
        callback = energy_callback(meter=meter)
        trainer = fit(package, tmp_path, callback, max_epochs=1)
    assert "energy_j" not in trainer.callback_metrics
    assert "val_loss" in trainer.callback_metrics
    assert callback.how.startswith("unknown: ")
    assert callback.record is None
