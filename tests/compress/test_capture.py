"""Calibration of layers that are more than one product: attention, recurrence, embeddings, ties, and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence

from clisonix.compress.calibrate import gather
from clisonix.compress.moments import Moment, patch_blocks
from clisonix.compress.survey import survey
from clisonix.errors import ClisonixError


def moments(model: nn.Module, batches: Any, loss: Any = None) -> dict[str, Moment]:
    return gather(model, survey(model), batches, loss=loss)


def second(x: Tensor) -> Tensor:
    rows = x.detach().reshape(-1, x.shape[-1]).double()
    return (rows.mT @ rows / len(rows)).float()


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.attention(x, y, y)[0]


def test_attention_sees_its_inputs_and_what_its_last_projection_is_given() -> None:
    torch.manual_seed(0)
    model, x, y = Attends(), drawn(2, 5, 12), drawn(2, 7, 12) * 2
    found = moments(model, [(x, y)])
    q, k = x.reshape(-1, 12), y.reshape(-1, 12)
    torch.testing.assert_close(found["attention.in_proj_weight"].matrix, second(torch.cat([q, k, k])))
    # The output of the layer has the second moment W M Wᵀ once the bias is gone.
    with torch.no_grad():
        model.attention.out_proj.bias.zero_()
        out = second(model(x, y))
    weight, inner = model.attention.out_proj.weight.detach(), found["attention.out_proj.weight"].matrix
    assert inner is not None
    torch.testing.assert_close(weight @ inner @ weight.mT, out, rtol=1e-4, atol=1e-5)


def test_attention_inside_an_encoder_layer_is_seen() -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
    x = drawn(3, 6, 8)
    found = moments(model.eval(), [x])
    assert all(moment.seen for moment in found.values())
    assert {name.rsplit(".", 2)[-2] for name in found} >= {"self_attn", "out_proj", "linear1", "linear2"}
    torch.testing.assert_close(found["layers.0.self_attn.in_proj_weight"].matrix, second(x))
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("both", [False, True])
def test_every_layer_of_a_recurrent_network_is_seen(kind: Any, both: bool) -> None:
    torch.manual_seed(0)
    net = kind(5, 6, num_layers=2, bidirectional=both, batch_first=True)
    first = kind(5, 6, bidirectional=both, batch_first=True)
    first.load_state_dict({name: value for name, value in net.state_dict().items() if "_l0" in name})
    x = drawn(3, 9, 5)
    with torch.no_grad():
        middle, last = first(x)[0], net(x)[0]
    found = moments(nn.Sequential(net), [x])
    torch.testing.assert_close(found["0.weight_ih_l0"].matrix, second(x))
    torch.testing.assert_close(found["0.weight_ih_l1"].matrix, second(middle))
    torch.testing.assert_close(found["0.weight_hh_l0"].matrix, second(middle[..., :6]))
    torch.testing.assert_close(found["0.weight_hh_l1"].matrix, second(last[..., :6]))
    if both:
        torch.testing.assert_close(found["0.weight_hh_l1_reverse"].matrix, second(last[..., 6:]))


def test_packed_sequences_count_only_what_is_there() -> None:
    class Packs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.GRU(4, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(pack_padded_sequence(x, torch.tensor([7, 3])))[0].data

    found = moments(Packs(), [drawn(7, 2, 4)], loss=lambda out, _: out.square().sum())
    assert found["net.weight_ih_l0"].count == 10
    assert found["net.weight_hh_l0"].sensitivity > 0


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(11, 6), nn.Linear(6, 11, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.table(tokens) * 2)


def test_a_tied_table_is_seen_by_both_of_its_uses() -> None:
    model, tokens = Tied(), torch.tensor([[1, 1, 4], [0, 1, 10]])
    [moment] = moments(model, [tokens]).values()
    assert moment.rows is not None
    assert moment.rows.tolist() == torch.bincount(tokens.flatten(), minlength=11).tolist()
    torch.testing.assert_close(moment.matrix, second(model.table(tokens) * 2))


def test_a_layer_called_twice_adds_up_and_one_never_called_says_so() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.never = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.layer(x))

    model, x = Twice(), drawn(5, 4)
    found = moments(model, [x])
    torch.testing.assert_close(found["layer.weight"].matrix, second(torch.cat([x, model.layer(x)])))
    assert not found["never.weight"].seen
    assert found["never.weight"].matrix is None


def test_an_input_given_to_several_layers_is_multiplied_once() -> None:
    class Three(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            return sum((layer(x) for layer in self.layers), start=torch.zeros(()))

    made, real = [], Moment.gram
    patch = pytest.MonkeyPatch()
    patch.setattr(Moment, "gram", lambda self, blocks: made.append(self.name) or real(self, blocks))
    try:
        found = moments(Three(), [drawn(6, 4), drawn(7, 4)])
    finally:
        patch.undo()
    assert len(made) == 2
    assert [moment.count for moment in found.values()] == [13] * 3


def test_a_very_wide_layer_keeps_only_blocks_along_the_diagonal() -> None:
    moment = Moment("wide.weight", (3, 300), most=200)
    x = drawn(20, 300)
    found = moment.gram(iter([x[:9], x[9:]]))
    assert found is not None
    moment.add(*found)
    whole = x.mT @ x / len(x)
    assert moment.matrix.shape == (3, 128, 128)
    torch.testing.assert_close(moment.matrix[1], whole[128:256, 128:256])
    torch.testing.assert_close(moment.matrix[2, :44, :44], whole[256:, 256:])
    assert not moment.matrix[2, 44:].any()


def test_some_patches_of_a_long_call_stand_for_all() -> None:
    conv = nn.Conv2d(3, 4, (5, 1), stride=(2, 1), padding=(2, 0))
    x = drawn(8, 3, 400, 1)
    every, some = (torch.cat(list(patch_blocks(x, conv, most))) for most in (None, 500))
    assert len(every) == 1600
    assert len(some) == 500
    wanted, got = every.mT @ every, some.mT @ some
    assert (wanted - got).norm() < 0.15 * wanted.norm()


def test_output_weights_are_the_mean_squared_gradients_of_the_loss() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(3, 5, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(5 * 6, 4))
    x, target = drawn(6, 3, 8), torch.randint(4, (6,), generator=torch.Generator().manual_seed(1))
    found = moments(model, [(x[:3], target[:3]), (x[3:], target[3:])], loss=F.cross_entropy)
    conv, last = [], []
    for part in (slice(0, 3), slice(3, 6)):
        y = model[0](x[part]).detach().requires_grad_()
        z = model[3](F.relu(y).flatten(1))
        gy, gz = torch.autograd.grad(F.cross_entropy(z, target[part]), (y, z))
        conv.append(gy.movedim(1, -1).reshape(-1, 5).square())
        last.append(gz.square())
    torch.testing.assert_close(found["0.weight"].output_weights, torch.cat(conv).mean(0))
    torch.testing.assert_close(found["3.weight"].output_weights, torch.cat(last).mean(0))
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_a_loss_may_look_at_the_whole_batch() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, x: Tensor, label: Tensor) -> Tensor:
            return self.layer(x)

    batch = {"x": drawn(5, 4), "label": drawn(5, 2)}
    found = moments(Named(), [batch], loss=lambda out, given: (out - given["label"]).square().mean())
    assert found["layer.weight"].output_weights is not None


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda out, target: out.sum(1), "must give a tensor with one number"),
        (lambda out, target: 3.0, "must give a tensor with one number"),
        (lambda out, target: out.sum() * float("nan"), "not finite"),
        (lambda out, target: F.mse_loss(out, target[:, :2].expand(7, 9)), "the loss fails on"),
        (lambda out, target: out.detach().sum(), "does not depend on"),
    ],
)
def test_losses_that_do_not_suit(loss: Any, message: str) -> None:
    model = nn.Sequential(nn.Linear(4, 3)).train()
    with pytest.raises(ClisonixError, match=message):
        moments(model, [(drawn(5, 4), drawn(5, 3))], loss=loss)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("shape", [(3, 5), (3,)])
def test_a_batch_of_a_wrong_shape_is_one_sentence(shape: tuple[int, ...]) -> None:
    with pytest.raises(ClisonixError, match="fails on a calibration batch of float32") as caught:
        moments(nn.Sequential(nn.Linear(4, 3)), [drawn(*shape)])
    assert "\n" not in str(caught.value)
