"""The Signal Fabric: recordings in, aligned windows with masks out."""

from clisonix.fabric.embedded import watch_arrays, watch_file
from clisonix.fabric.fabric import Modality, SignalFabric, Window
from clisonix.fabric.grid import to_grid
from clisonix.fabric.readers import Columns, read_audio, read_csv, read_edf, read_npz, split_packed
from clisonix.fabric.stream import Event, Label, Recording, Stream

__all__ = [
    "Columns",
    "Event",
    "Label",
    "Modality",
    "Recording",
    "SignalFabric",
    "Stream",
    "Window",
    "read_audio",
    "read_csv",
    "read_edf",
    "read_npz",
    "split_packed",
    "to_grid",
    "watch_arrays",
    "watch_file",
]
