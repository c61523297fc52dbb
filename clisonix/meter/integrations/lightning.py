"""Energy in the logs of a Lightning trainer, and a run folder at its end; for both names of that package."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

from clisonix.errors import ClisonixError
from clisonix.meter.integrations.session import EVALUATE, Session
from clisonix.meter.meter import Meter
from clisonix.meter.recording.record import Record

PACKAGES = ("lightning.pytorch", "pytorch_lightning")


def _bases() -> list[type]:
    """The class of callbacks of each package that is installed: a trainer knows only its own."""
    found: list[type] = []
    reasons = []
    for package in PACKAGES:
        try:
            found.append(importlib.import_module(package).Callback)
        except ImportError as error:
            reasons.append(str(error))
    if not found:
        raise ClisonixError(f"the package lightning cannot be used ({reasons[0]}): pip install lightning")
    return found


class EnergyCallback(*_bases()):  # type: ignore[misc]
    """Meters `fit`.

    ```python
    trainer = Trainer(..., callbacks=[EnergyCallback("runs/mine", place="FRA")])
    trainer.fit(model)
    ```

    Logs `energy_j`, `energy_low_j` and `energy_high_j`, the energy since `fit` began with its 95 % interval as of the
    meter's last sample, at most a second or so ago, and `power_w`, the mean power since an entry at least a second
    old: whenever the trainer logs a step, and after each epoch. What is unknown is left out, and why is logged once;
    `how` says how the figures were obtained.

    Windows: `run` is the whole of `fit`; inside are `train/<phase>/epoch-<k>`, and outside of these `evaluate`.
    Writing checkpoints counts to where it happens.

    Of several processes the first logs its own figures: the GPUs that it uses itself. With a folder each process
    writes the run `rank-<k>` in it; `clisonix merge` makes one record of them and counts each device once.

    Args:
        folder: of the run, new or empty, for `clisonix report`, `compare` and `verify`; None writes nothing. A
            training that is resumed from a checkpoint adds to the folder that it began.
        meter: a running meter to use; None makes one for the time of `fit`.
        place: where the electricity comes from, see `carbon`.
        visible: the text of `CUDA_VISIBLE_DEVICES`; None takes the GPUs that this process uses.
        phase: middle part of the epochs' names; epochs of equal phase can be compared.
        seed: of all randomness: pairs runs in a comparison.
    """

    def __init__(
        self,
        folder: Path | str | None = None,
        *,
        meter: Meter | None = None,
        place: str | None = None,
        visible: str | None = None,
        phase: str = "fit",
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self._session = Session(folder, meter, place, visible, phase)
        self._seed = seed
        self._epoch: str | None = None

    @property
    def how(self) -> str:
        """How the figures logged last were obtained, or why there are none."""
        return self._session.how

    @property
    def record(self) -> Record | None:
        """What was written into the folder; None before the end."""
        return self._session.record

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin to meter."""
        self._epoch = None
        self._session.begin(
            rank=trainer.global_rank,
            world=trainer.world_size,
            resume=trainer.ckpt_path is not None,
            seed=self._seed,
            config=dict(getattr(pl_module, "hparams", {})),
            packages=("torch", "lightning", "pytorch-lightning"),
            parent_counts=_started_by_another(trainer),
        )

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """An epoch begins."""
        self._epoch = self._session.epoch(trainer.current_epoch + 1)
        self._session.switch(self._epoch)

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Evaluation is not training."""
        self._session.switch(EVALUATE)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Back to the epoch."""
        self._session.switch(self._epoch)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any, **__: Any) -> None:
        """Log where the trainer does."""
        if trainer.loggers and trainer._logger_connector.should_update_logs:
            self._log(trainer, pl_module, on_step=True, on_epoch=False)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Log what was used so far."""
        self._epoch = None
        self._session.switch(None)
        self._log(trainer, pl_module, on_step=False, on_epoch=True)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """End, and write the record."""
        self._session.end({"parameters": sum(p.numel() for p in pl_module.parameters())})

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Keep the trace of a training that fails."""
        self._session.abort(exception)

    def _log(self, trainer: Any, pl_module: Any, **when: bool) -> None:
        if trainer.is_global_zero and (found := self._session.figures()):
            pl_module.log_dict(found, rank_zero_only=True, batch_size=1, **when)


def _started_by_another(trainer: Any) -> bool:
    """Whether another process of the run started this one, so that it finds its CPU time among its descendants'.

    So it is where Lightning starts the processes of a machine by running the script again.
    """
    launcher = type(getattr(trainer.strategy, "launcher", None)).__name__
    if not trainer.local_rank or launcher != "_SubprocessScriptLauncher":
        return False
    try:
        return os.readlink(f"/proc/{os.getppid()}/exe") == os.readlink("/proc/self/exe")
    except OSError:  # without /proc nobody sees the time of live descendants
        return False
