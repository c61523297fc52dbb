from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from clisonix.compress.blockwise import find_blocks, reconstruct
from clisonix.compress.layers import LiamLinear
from clisonix.compress.recover_fit import Progress
from clisonix.errors import ClisonixError
from clisonix.liam import Integer


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(12)
        self.wide = nn.Linear(12, 24)
        self.narrow = nn.Linear(24, 12)

    def forward(self, x: Tensor, *, scale: float = 1.0) -> tuple[Tensor, str]:
        return x + scale * self.narrow(torch.tanh(self.wide(self.norm(x)))), "beside it"


class Net(nn.Module):
    """Its list is in another order than that in which the blocks run, and one of them runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 12)
        self.blocks = nn.ModuleList(Block() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for place in (2, 0, 1, 0):
            x, _ = self.blocks[place](x, scale=0.5)
            x += 0.1  # what was captured must not change with it
        return x


def pair() -> tuple[Net, Net]:
    torch.manual_seed(0)
    dense = Net().eval()
    small = copy.deepcopy(dense)
    for block in small.blocks:
        for name in ("wide", "narrow"):
            layer = getattr(block, name)
            setattr(block, name, LiamLinear(Integer.rounded(layer.weight.detach(), 2, 6), layer.bias))
    return dense, small


def batches(count: int = 10) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(32, 6, generator=generator) for _ in range(count)]


@torch.no_grad()
def distance(model: nn.Module, dense: nn.Module) -> float:
    x = torch.cat(batches(20)[10:])
    return float((model(x) - dense(x)).square().sum() / dense(x).square().sum())


def test_blocks_make_up_for_the_ones_before_them() -> None:
    dense, small = pair()
    before = copy.deepcopy(small.state_dict())
    told: list[Progress] = []
    better = reconstruct(small, dense, batches(), steps=40, progress=told.append)
    assert distance(better, dense) < 0.5 * distance(small, dense)
    assert list(dict.fromkeys(p.where for p in told)) == ["blocks.2", "blocks.0", "blocks.1"], "not as they run"
    assert all(torch.equal(value, before[name]) for name, value in small.state_dict().items()), "the input changed"
    assert [(n, t.shape, t.dtype) for n, t in better.state_dict().items()] == [
        (n, t.shape, t.dtype) for n, t in small.state_dict().items()
    ]


def test_levels_stay_unless_they_are_to_train() -> None:
    dense, small = pair()
    kept, trained = (
        reconstruct(small, dense, batches(), steps=30, lr=0.05, straight_through=s) for s in (False, True)
    )

    def planes(model: Net) -> Tensor:
        return torch.cat([t.flatten() for n, t in model.state_dict().items() if n.endswith("planes")])

    assert torch.equal(planes(kept), planes(small))
    assert not torch.equal(planes(trained), planes(small))


def test_a_block_that_cannot_be_improved_is_left_as_it_was() -> None:
    dense, _ = pair()
    same = reconstruct(copy.deepcopy(dense), dense, batches(), steps=10)
    assert all(torch.equal(value, dense.state_dict()[name]) for name, value in same.state_dict().items())


def test_only_the_named_blocks_change() -> None:
    dense, small = pair()
    better = reconstruct(small, dense, batches(), blocks=["blocks.1"], steps=10)
    changed = {n for n, t in better.state_dict().items() if not torch.equal(t, small.state_dict()[n])}
    assert changed
    assert all(name.startswith("blocks.1.") for name in changed)


def test_memory_bounds_what_is_captured() -> None:
    dense, small = pair()
    seen: list[int] = []
    handle = dense.blocks[1].register_forward_hook(lambda *_: seen.append(1))
    one = 32 * 12 * 4 * 2  # inputs and targets of one batch
    reconstruct(small, dense, batches(), blocks=["blocks.1"], steps=5, memory=3 * one)
    handle.remove()
    assert len(seen) == 4, "the fourth is found not to fit"


def test_the_longest_list_with_weights_is_found() -> None:
    pool = nn.Sequential(*[nn.ReLU() for _ in range(9)])
    model = nn.ModuleDict({"pool": pool, "net": pair()[0]})
    assert find_blocks(model) == ["net.blocks.0", "net.blocks.1", "net.blocks.2"]
    with pytest.raises(ClisonixError, match="no list of blocks"):
        find_blocks(nn.Linear(2, 2))


def test_names_that_are_no_blocks_are_refused() -> None:
    dense, small = pair()
    with pytest.raises(ClisonixError, match="no module of the model"):
        reconstruct(small, dense, batches(), blocks=["block.1"])
    small.spare = nn.Linear(2, 2)
    with pytest.raises(ClisonixError, match="no module of the teacher"):
        reconstruct(small, dense, batches(), blocks=["spare"])
    dense.spare = nn.Linear(2, 2)
    with pytest.raises(ClisonixError, match="none of the blocks spare runs"):
        reconstruct(small, dense, batches(), blocks=["spare"])
