"""`torch.hub` makes the models of a checkout by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import clisonix
from clisonix.models import StreamTransformer

ROOT = str(Path(__file__).parent.parent)
STREAMS = {"eeg": {"channels": 4, "rate_hz": 128.0, "samples": 256}}


def test_hub_makes_the_reference_model_and_reads_compressed_ones(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.hub.load(ROOT, "stream_transformer", STREAMS, 3, source="local", width=64, depth=1)
    assert isinstance(model, StreamTransformer)
    small = clisonix.compress(model.eval(), budget=0.5)
    clisonix.save(small, tmp_path / "small.safetensors")
    torch.manual_seed(1)
    fresh = torch.hub.load(ROOT, "stream_transformer", STREAMS, 3, source="local", width=64, depth=1).eval()
    back = torch.hub.load(ROOT, "compressed", tmp_path / "small.safetensors", fresh, source="local")
    for name, tensor in small.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor)
    with pytest.raises(TypeError, match="sampels"):
        torch.hub.load(ROOT, "stream_transformer", {"eeg": {"sampels": 3}}, 3, source="local")
