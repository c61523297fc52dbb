"""A file comes back bit for bit, and nothing hostile gets past the first look."""

from __future__ import annotations

import errno
import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from compress_zoo import make
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from clisonix.compress import compress, load, save
from clisonix.errors import ClisonixError


def same(a: nn.Module, b: nn.Module) -> bool:
    one, two = a.state_dict(), b.state_dict()
    return one.keys() == two.keys() and all(
        value.dtype == two[name].dtype
        and value.shape == two[name].shape
        and value.contiguous().view(-1).view(torch.uint8).equal(two[name].contiguous().view(-1).view(torch.uint8))
        for name, value in one.items()
    )


def rewrite(path: Path, tensors: dict[str, torch.Tensor], plan: Any) -> None:
    content = {"schema": "clisonix.model/1", "plan": plan}
    save_file(tensors, path, metadata={"clisonix": json.dumps(content)})


@pytest.mark.parametrize("budget", [0.5, None])
def test_a_model_comes_back_bit_for_bit(pair: tuple[nn.Module, Any], budget: float | None, file: Path) -> None:
    model, batch = pair
    given = model if budget is None else compress(model, budget, calibration=[batch])
    save(given, file)
    other = make(next(kind for kind in ("mlp", "cnn1d", "cnn2d", "cnn3d", "transformer") if fits(kind, model)))[0]
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.normal_()
    back = load(file, into=other)
    assert same(back, given)
    assert torch.equal(back(batch), given(batch))
    assert not same(other, model)
    assert all(parameter.requires_grad for parameter in back.parameters())
    first = file.read_bytes()
    save(back, file)
    assert file.read_bytes() == first


def fits(kind: str, model: nn.Module) -> bool:
    return make(kind)[0].state_dict().keys() == model.state_dict().keys() and repr(make(kind)[0]) == repr(model)


def test_training_goes_on_from_a_file(file: Path) -> None:
    model, batch = make("mlp")
    save(compress(model, 0.4), file)
    back = load(file, into=model)
    back(batch).square().sum().backward()
    assert all(parameter.grad is not None for parameter in back.parameters())


def test_what_compile_wraps_is_saved_under_its_own_names(file: Path) -> None:
    model, _ = make("mlp")
    small = compress(model, 0.4)
    save(torch.compile(small, backend="eager"), file)
    assert same(load(file, into=model), small)


def test_the_file_is_ordinary_safetensors(file: Path) -> None:
    small = compress(make("mlp")[0], 0.4)
    save(small, file)
    tensors = load_file(file)
    assert tensors.keys() == small.state_dict().keys()


def test_a_plain_safetensors_file_loads_as_dense(file: Path) -> None:
    model, _ = make("mlp")
    save_file(model.state_dict(), file)
    assert same(load(file, into=make("mlp")[0]), model)


def test_tied_weights_are_stored_once_and_stay_tied(file: Path) -> None:
    def build() -> nn.Sequential:
        model = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 40), nn.Linear(40, 40))
        model[2].weight = model[0].weight
        return model

    model = build()
    small = compress(model, 0.75)
    save(small, file)
    assert "2.weight" not in load_file(file)
    back = load(file, into=build())
    assert same(back, small)
    assert back[2].weight is back[0].weight


def test_two_parameters_in_one_storage_can_be_saved(file: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    both = torch.randn(2, 4, 4)
    model[0].weight, model[1].weight = nn.Parameter(both[0]), nn.Parameter(both[1].mT)
    save(model, file)
    assert same(load(file, into=nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))), model)


def test_every_prefix_of_a_file_is_refused(file: Path) -> None:
    model, _ = make("mlp")
    save(compress(model, 0.3), file)
    content = file.read_bytes()
    header = 8 + struct.unpack("<Q", content[:8])[0]
    lengths = {0, 1, 7, 8, 9, header - 1, header, header + 1, len(content) - 1, *range(0, len(content), 397)}
    for length in lengths:
        file.write_bytes(content[:length])
        with pytest.raises(ClisonixError):
            load(file, into=model)


def test_flipped_bytes_in_the_header_never_crash(file: Path) -> None:
    model, _ = make("mlp")
    save(compress(model, 0.3), file)
    content = file.read_bytes()
    header = 8 + struct.unpack("<Q", content[:8])[0]
    refused = 0
    for position in range(0, header, 3):
        file.write_bytes(content[:position] + bytes([content[position] ^ 0x15]) + content[position + 1 :])
        try:
            load(file, into=model)
        except ClisonixError:
            refused += 1
    assert refused > 0.9 * len(range(0, header, 3))


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"0": ["lowrank", 10**9]}, "whole number from 1 to 40"),
        ({"0": ["lowrank", 41]}, "whole number from 1 to 40"),
        ({"0": ["lowrank", 0]}, "whole number from 1 to 40"),
        ({"0": ["lowrank", -4]}, "whole number from 1 to 40"),
        ({"0": ["lowrank", True]}, "whole number from 1 to 40"),
        ({"0": ["lowrank", "8"]}, "whole number from 1 to 40"),
        ({"0": ["lowrank", 7.0]}, "whole number from 1 to 40"),
        ({"0": ["lowrank", 7]}, "needs"),
        ({"0": ["binary", 8]}, "expected"),
        ({"0": 8}, "expected"),
        ({"9": ["lowrank", 8]}, "no layer of this model"),
        ({"": ["lowrank", 8]}, "no layer of this model"),
        ({"1": ["lowrank", 8]}, "no layer of this model"),
        ([], "not one this program wrote"),
        (None, "lacks the tensor '0.weight'"),
    ],
)
def test_hostile_plans_in_a_file(plan: Any, message: str, file: Path) -> None:
    model = nn.Sequential(nn.Linear(40, 40), nn.ReLU())
    small = compress(model, 0.7)
    rank = small[0].weight.rank
    tensors = {name: value.detach() for name, value in small.state_dict().items()}
    assert rank not in (7, 8)
    rewrite(file, tensors, plan)
    with pytest.raises(ClisonixError, match=message):
        load(file, into=model)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "3", '{"schema": "clisonix.model/2", "plan": null}', "{}"])
def test_metadata_that_is_no_plan(text: str, file: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    save_file(model.state_dict(), file, metadata={"clisonix": text})
    with pytest.raises(ClisonixError, match=r"damaged|update clisonix"):
        load(file, into=model)


def test_tensors_that_are_missing_unexpected_or_of_another_type(file: Path) -> None:
    model = nn.Sequential(nn.Linear(40, 40))
    small = compress(model, 0.7)
    tensors = {name: value.detach() for name, value in small.state_dict().items()}
    plan = {"0": ["lowrank", small[0].weight.rank]}
    rewrite(file, tensors, plan)
    load(file, into=model)
    for changed, message in (
        ({name: value for name, value in tensors.items() if name != "0.bias"}, r"lacks the tensor '0\.bias'"),
        ({**tensors, "0.extra": torch.zeros(1)}, r"holds the tensor '0\.extra'"),
        ({**tensors, "0.bias": torch.zeros(41)}, "shape"),
        ({**tensors, "0.bias": torch.zeros(40, dtype=torch.float64)}, "F64"),
    ):
        rewrite(file, changed, plan)
        with pytest.raises(ClisonixError, match=message):
            load(file, into=model)


def test_the_wrong_model_is_refused(file: Path) -> None:
    save(compress(make("mlp")[0], 0.5), file)
    for kind in ("cnn1d", "cnn2d", "transformer"):
        with pytest.raises(ClisonixError):
            load(file, into=make(kind)[0])
    with pytest.raises(ClisonixError, match="compressed already"):
        load(file, into=compress(make("mlp")[0], 0.5))
    with torch.device("meta"), pytest.raises(ClisonixError, match="meta device"):
        load(file, into=nn.Sequential(nn.Linear(4, 4)))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    model = nn.Linear(4, 4)
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(ClisonixError, match="cannot read"):
            load(path, into=model)


def test_a_pickle_is_never_opened(file: Path) -> None:
    torch.save(nn.Linear(4, 4).state_dict(), file)
    with pytest.raises(ClisonixError, match="not a safetensors file"):
        load(file, into=nn.Linear(4, 4))


def test_a_full_disk_leaves_the_old_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = make("mlp")
    save(model, file)
    before = file.read_bytes()

    def full(*args: object, **kwargs: object) -> None:
        raise SafetensorError(f"I/O error: No space left on device (os error {errno.ENOSPC})")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(ClisonixError, match="the disk is full"):
        save(compress(model, 0.5), file)
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


LIMITED = """
import resource, sys
from pathlib import Path
from torch import nn
from clisonix.compress import save
from clisonix.errors import ClisonixError
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    save(nn.Linear(100, 100), sys.argv[1])
except ClisonixError as error:
    print(error)
    sys.exit(0 if not list(Path(sys.argv[1]).parent.iterdir()) else 3)
"""


def test_a_real_write_failure_is_one_sentence(file: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(file)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"cannot write {file}: File too large"


def test_what_cannot_be_stored_is_named(file: Path) -> None:
    model = nn.Linear(4, 4)
    model.register_buffer("odd", torch.zeros(3, dtype=torch.complex128))
    with pytest.raises(ClisonixError, match="odd is a"):
        save(model, file)
    with pytest.raises(ClisonixError, match="lazy module"):
        save(nn.LazyLinear(4), file)
