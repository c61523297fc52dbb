"""A snapshot is whole or refused by name, and goes on bitwise in any number of shards."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from clisonix.errors import ClisonixError
from clisonix.tide import joint, snapshot
from clisonix.tide.codecs import CodecSettings, Feedback
from clisonix.tide.replica import Replica, Rules, Schema
from clisonix.tide.roll import Roll


def tensors() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {
        "big": torch.randn(37, 11, generator=draw),
        "half": torch.randn(9, generator=draw).bfloat16(),
        "scalar": torch.tensor(5),
        "empty": torch.empty(0, 3),
        "flags": torch.tensor([True, False]),
        "wide": torch.randn(5, generator=draw).double(),
    }


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


@pytest.mark.parametrize("shards", [1, 2, 3, 7])
@pytest.mark.parametrize("again", [1, 5])
def test_any_number_of_shards_becomes_any_other(tmp_path: Path, shards: int, again: int) -> None:
    snapshot.save(tmp_path / "a", tensors(), {"round": 3}, shards)
    assert len(list((tmp_path / "a").glob("*.safetensors"))) == shards
    snapshot.reshard(tmp_path / "a", tmp_path / "b", again)
    back, facts = snapshot.load(tmp_path / "b")
    assert same(back, tensors())
    assert facts == {"round": 3}


def test_every_flipped_bit_names_its_shard(tmp_path: Path) -> None:
    snapshot.save(tmp_path / "s", tensors(), shards=3)
    draw = random.Random(0)
    paths = sorted((tmp_path / "s").glob("*.safetensors"))
    for _ in range(200):
        path = draw.choice(paths)
        content = path.read_bytes()
        damaged = bytearray(content)
        damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(ClisonixError, match=f"{path.name} is damaged"):
            snapshot.load(tmp_path / "s")
        path.write_bytes(content)
    paths[1].unlink()
    with pytest.raises(ClisonixError, match=f"{paths[1].name} is missing"):
        snapshot.verify(tmp_path / "s")


def test_a_failed_write_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot.save(tmp_path / "s", tensors(), {"round": 1})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(snapshot, "save_tensors", full)
    with pytest.raises(ClisonixError, match="disk is full"):
        snapshot.save(tmp_path / "s", tensors(), {"round": 2})
    assert snapshot.load(tmp_path / "s")[1] == {"round": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_crash_between_the_two_renames_leaves_the_old_one_readable(tmp_path: Path) -> None:
    snapshot.save(tmp_path / "s", tensors(), {"round": 1})
    (tmp_path / "s").rename(tmp_path / ".s.old")
    assert snapshot.load(tmp_path / "s")[1] == {"round": 1}
    snapshot.save(tmp_path / "s", tensors(), {"round": 2})
    assert snapshot.load(tmp_path / "s")[1] == {"round": 2}


def test_the_writer_keeps_what_was_given_and_not_what_became_of_it(tmp_path: Path) -> None:
    state = tensors()
    with snapshot.SnapshotWriter() as writer:
        for index in range(3):
            writer.save(tmp_path / f"s{index}", state, {"round": index})
            state["big"] += 1
    for index in range(3):
        back, _ = snapshot.load(tmp_path / f"s{index}")
        assert torch.equal(back["scalar"], state["scalar"])
        torch.testing.assert_close(back["big"], tensors()["big"] + index)


def test_the_writer_tells_of_a_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ClisonixError, match="cannot write"), snapshot.SnapshotWriter() as writer:
        writer.save(tmp_path / "file" / "s", tensors())


def make() -> tuple[Replica, Feedback, nn.Module, torch.optim.Optimizer, torch.Generator]:
    torch.manual_seed(1)
    model = nn.Linear(6, 4)
    schema = Schema({name: p.shape for name, p in model.named_parameters()})
    replica = Replica(schema, Rules(), np.zeros(schema.size, np.float32))
    feedback = Feedback(schema.codec(CodecSettings("lowrank", rank=1, bits=8)))
    return replica, feedback, model, torch.optim.AdamW(model.parameters()), torch.Generator().manual_seed(4)


def test_a_joint_snapshot_holds_all_that_a_site_is(tmp_path: Path) -> None:
    replica, feedback, model, optimizer, generator = make()
    replica.roll = Roll(["north", "south"])
    replica.roll.cursors[:] = [12, 7]
    replica.outer += 1
    replica.round = 5
    feedback.settle(*feedback.encode(np.arange(28, dtype=np.float32)))

    def step() -> None:
        optimizer.zero_grad()
        model(torch.randn(3, 6, generator=generator)).square().mean().backward()
        optimizer.step()

    step()
    packed, facts = joint.pack_site(replica, feedback, model, optimizer, {"data": generator})
    snapshot.save(tmp_path / "s", packed, facts, shards=2)
    step()
    wanted = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    other = make()
    loaded, facts = snapshot.load(tmp_path / "s")
    joint.unpack_site(loaded, json.loads(json.dumps(facts)), *other[:4], {"data": other[4]})
    assert other[0].root() == replica.root()
    assert [other[0].roll.cursor(name) for name in ("north", "south")] == [12, 7]
    assert other[1].residual.tobytes() == feedback.residual.tobytes()
    _, _, model, optimizer, generator = other
    step()
    assert same(wanted, dict(model.state_dict()))
