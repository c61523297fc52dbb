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
from compress_forms import everything, filled, matrices_for
from compress_zoo import make
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from clisonix.compress import Form, compress, converted, load, save, survey
from clisonix.errors import ClisonixError
from clisonix.liam.tiled import Packed


def same(a: nn.Module, b: nn.Module) -> bool:
    one, two = a.state_dict(), b.state_dict()
    return one.keys() == two.keys() and all(
        value.dtype == two[name].dtype
        and value.shape == two[name].shape
        and value.contiguous().view(-1).view(torch.uint8).equal(two[name].contiguous().view(-1).view(torch.uint8))
        for name, value in one.items()
    )


def lowered(model: nn.Module, rank: int = 2) -> nn.Module:
    """`model` with every weight that can be of that rank."""
    sites = [site for site in survey(model) if site.reason is None and min(site.shape) > rank]
    form = Form("lowrank", rank=rank)
    return converted(model, {site.name: filled(form, site.matrix_shape) for site in sites})


def rewrite(path: Path, tensors: dict[str, torch.Tensor], plan: Any, schema: str = "clisonix.model/2") -> None:
    content = {"schema": schema, "plan": plan}
    save_file(tensors, path, metadata={"clisonix": json.dumps(content)})


@pytest.mark.parametrize("small", [True, False])
def test_a_model_comes_back_bit_for_bit(pair: tuple[nn.Module, Any], small: bool, file: Path) -> None:
    model, batch = pair
    given = lowered(model) if small else model
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
    save(lowered(model), file)
    back = load(file, into=model)
    back(batch).square().sum().backward()
    assert all(parameter.grad is not None for parameter in back.parameters())


def test_what_compile_wraps_is_saved_under_its_own_names(file: Path) -> None:
    model, _ = make("mlp")
    small = lowered(model)
    save(torch.compile(small, backend="eager"), file)
    assert same(load(file, into=model), small)


def test_the_file_is_ordinary_safetensors(file: Path) -> None:
    small = lowered(make("mlp")[0])
    save(small, file)
    tensors = load_file(file)
    assert tensors.keys() == small.state_dict().keys()


def test_a_plain_safetensors_file_loads_as_dense(file: Path) -> None:
    model, _ = make("mlp")
    save_file(model.state_dict(), file)
    assert same(load(file, into=make("mlp")[0]), model)


@pytest.mark.parametrize("maker", ["low rank", "double binary", "sparse", "half"])
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_a_file_is_enough_for_a_model_on_meta(maker: str, file: Path) -> None:
    model, tokens = everything()
    small = converted(model, matrices_for(model, maker))
    save(small, file)
    with torch.device("meta"):
        into = type(model)().eval()
    back = load(file, into=into)
    assert same(back, small)
    assert torch.equal(back(tokens), small(tokens))
    assert back.head.weight is back.embedding.weight
    assert not any(tensor.is_meta for tensor in (*back.parameters(), *back.buffers()))
    assert all(tensor.is_meta for tensor in into.parameters())


def test_tied_weights_are_stored_once_and_stay_tied(file: Path) -> None:
    def build() -> nn.Sequential:
        model = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 40), nn.Linear(40, 40))
        model[2].weight = model[0].weight
        return model

    for given in (build(), lowered(build())):
        save(given, file)
        assert not any(name.startswith("2.weight") for name in load_file(file))
        back = load(file, into=build())
        assert same(back, given)
        assert back[2].weight is back[0].weight


def test_what_refers_to_a_tensor_elsewhere_sees_the_loaded_one(file: Path) -> None:
    def build() -> nn.Sequential:
        model = nn.Sequential(nn.Linear(4, 4), nn.LSTM(4, 5))
        model[0].also = [model[0].bias]
        return model

    model, x = build(), torch.randn(3, 2, 4)
    save(model, file)
    back = load(file, into=build())
    assert back[0].also[0] is back[0].bias
    assert torch.equal(back[0].also[0], model[0].bias)
    assert torch.equal(back(x)[0], model(x)[0])
    assert not any(parameter.is_meta for parameter in back.parameters())


def test_values_that_no_file_holds_must_be_there(file: Path) -> None:
    model = nn.Linear(4, 4)
    model.register_buffer("table", torch.arange(3.0), persistent=False)
    save(model, file)
    assert torch.equal(load(file, into=model).table, torch.arange(3.0))
    with pytest.raises(ClisonixError, match="'table' is a buffer that no file holds"):
        load(file, into=model.to("meta"))


def test_memory_for_loading_is_that_of_the_small_model(file: Path) -> None:
    model = nn.Sequential(*(nn.Linear(512, 512) for _ in range(8)))
    save(lowered(model), file)
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(file)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 4 << 20, done.stdout


PEAK = """
import resource, sys
import torch
from torch import nn
from clisonix.compress import load
with torch.device("meta"):
    model = nn.Sequential(*(nn.Linear(512, 512) for _ in range(8)))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
load(sys.argv[1], into=model)
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
"""


def test_two_parameters_in_one_storage_can_be_saved(file: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    both = torch.randn(2, 4, 4)
    model[0].weight, model[1].weight = nn.Parameter(both[0]), nn.Parameter(both[1].mT)
    save(model, file)
    assert same(load(file, into=nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))), model)


def test_every_prefix_of_a_file_is_refused(file: Path) -> None:
    model, _ = make("mlp")
    save(lowered(model), file)
    content = file.read_bytes()
    header = 8 + struct.unpack("<Q", content[:8])[0]
    lengths = {0, 1, 7, 8, 9, header - 1, header, header + 1, len(content) - 1, *range(0, len(content), 397)}
    for length in lengths:
        file.write_bytes(content[:length])
        with pytest.raises(ClisonixError):
            load(file, into=model)


def test_flipped_bytes_in_the_header_never_crash(file: Path) -> None:
    model, _ = make("mlp")
    save(lowered(model), file)
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


LOWRANK = {"kind": "lowrank", "rank": 8}


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"0.weight": {"kind": "lowrank", "rank": 10**9}}, "whole number from 1 to 40"),
        ({"0.weight": {"kind": "lowrank", "rank": 41}}, "whole number from 1 to 40"),
        ({"0.weight": {"kind": "lowrank", "rank": 10**30}}, "whole number from 1 on"),
        ({"0.weight": {"kind": "lowrank", "rank": 0}}, "whole number from 1 on"),
        ({"0.weight": {"kind": "lowrank", "rank": True}}, "whole number from 1 on"),
        ({"0.weight": {"kind": "lowrank", "rank": "8"}}, "whole number from 1 on"),
        ({"0.weight": {"kind": "lowrank", "rank": 7}}, "needs"),
        ({"0.weight": {"kind": "double binary", "rank": 2**31 - 1}}, "whole number from 1 to 2560"),
        ({"0.weight": {"kind": "double binary", "rank": 2560}}, "lacks the tensor"),
        ({"0.weight": {"kind": "sparse", "nnz": 1601}}, "at most 1600"),
        ({"0.weight": {"kind": "integer", "bits": 8, "group": 2**40}}, "whole number from 1 on"),
        ({"0.weight": {"kind": "binary"}}, "holds the tensor"),
        ({"0.weight": {"kind": "keep"}}, "goes without saying"),
        ({"0.weight": {"kind": "os.system"}}, "is unknown"),
        ({"0.weight": 8}, "is no form"),
        ({"9.weight": LOWRANK}, "no weight of this model"),
        ({"": LOWRANK}, "no weight of this model"),
        ({"../../0.weight": LOWRANK}, "no weight of this model"),
        ({"0.__class__": LOWRANK}, "no weight of this model"),
        ({"0.bias": LOWRANK}, "no weight of this model"),
        ([], "not one this program wrote"),
        (None, "lacks the tensor '0.weight'"),
    ],
)
def test_hostile_plans_in_a_file(plan: Any, message: str, file: Path) -> None:
    model = nn.Sequential(nn.Linear(40, 40), nn.ReLU())
    tensors = {name: value.detach() for name, value in lowered(model, 6).state_dict().items()}
    rewrite(file, tensors, plan)
    with pytest.raises(ClisonixError, match=message):
        load(file, into=model)


def test_a_sum_of_a_million_terms_is_refused_before_it_is_built(file: Path) -> None:
    model = nn.Sequential(nn.Linear(40, 40))
    tensors = {name: value.detach() for name, value in lowered(model, 6).state_dict().items()}
    rewrite(file, tensors, {"0.weight": {"kind": "sum", "parts": [{"kind": "binary"}] * 100_000}})
    with pytest.raises(ClisonixError, match="parts"):
        load(file, into=model)


@pytest.mark.parametrize(
    ("form", "name", "value"),
    [
        (Form("sparse", nnz=9), "col", 7),
        (Form("sparse", nnz=9), "col", -1),
        (Form("sparse", nnz=9), "crow", 10**6),
        (Form("block sparse", nnz=3, block=(2, 2)), "col", 4),
        (Form("block sparse", nnz=3, block=(2, 2)), "crow", -3),
        (Form("two of four"), "places", 0),
        (Form("sum", parts=(Form("binary"), Form("sparse", nnz=9))), "terms.1.col", 99),
        (Form("product", inner=(3,), parts=(Form("binary"), Form("sparse", nnz=9))), "factors.1.col", 99),
    ],
)
def test_places_outside_the_matrix_are_refused(form: Form, name: str, value: int, file: Path) -> None:
    model = nn.Sequential(nn.Linear(7, 5))
    save(converted(model, {"0.weight": filled(form, (5, 7))}), file)
    load(file, into=model)
    tensors = load_file(file)
    tensors[f"0.weight.{name}"][-1] = value
    rewrite(file, tensors, {"0.weight": form.to_json()})
    with pytest.raises(ClisonixError, match=r"is damaged: '0\.weight'"):
        load(file, into=model)


def test_files_of_the_first_version_are_read(file: Path) -> None:
    model = nn.Sequential(nn.Linear(40, 40), nn.Sequential(nn.Linear(40, 30)))
    small = lowered(model, 6)
    tensors = {name: value.detach() for name, value in small.state_dict().items()}
    plan: dict[str, Any] = {"0": ["lowrank", 6], "1.0": ["lowrank", 6]}
    rewrite(file, tensors, plan, "clisonix.model/1")
    assert same(load(file, into=model), small)
    for entry in (["binary", 6], ["lowrank", True], 6, ["lowrank"]):
        rewrite(file, tensors, {**plan, "0": entry}, "clisonix.model/1")
        with pytest.raises(ClisonixError, match="expected"):
            load(file, into=model)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "3", '{"schema": "clisonix.model/9", "plan": null}', "{}"])
def test_metadata_that_is_no_plan(text: str, file: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    save_file(model.state_dict(), file, metadata={"clisonix": text})
    with pytest.raises(ClisonixError, match=r"damaged|update clisonix"):
        load(file, into=model)


def test_tensors_that_are_missing_unexpected_or_of_another_type(file: Path) -> None:
    model = nn.Sequential(nn.Linear(40, 40))
    small = lowered(model, 6)
    tensors = {name: value.detach() for name, value in small.state_dict().items()}
    plan = {"0.weight": {"kind": "lowrank", "rank": 6}}
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
    save(lowered(make("mlp")[0]), file)
    for kind in ("cnn1d", "cnn2d", "transformer"):
        with pytest.raises(ClisonixError):
            load(file, into=make(kind)[0])
    with pytest.raises(ClisonixError, match="compressed already"):
        load(file, into=lowered(make("mlp")[0]))
    with torch.device("meta"), pytest.raises(ClisonixError, match="meta device"):
        save(nn.Sequential(nn.Linear(4, 4)), file)


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
        save(lowered(model), file)
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


def test_on_a_cpu_packed_weights_are_tiled_and_files_do_not_show_it(file: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(96, 64), nn.GELU(), nn.Linear(64, 96))
    small = compress(model, budget=0.2)
    packed = [part for part in small.modules() if isinstance(part, Packed)]
    assert packed
    assert all(part.is_tiled for part in packed)
    save(small, file)
    first = file.read_bytes()
    back = load(file, into=model)
    assert all(part.is_tiled for part in back.modules() if isinstance(part, Packed))
    x = torch.randn(5, 96)
    assert torch.equal(back(x), small(x))
    for part in packed:
        part.untile_()
    assert torch.equal(back(x), small(x))
    save(small, file)
    assert file.read_bytes() == first
