"""Layers with matrices for weights are the ordinary layers: same inputs, same outputs, same places in a program."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from compress_forms import MAKERS, everything, matrices_for
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence

from clisonix.compress import (
    LiamConv,
    LiamConv1D,
    LiamEmbedding,
    LiamGRU,
    LiamLinear,
    LiamLSTM,
    LiamMultiheadAttention,
    converted,
    expand,
)
from clisonix.errors import ClisonixError
from clisonix.liam import Dense, LowRank, svd_compress

# What torch says of its own layers.
pytestmark = [
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage"),
]


def near(a: Any, b: Any, tolerance: float = 2e-5) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def twin(layer: nn.Module, maker: str = "dense") -> nn.Module:
    return converted(layer, matrices_for(layer, maker)).train(layer.training)


@pytest.mark.parametrize("maker", sorted(MAKERS))
def test_a_whole_model_in_any_form_is_its_expansion(maker: str) -> None:
    model, tokens = everything()
    small = converted(model, matrices_for(model, maker))
    dense = expand(small)
    tolerance = 5e-3 if "half" in maker else 2e-5
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            near(small(tokens), dense(tokens), tolerance)
    assert [type(module) for module in dense.modules()] == [type(module) for module in model.modules()]
    assert {n: (v.shape, v.dtype) for n, v in dense.state_dict().items()} == {
        n: (v.shape, v.dtype) for n, v in model.state_dict().items()
    }
    assert dense.head.weight is dense.embedding.weight
    assert small.head.weight is small.embedding.weight
    assert small.grouped is not model.grouped
    assert {type(module) for module in small.modules()} >= {
        LiamConv,
        LiamEmbedding,
        LiamGRU,
        LiamLinear,
        LiamLSTM,
        LiamMultiheadAttention,
    }


def test_dense_matrices_change_nothing() -> None:
    model, tokens = everything()
    small = converted(model, matrices_for(model, "dense"))
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            near(small(tokens), model(tokens))
    near(small.train()(tokens), model.train()(tokens))


@pytest.mark.parametrize("only", ["encoder.layers.1.linear2.weight", "encoder.layers.1.self_attn.out_proj.weight"])
def test_one_weight_in_an_encoder_keeps_its_fused_path_away(only: str) -> None:
    model, tokens = everything()
    small = converted(model, {only: matrices_for(model, "dense")[only]})
    with torch.no_grad():
        near(small(tokens), model(tokens))
        near(expand(small)(tokens), model(tokens))
    assert model.encoder.use_nested_tensor
    assert expand(small).encoder.use_nested_tensor
    assert not small.encoder.use_nested_tensor


@pytest.mark.parametrize("maker", ["low rank", "integer", "double binary", "sparse", "sum"])
def test_gradients_are_those_of_the_expansion(maker: str) -> None:
    model, tokens = everything()
    small = converted(model, matrices_for(model, maker)).train()
    dense = expand(small)
    for other in (small, dense):
        other(tokens).square().mean().backward()
    near(small.position.grad, dense.position.grad)
    near(small.lstm.bias_hh_l0_reverse.grad, dense.lstm.bias_hh_l0_reverse.grad)
    near(small.encoder.layers[0].self_attn.in_proj_bias.grad, dense.encoder.layers[0].self_attn.in_proj_bias.grad)
    for name, parameter in small.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all()


@pytest.mark.parametrize("maker", ["low rank", "binary", "integer"])
def test_copies_devices_and_dtypes(maker: str) -> None:
    model, tokens = everything()
    small = converted(model, matrices_for(model, maker))
    assert torch.equal(copy.deepcopy(small)(tokens), small(tokens))
    double = copy.deepcopy(small).double()
    assert double(tokens).dtype == torch.float64
    near(double(tokens).float(), small(tokens), 1e-4)
    meta = copy.deepcopy(small).to("meta")
    assert meta.lstm(torch.empty(5, 9, 16, device="meta"))[0].shape == (5, 9, 14)


def test_autocast_gives_the_dtypes_of_the_ordinary_model() -> None:
    model, tokens = everything()
    for maker in ("low rank", "integer"):
        small = converted(model, matrices_for(model, maker))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert small(tokens).dtype == model(tokens).dtype
            assert small.embedding(tokens).dtype == model.embedding(tokens).dtype == torch.float32


class Attends(nn.Module):
    """What compiles as a whole also without us: everything but recurrences."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.linear = nn.Embedding(30, 16), nn.Linear(16, 16)
        self.conv, self.attention = nn.Conv1d(16, 16, 3), nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.conv(self.linear(self.embedding(tokens)).mT).mT
        return self.attention(x, x, x, need_weights=False)[0]


@pytest.mark.parametrize("maker", ["low rank", "integer", "double binary"])
def test_compiles_as_one_graph(maker: str) -> None:
    model = Attends()
    small = converted(model, matrices_for(model, maker))
    tokens = torch.randint(30, (3, 9))
    compiled = torch.compile(small, fullgraph=True, backend="aot_eager")
    near(compiled(tokens), small(tokens), 1e-4)
    compiled(tokens).sum().backward()
    assert all(parameter.grad is not None for parameter in small.parameters())


# Embeddings


@pytest.mark.parametrize("maker", sorted(MAKERS))
def test_rows_are_looked_up_one_by_one(maker: str) -> None:
    table = nn.Embedding(23, 9)
    small = twin(table, maker)
    for places in (torch.tensor(4), torch.tensor([[0, 22], [4, 4]]), torch.zeros(0, dtype=torch.long)):
        near(small(places), expand(small)(places), 1e-2 if "half" in maker else 1e-5)
        assert small(places.int()).dtype == torch.float32
    with pytest.raises(IndexError):
        small(torch.tensor([23]))
    with pytest.raises(IndexError):
        small(torch.tensor([-1]))


def test_a_padding_row_gets_no_gradient() -> None:
    small = twin(nn.Embedding(7, 5, padding_idx=2), "dense")
    small(torch.tensor([2, 3, 2])).sum().backward()
    assert not small.weight.weight.grad[2].any()
    assert small.weight.weight.grad[3].eq(1).all()
    assert expand(small).padding_idx == 2


def test_a_large_table_is_never_made_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any) -> Tensor:
        raise AssertionError("made dense")

    small = twin(nn.Embedding(40, 16), "low rank of integers")
    want = expand(small)(torch.tensor([3, 39]))
    for kind in (LowRank, type(small.weight.factors[1])):
        monkeypatch.setattr(kind, "dense", refuse)
    near(small(torch.tensor([3, 39])), want)


# Recurrent layers

SHAPES = [
    {},
    {"num_layers": 2, "bidirectional": True, "batch_first": True},
    {"num_layers": 3, "bias": False},
    {"bidirectional": True, "proj_size": 4, "num_layers": 2},
]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("sizes", SHAPES)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_recurrent_layers_give_outputs_and_states(kind: Any, sizes: dict[str, Any], steps: int) -> None:
    if kind is nn.GRU and "proj_size" in sizes:
        pytest.skip("torch projects in LSTM only")
    torch.manual_seed(0)
    layer = kind(6, 9, **sizes)
    small = twin(layer)
    x = torch.randn(2, steps, 6) if layer.batch_first else torch.randn(steps, 2, 6)
    with torch.no_grad():
        want = layer(x)
        near(small(x), want)
        near(small(x, want[1]), layer(x, want[1]))
        alone = x[0] if layer.batch_first else x[:, 0]
        near(small(alone), layer(alone))
        state = layer(alone)[1]
        near(small(alone, state), layer(alone, state))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("sizes", SHAPES)
def test_packed_sequences(kind: Any, sizes: dict[str, Any]) -> None:
    if kind is nn.GRU and "proj_size" in sizes:
        pytest.skip("torch projects in LSTM only")
    torch.manual_seed(0)
    layer = kind(6, 9, **sizes)
    small = twin(layer)
    x = torch.randn(5, 3, 6)
    for packed in (
        pack_padded_sequence(x, torch.tensor([2, 5, 3]), enforce_sorted=False),
        pack_padded_sequence(x, torch.tensor([5, 3, 1])),
        pack_sequence([torch.randn(1, 6)]),
    ):
        want, state = layer(packed)
        found, last = small(packed)
        assert isinstance(found, PackedSequence)
        near(tuple(found), tuple(want))
        near(last, state)
        near(small(packed, state)[1], layer(packed, state)[1])


def test_dropout_between_recurrent_layers() -> None:
    layer = nn.LSTM(6, 9, num_layers=2, dropout=0.9)
    small = twin(layer, "dense")
    x = torch.randn(30, 4, 6)
    near(small.eval()(x), layer.eval()(x))
    small.train()
    assert not torch.equal(small(x)[0], small(x)[0])
    assert expand(small).dropout == 0.9


def test_recurrent_layers_refuse_what_does_not_fit() -> None:
    small = twin(nn.LSTM(6, 9))
    with pytest.raises(ClisonixError, match=r"give \(time, batch, 6\)"):
        small(torch.randn(3, 2, 5))
    with pytest.raises(ClisonixError, match=r"give \[\(1, 2, 9\), \(1, 2, 9\)\]"):
        small(torch.randn(3, 2, 6), (torch.zeros(1, 2, 8), torch.zeros(1, 2, 9)))
    with pytest.raises(ClisonixError, match="no weight of a LSTM"):
        LiamLSTM(nn.LSTM(6, 9), {"weight_hh_l3": Dense(torch.zeros(36, 9))})
    with pytest.raises(ClisonixError, match=r"must be \(36, 9\)"):
        LiamLSTM(nn.LSTM(6, 9), {"weight_hh_l0": Dense(torch.zeros(9, 36))})


# Attention


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"batch_first": True, "bias": False},
        {"kdim": 6, "vdim": 10},
        {"add_bias_kv": True, "add_zero_attn": True, "batch_first": True},
    ],
)
@pytest.mark.parametrize("need_weights", [True, False])
def test_attention_with_masks_and_weights(settings: dict[str, Any], need_weights: bool) -> None:
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(8, 2, **settings).eval()
    small = twin(layer)
    queries, keys, batch = 5, 7, 3
    q = torch.randn(batch, queries, 8)
    k, v = torch.randn(batch, keys, layer.kdim), torch.randn(batch, keys, layer.vdim)
    if not layer.batch_first:
        q, k, v = (x.transpose(0, 1) for x in (q, k, v))
    padding = torch.zeros(batch, keys, dtype=torch.bool)
    padding[0, 5:] = True
    later = torch.ones(queries, keys, dtype=torch.bool).triu(3)
    for masks in (
        {},
        {"key_padding_mask": padding},
        {"attn_mask": later},
        {"attn_mask": torch.randn(batch * 2, queries, keys)},
        {"attn_mask": later, "key_padding_mask": padding, "average_attn_weights": False},
        {"attn_mask": torch.randn(queries, keys), "key_padding_mask": torch.zeros(batch, keys), "is_causal": True},
    ):
        near(small(q, k, v, need_weights=need_weights, **masks), layer(q, k, v, need_weights=need_weights, **masks))
    near(
        small(q[:, 0], k[:, 0], v[:, 0]) if not layer.batch_first else small(q[0], k[0], v[0]),
        layer(q[:, 0], k[:, 0], v[:, 0]) if not layer.batch_first else layer(q[0], k[0], v[0]),
    )


@pytest.mark.parametrize("maker", ["low rank", "integer", "double binary", "two of four"])
def test_attention_to_itself_and_to_others(maker: str) -> None:
    small = twin(nn.MultiheadAttention(8, 2, batch_first=True).eval(), maker)
    dense = expand(small)
    x, y = torch.randn(3, 5, 8), torch.randn(3, 6, 8)
    for given in ((x, x, x), (x, y, y), (x, y, y + 1)):
        near(small(*given), dense(*given))


def test_a_causal_hint() -> None:
    layer = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    small = twin(layer)
    x, mask = torch.randn(2, 6, 8), nn.Transformer.generate_square_subsequent_mask(6)
    for need_weights in (True, False):
        given = {"attn_mask": mask, "is_causal": True, "need_weights": need_weights}
        near(small(x, x, x, **given), layer(x, x, x, **given))
    with pytest.raises(ClisonixError, match="give the mask as well"):
        small(x, x, x, is_causal=True)
    with pytest.raises(ClisonixError, match=r"give \(6, 6\) or \(4, 6, 6\)"):
        small(x, x, x, attn_mask=torch.zeros(6, 5))


def test_attention_drops_out_in_training_only() -> None:
    small = twin(nn.MultiheadAttention(8, 2, dropout=0.5).train())
    x = torch.randn(6, 2, 8)
    assert not torch.equal(small(x, x, x)[0], small(x, x, x)[0])
    small.eval()
    assert torch.equal(small(x, x, x)[0], small(x, x, x)[0])


@pytest.mark.parametrize("maker", ["dense", "low rank", "low rank of integers", "integer", "sparse", "double binary"])
def test_without_gradients_a_bias_changes_nothing_but_the_result(maker: str) -> None:
    small = twin(nn.Linear(24, 24), maker)
    x = torch.randn(5, 24)
    before = x.clone()
    with_gradients = small(x).detach()
    with torch.no_grad():
        assert torch.equal(small(x), with_gradients)
        assert torch.equal(small(x), with_gradients)
    with torch.inference_mode():
        assert torch.equal(small(x), with_gradients)
    assert torch.equal(x, before)


# Convolutions

CONVS = [
    (nn.Conv1d(6, 9, 5, stride=2, padding=2), (6, 40)),
    (nn.Conv1d(6, 9, 3, padding="same", dilation=2, padding_mode="circular"), (6, 30)),
    (nn.Conv1d(6, 9, 4, padding="same", padding_mode="reflect", bias=False), (6, 21)),
    (nn.Conv2d(3, 9, (3, 5), stride=(1, 2), padding=(1, 2)), (3, 12, 14)),
    (nn.Conv2d(6, 9, 1), (6, 5, 4)),
    (nn.Conv3d(2, 9, (1, 3, 2), dilation=(1, 1, 2), padding=(1, 0, 1)), (2, 4, 5, 6)),
]


@pytest.mark.parametrize(("conv", "size"), CONVS)
@pytest.mark.parametrize("maker", ["dense", "low rank", "low rank of integers", "integer", "sparse", "double binary"])
@pytest.mark.parametrize("few", [0, 10**9])
def test_convolutions_by_patches_and_unpacked(
    conv: Any, size: tuple[int, ...], maker: str, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clisonix.compress.layers.conv.FEW_POSITIONS", few)
    small = twin(conv, maker)
    dense = expand(small)
    assert repr(dense) == repr(conv)
    x = torch.randn(2, *size)
    near(small(x), dense(x))
    near(small(x[0]), dense(x[0]))
    if maker == "dense":
        near(small(x), conv(x))


# The rest


def test_the_conv1d_of_transformers() -> None:
    utils = pytest.importorskip("transformers.pytorch_utils")
    layer = utils.Conv1D(12, 8)
    small = twin(layer)
    assert isinstance(small, LiamConv1D)
    x = torch.randn(2, 3, 8)
    near(small(x), layer(x))
    back = expand(small)
    assert type(back) is utils.Conv1D
    assert torch.equal(back.weight, layer.weight)
    assert (small.nf, small.nx) == (12, 8)


def test_adapters_take_a_compressed_linear_for_a_linear() -> None:
    peft = pytest.importorskip("peft")
    small = nn.Sequential(twin(nn.Linear(8, 6), "integer"))
    x = torch.randn(3, 8)
    want = small(x)
    tuned = peft.get_peft_model(small, peft.LoraConfig(target_modules=["0"], r=2))
    assert torch.equal(tuned(x), want)
    tuned(x).sum().backward()
    learning = [name for name, parameter in tuned.named_parameters() if parameter.requires_grad]
    assert learning
    assert all("lora_" in name for name in learning)


def test_what_is_put_in_must_fit() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Conv1d(2, 2, 1, groups=2))
    for matrices, message in (
        ({"0": Dense(torch.zeros(3, 4))}, "no weight of this model"),
        ({"0.weight": Dense(torch.zeros(4, 3))}, r"must be \(3, 4\)"),
        ({"0.weight": torch.zeros(3, 4)}, "give a matrix"),
        ({"0.weight": Dense(torch.full((3, 4), torch.inf))}, "beyond torch.float32"),
        ({"1.weight": Dense(torch.zeros(2, 1))}, "must be kept: a grouped"),
    ):
        with pytest.raises(ClisonixError, match=message):
            converted(model, matrices)  # type: ignore[arg-type]


def test_frozen_weights_stay_frozen() -> None:
    model = nn.Sequential(nn.Linear(4, 4).requires_grad_(False), nn.Linear(4, 4))
    small = converted(
        model, {name: svd_compress(model.get_parameter(name).detach(), k=2) for name in ("0.weight", "1.weight")}
    )
    assert not any(parameter.requires_grad for parameter in small[0].parameters())
    assert all(parameter.requires_grad for parameter in small[1].parameters())
    assert not expand(small)[0].weight.requires_grad
