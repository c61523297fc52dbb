"""Energy in the logs of `transformers.Trainer`, and a run folder at its end."""

from __future__ import annotations

from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from clisonix.errors import ClisonixError
from clisonix.meter.integrations.session import CHECKPOINT, EVALUATE, Session
from clisonix.meter.meter import Meter
from clisonix.meter.recording.record import Record

try:
    from transformers import DefaultFlowCallback, TrainerCallback
except ImportError as error:
    raise ClisonixError(f"the package transformers cannot be used ({error}): pip install transformers") from error

HOW = "energy_how"


class EnergyCallback(TrainerCallback):  # type: ignore[misc]
    """Meters a training run.

    ```python
    trainer = Trainer(..., callbacks=[EnergyCallback("runs/mine", place="FRA")])
    trainer.train()
    ```

    Every entry that the trainer logs gets `energy_j`, `energy_low_j` and `energy_high_j`, the energy since training
    began with its 95 % interval as of the meter's last sample, at most a second or so ago, and `power_w`, the mean
    power since an entry at least a second old. The trainer's `state.log_history` also says how that was obtained, as
    `energy_how`. What is unknown is left out, and why is logged once. Reporting callbacks that the trainer sets up
    itself run before those in `callbacks`: use `attach` where TensorBoard, W&B and the like shall get the figures.

    Windows: `run` is the whole of `train`; inside are `train/<phase>/epoch-<k>`, and outside of these `evaluate` and
    `checkpoint`. An evaluation that the training loop did not ask for counts from its second batch on.

    Of several processes the first logs its own figures: the GPUs that it uses itself. With a folder each process
    writes the run `rank-<k>` in it; `clisonix merge` makes one record of them and counts each device once.

    Args:
        folder: of the run, new or empty, for `clisonix report`, `compare` and `verify`; None writes nothing. A
            training that is resumed from a checkpoint adds to the folder that it began.
        meter: a running meter to use; None makes one for the time of `train`.
        place: where the electricity comes from, see `carbon`.
        visible: the text of `CUDA_VISIBLE_DEVICES`; None takes the GPUs that this process uses.
        phase: middle part of the epochs' names; epochs of equal phase can be compared.
    """

    def __init__(
        self,
        folder: Path | str | None = None,
        *,
        meter: Meter | None = None,
        place: str | None = None,
        visible: str | None = None,
        phase: str = "fit",
    ) -> None:
        self._session = Session(folder, meter, place, visible, phase)
        self._epoch: str | None = None

    @property
    def how(self) -> str:
        """How the figures logged last were obtained, or why there are none."""
        return self._session.how

    @property
    def record(self) -> Record | None:
        """What was written into the folder; None before the end."""
        return self._session.record

    def attach(self, trainer: Any) -> None:
        """Add this to a trainer, before its reporting callbacks."""
        handler = trainer.callback_handler
        handler.add_callback(self)
        handler.callbacks.remove(self)
        # The flow callback decides on evaluation and saving, which the windows follow.
        flow = [i for i, one in enumerate(handler.callbacks) if isinstance(one, DefaultFlowCallback)]
        handler.callbacks.insert(flow[0] + 1 if flow else 0, self)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begin to meter."""
        self._epoch = None
        self._session.begin(
            rank=args.process_index,
            world=args.world_size,
            resume=state.global_step > 0,
            seed=args.seed,
            config=_changed(args),
            packages=("torch", "transformers", "accelerate"),
            several_gpus=args.n_gpu > 1,
        )

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """An epoch begins."""
        # After two epochs this may be 1.9999.
        self._epoch = self._session.epoch(int((state.epoch or 0) + 1e-3) + 1)
        self._session.switch(self._epoch)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Back from whatever the last step led to."""
        self._session.switch(self._epoch)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Evaluation and saving follow at once where the flow asks for them."""
        if control.should_evaluate or control.should_save:
            self._session.switch(EVALUATE if control.should_evaluate else CHECKPOINT)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The epoch's own work is done."""
        self._epoch = None
        self._session.switch(EVALUATE if control.should_evaluate else CHECKPOINT if control.should_save else None)

    def on_prediction_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Somebody evaluates; whatever else is metered at this time is not training."""
        self._session.switch(EVALUATE)

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The evaluation is over."""
        self._session.switch(CHECKPOINT if control.should_save else self._epoch)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The checkpoint is written."""
        self._session.switch(self._epoch)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Add the figures to what is logged."""
        if not state.is_world_process_zero or not self._session.active:
            return
        found = self._session.figures()
        if logs is not None:
            logs.update(found)
        if state.log_history:
            # Reporting callbacks take numbers only, so the words stand in the history alone.
            state.log_history[-1].update({**found, HOW: self._session.how})

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """End, and write the record."""
        parameters = {} if model is None else {"parameters": sum(p.numel() for p in model.parameters())}
        self._session.end(parameters)


def _changed(args: Any) -> dict[str, Any]:
    """The arguments that are not at their defaults; keys to services are hidden by `to_dict`."""
    shown = args.to_dict()
    found = {}
    for field in fields(args):
        default = field.default
        if default is MISSING and field.default_factory is not MISSING:
            default = field.default_factory()
        if field.name in shown and getattr(args, field.name) != default:
            found[field.name] = shown[field.name]
    return found
