"""The Signal Fabric: recordings in, aligned windows with masks out."""

from clisonix.fabric.cut import Modality
from clisonix.fabric.embedded import watch_arrays, watch_file
from clisonix.fabric.fabric import SignalFabric
from clisonix.fabric.grid import to_grid
from clisonix.fabric.load import load
from clisonix.fabric.loader import Loader, LoaderStats
from clisonix.fabric.mapped import mapped
from clisonix.fabric.packed import read_npz, split_packed
from clisonix.fabric.source import Chunk, Source, SourceInfo, StreamInfo
from clisonix.fabric.sources import open_source
from clisonix.fabric.sources.columns import Columns
from clisonix.fabric.stream import Event, Label, Recording, Stream
from clisonix.fabric.window import Window

__all__ = [
    "Chunk",
    "Columns",
    "Event",
    "Label",
    "Loader",
    "LoaderStats",
    "Modality",
    "Recording",
    "SignalFabric",
    "Source",
    "SourceInfo",
    "Stream",
    "StreamInfo",
    "Window",
    "load",
    "mapped",
    "open_source",
    "read_npz",
    "split_packed",
    "to_grid",
    "watch_arrays",
    "watch_file",
]
