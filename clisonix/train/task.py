"""What a config asks to learn: windows to train on, windows to test on, a model that fits them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from clisonix.errors import ClisonixError
from clisonix.fabric import Label, Recording, SignalFabric, Window
from clisonix.models import StreamTransformer, TokenSpec
from clisonix.train.config import RunConfig, TokenConfig
from clisonix.train.recordings import class_labels, open_recordings, set_aside, split_recordings

_MOST_NOTES = 20
_CALIBRATION_WINDOWS = 512
_FIT_WINDOWS = 1024  # enough for a mean and a spread per feature


@dataclass(frozen=True)
class Task:
    """Training windows, test windows, the classes, and sentences about the data for the record.

    `validation` holds windows out of the training recordings for the early stop, None without one.
    """

    train: SignalFabric
    test: SignalFabric
    classes: tuple[Label, ...]
    notes: tuple[str, ...]
    validation: SignalFabric | None = None

    @property
    def rates_hz(self) -> dict[str, float]:
        """Rate of each modality."""
        return {name: m.rate_hz for name, m in self.train.modalities.items()}

    def calibration(self, epoch: int) -> list[Window]:
        """Batches of training windows that show a compressor what each layer sees; the same for the same epoch."""
        rows, size = self.train.order(epoch)[:_CALIBRATION_WINDOWS], self.train.batch_size or 1
        return [self.train.gather(rows[i : i + size]) for i in range(0, len(rows), size)]


def open_task(config: RunConfig, root: Path | None) -> Task:
    """Read the recordings of a config and cut them into windows.

    Raises:
        ClisonixError: whatever is wrong with the data; nothing has been written by then.
    """
    data, window = config.data, config.data.window
    said: list[str] = []
    recordings = open_recordings(data, root, said)
    train_recordings, test_recordings = split_recordings(recordings, data.split)
    classes = class_labels(recordings, window.around == "events")
    held_back: list[Recording] = []
    if config.recipe is not None and config.recipe.stop.use:
        train_recordings, held_back = set_aside(train_recordings, config.recipe.stop.validation, config.seed)
    everything = SignalFabric(
        recordings,
        window=window.length_s,
        hop=window.hop_s,
        around=window.around,
        offset=window.offset_s,
        rank=0,
        world=1,
    )

    def fabric(
        chosen: list[Recording],
        hop_s: float | None,
        batch_size: int,
        shuffle: bool,
        rank: int | None = None,
        world: int | None = None,
    ) -> SignalFabric:
        return SignalFabric(
            chosen,
            window=window.length_s,
            hop=hop_s,
            around=window.around,
            offset=window.offset_s,
            classes=classes,
            modalities=everything.modalities,
            missing=data.missing,
            batch_size=batch_size,
            shuffle=shuffle,
            drop_last=shuffle,
            seed=config.seed,
            rank=rank,
            world=world,
        )

    notes = [*said[:_MOST_NOTES], *([f"and {len(said) - _MOST_NOTES} more"] if len(said) > _MOST_NOTES else [])]
    notes += [
        f"{name}: {lost} of {total} values were not measured and are masked"
        for name, (lost, total) in everything.masked.items()
        if lost
    ]
    left_out = sum(len(r.events) for r in recordings) - len(everything.table)
    if window.around == "events" and left_out:
        notes.append(f"{left_out} events lie too close to the edge of their recording and are left out")
    train = fabric(train_recordings, window.train_hop_s or window.hop_s, config.train.batch_size, True)
    if not len(train):
        raise ClisonixError(
            f"there are {len(train.table)} windows to train on, which do not fill one batch of "
            f"{config.train.batch_size}: lower train.batch_size or data.window.train_hop_s"
        )
    # Every rank looks at all held-out windows: figures of a share of them would be none of the model.
    test = fabric(test_recordings, window.hop_s, max(config.train.batch_size, 128), False, rank=0, world=1)
    validation = None
    if held_back:
        validation = fabric(held_back, window.hop_s, max(config.train.batch_size, 128), False, rank=0, world=1)
        notes.append(f"{len(held_back)} training recordings are set aside for the early stop")
    return Task(train, test, tuple(classes), tuple(notes), validation)


def build_model(config: RunConfig, task: Task) -> StreamTransformer:
    """A dense model with fresh weights, scaled to the training windows."""
    m = config.model
    specs = {}
    for name, modality in task.train.modalities.items():
        tokens = m.tokens.get(name, TokenConfig())
        specs[name] = TokenSpec(*modality, **tokens.model_dump())
    model = StreamTransformer(
        specs,
        len(task.classes),
        width=m.width,
        depth=m.depth,
        heads=m.heads,
        expansion=m.expansion,
        dropout=m.dropout,
    )
    with torch.no_grad():
        model.fit(task.train.gather(task.train.order(0)[:_FIT_WINDOWS]))
    return model
