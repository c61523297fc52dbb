"""Models of other libraries are compressed like our own: nothing in them is lost, and nothing left out silently."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

WORKER = Path(__file__).parent / "zoo_worker.py"
ZOO = {
    "transformers": (
        *("bert", "distilbert", "albert", "mobilebert", "gpt2", "llama", "mixtral", "t5", "mamba", "vit"),
        *("wav2vec2", "whisper"),
    ),
    "timm": ("vit_tiny", "resnet18", "convnext_atto", "efficientnet_lite0", "mixer"),
    "braindecode": (
        *("eegnet", "shallow_fbcsp", "deep4", "eegconformer", "atcnet", "labram", "biot", "sleep_stager"),
    ),
}
TIED = {"distilbert", "gpt2", "mamba", "t5", "whisper"}


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the worker wrote of all models of a library; it is started once for each."""

    @cache
    def of(library: str) -> dict[str, Any]:
        out = tmp_path_factory.mktemp("zoo") / f"{library}.json"
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, str(WORKER), library, str(out)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(out.read_text())
        return found

    return of


@pytest.fixture
def note(notes: Any, library: str, name: str) -> dict[str, Any]:
    if library != "transformers" and not Path(os.environ.get("CLISONIX_ZOO", "") or "/nowhere").is_dir():
        pytest.skip("CLISONIX_ZOO does not name the folder that scripts/zoo.sh makes")
    found: dict[str, Any] = notes(library)[name]
    assert "failed" not in found, found["failed"]
    return found


every = pytest.mark.parametrize(("library", "name"), [(library, name) for library in ZOO for name in ZOO[library]])


@every
def test_outputs_have_the_shapes_and_dtypes_of_the_dense_model(note: dict[str, Any]) -> None:
    assert note["shapes"] == note["shapes of the compressed"]
    assert note["shapes"]
    assert note["finite"]


@every
def test_every_weight_is_compressed_or_kept_for_a_reason(note: dict[str, Any]) -> None:
    assert note["compressed"] > 0
    assert note["silent"] == []
    assert all(note["kept"].values())


@every
def test_what_had_a_gradient_has_one(note: dict[str, Any]) -> None:
    assert note["without gradient"] == []


@every
def test_a_file_gives_back_the_same_bits(note: dict[str, Any]) -> None:
    assert note["state differs"] == []
    assert not note["output differs"]


@every
def test_the_file_weighs_what_was_planned_and_fills_its_budget(note: dict[str, Any]) -> None:
    assert note["bytes"] == note["planned"]
    assert 0.99 * note["budget"] <= note["bytes"] <= note["budget"]


@every
def test_it_compiles_in_one_graph_if_the_dense_model_does(note: dict[str, Any]) -> None:
    assert note["compile"] == ""


@every
def test_what_was_tied_stays_tied(note: dict[str, Any], name: str) -> None:
    assert note["untied"] == []
    assert bool(note["tied"]) == (name in TIED)


@pytest.mark.parametrize(
    ("library", "name", "weight", "reason"),
    [
        ("braindecode", "deep4", "conv_time_spat.conv_time.weight", "CombinedConv reads its weight itself"),
        ("braindecode", "deep4", "conv_time_spat.conv_spat.weight", "CombinedConv reads its weight itself"),
        ("transformers", "mamba", "backbone.layers.0.mixer.dt_proj.weight", "MambaMixer reads its weight itself"),
        ("transformers", "mamba", "backbone.layers.0.mixer.conv1d.weight", "grouped convolution"),
    ],
)
def test_weights_that_cannot_be_compressed_say_why(note: dict[str, Any], weight: str, reason: str) -> None:
    assert reason in note["kept"][weight]


@every
def test_without_calibration_weights_that_a_model_reads_itself_are_kept_all_the_same(note: dict[str, Any]) -> None:
    assert note["blind"] == ""
