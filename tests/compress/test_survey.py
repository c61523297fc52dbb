"""Every weight of a model is listed, with the reason where it must stay as it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compress_forms import everything, matrices_for
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from clisonix.compress import converted, survey
from clisonix.errors import ClisonixError


class Doubled(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class Named(nn.Linear):
    """A subclass with nothing of its own."""

    def __init__(self, size: int, label: str) -> None:
        super().__init__(size, size)
        self.label = label


class Odd(nn.Module):
    """One of everything that must stay as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(2, 8))
        self.listed = nn.ParameterList([torch.randn(3, 3)])
        self.normed = parametrizations.weight_norm(nn.Linear(8, 8))
        self.spectral = parametrizations.spectral_norm(nn.Linear(8, 8))
        self.pruned = prune.random_unstructured(nn.Linear(8, 8), "weight", amount=0.5)
        self.doubled = Doubled(8, 8)
        self.grouped = nn.Conv2d(8, 8, 3, groups=2)
        self.depthwise = nn.Conv1d(8, 8, 3, groups=8)
        self.transposed = nn.ConvTranspose1d(8, 8, 3)
        self.bag = nn.EmbeddingBag(9, 8)
        self.bilinear = nn.Bilinear(3, 4, 5)
        self.cell = nn.LSTMCell(4, 5)
        self.elman = nn.RNN(4, 5)
        self.renormed = nn.Embedding(9, 8, max_norm=1.0)
        self.scaled = nn.Embedding(9, 8, scale_grad_by_freq=True)
        self.hooked = nn.Linear(8, 8)
        self.hooked.register_forward_hook(lambda module, args, output: output * 2)
        self.patched = nn.Linear(8, 8)
        self.patched.forward = lambda x: x
        self.whole = nn.Linear(8, 8)
        self.whole.weight = nn.Parameter(torch.ones(8, 8, dtype=torch.int32), requires_grad=False)
        self.empty = nn.Linear(8, 1)
        self.empty.weight = nn.Parameter(torch.zeros(0, 8))
        self.view, self.viewed = nn.Linear(8, 8), nn.Linear(8, 8)
        self.view.weight = nn.Parameter(self.viewed.weight.detach().mT)
        self.attention = nn.MultiheadAttention(8, 2, add_bias_kv=True)
        self.attention.register_forward_pre_hook(lambda module, args: None)
        self.plain = Named(8, "mine")


REASONS = {
    "table": "a parameter of Odd itself",
    "listed.0": "a bare parameter",
    "normed.parametrizations.weight.original1": "parametrised",
    "spectral.parametrizations.weight.original": "parametrised",
    "pruned.weight_orig": "parametrised",
    "doubled.weight": "a subclass",
    "grouped.weight": "groups=2",
    "depthwise.weight": "groups=8",
    "transposed.weight": "ConvTranspose1d: layers",
    "bag.weight": "EmbeddingBag: layers",
    "bilinear.weight": "Bilinear: layers",
    "cell.weight_ih": "LSTMCell: layers",
    "elman.weight_hh_l0": "RNN: layers",
    "renormed.weight": "max_norm",
    "scaled.weight": "scale_grad_by_freq",
    "hooked.weight": "hooks",
    "patched.weight": "patched forward",
    "whole.weight": "torch.int32",
    "empty.weight": "empty",
    "view.weight": "shared with another tensor",
    "viewed.weight": "shared with another tensor",
    "attention.in_proj_weight": "hooks",
    "attention.out_proj.weight": "must stay as it is",
    "attention.bias_k": "no weight",
}


def test_what_stays_says_why() -> None:
    reasons = {site.name: site.reason for site in survey(Odd())}
    for name, words in REASONS.items():
        assert words in (reasons[name] or "").replace("a EmbeddingBag", "EmbeddingBag: layers"), (name, reasons[name])
    assert reasons["plain.weight"] is None


@pytest.mark.parametrize(
    "model", [Odd(), everything()[0], nn.Linear(3, 4), nn.Transformer(8, 2, 1, 1, 16, batch_first=True)]
)
def test_no_weight_is_left_out(model: nn.Module) -> None:
    sites = survey(model)
    named = {name for name, tensor in model.named_parameters(remove_duplicate=False) if tensor.ndim >= 2}
    assert [place.name for site in sites for place in site.places] != []
    assert {place.name for site in sites for place in site.places} == named
    assert {site.name for site in sites} <= model.state_dict().keys()
    for site in sites:
        assert site.name == site.places[0].name
        assert site.tensor is model.get_parameter(site.name)
        if site.reason is None:
            assert site.weight.shape == site.shape
            assert site.weight.untyped_storage().data_ptr() == site.tensor.untyped_storage().data_ptr()


def test_tied_weights_are_one_site_with_all_their_places() -> None:
    model, _ = everything()
    [site] = [site for site in survey(model) if len(site.places) > 1]
    assert [place.name for place in site.places] == ["embedding.weight", "head.weight"]
    assert (site.kind, site.shape, site.reason) == ("Embedding", (30, 16), None)


def test_tied_to_something_that_must_stay() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))
    model[2].weight = model[0].weight
    model[2].register_forward_hook(lambda module, args, output: output)
    reasons = [site.reason for site in survey(model)]
    assert reasons[0] == "shared with '2.weight': it has hooks or a patched forward, which a new layer would lose"
    assert reasons[1] is None
    assert len(reasons) == 2


def test_a_module_under_two_names_is_one_site() -> None:
    layer = nn.Linear(8, 8)
    [site] = survey(nn.Sequential(layer, nn.ReLU(), layer))
    assert site.name == "0.weight"
    small = converted(nn.Sequential(layer, nn.ReLU(), layer), matrices_for(nn.Sequential(layer), "binary"))
    assert small[2] is small[0]


def test_shapes_are_outputs_by_inputs() -> None:
    model, _ = everything()
    shapes = {site.name: site.shape for site in survey(model)}
    assert shapes["conv.weight"] == (16, 30)
    assert shapes["lstm.weight_ih_l0"] == (48, 16)
    assert shapes["lstm.weight_hr_l1_reverse"] == (7, 12)
    assert shapes["attention.k_proj_weight"] == (16, 10)
    assert shapes["grouped.weight"] == (16, 4, 3)


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ("head", {"embedding.weight"}),
        ("lstm.*_l1*", {f"lstm.weight_{p}_l1{d}" for p in ("ih", "hh", "hr") for d in ("", "_reverse")}),
        (
            ["encoder.layers.0"],
            {f"encoder.layers.0.{w}.weight" for w in ("linear1", "linear2", "self_attn.out_proj")}
            | {"encoder.layers.0.self_attn.in_proj_weight"},
        ),
        ("*.weight_hh_l0", {"lstm.weight_hh_l0", "gru.weight_hh_l0"}),
        ([], set()),
    ],
)
def test_include_and_exclude(patterns: Any, expected: set[str]) -> None:
    model, _ = everything()
    chosen = {site.name for site in survey(model, include=patterns) if site.reason is None}
    assert chosen == expected
    rest = {site.name for site in survey(model, exclude=patterns) if site.reason is None}
    assert rest == {site.name for site in survey(model) if site.reason is None} - expected


def test_names_that_are_nothing() -> None:
    model, _ = everything()
    with pytest.raises(ClisonixError, match=r"include names 'encodr', which is nothing in the model"):
        survey(model, include="encodr")
    with pytest.raises(ClisonixError, match=r"did you mean 'conv'"):
        survey(model, exclude=["embedding", "cnov"])


def test_models_that_are_not_dense() -> None:
    with pytest.raises(ClisonixError, match=r"give a torch\.nn\.Module"):
        survey(3)  # type: ignore[arg-type]
    with pytest.raises(ClisonixError, match="compress it first"):
        survey(torch.compile(nn.Linear(3, 3), backend="eager"))  # type: ignore[arg-type]
    with pytest.raises(ClisonixError, match="lazy module"):
        survey(nn.LazyLinear(3))
    small = converted(nn.Sequential(nn.Linear(8, 8)), matrices_for(nn.Sequential(nn.Linear(8, 8)), "binary"))
    with pytest.raises(ClisonixError, match="compressed already"):
        survey(small)


def test_weights_on_meta_have_no_values() -> None:
    with torch.device("meta"):
        model = nn.Linear(3, 3)
    assert "no values" in (survey(model)[0].reason or "")
    assert survey(model, values=False)[0].reason is None


def test_the_conv1d_of_transformers_is_a_flipped_linear() -> None:
    utils = pytest.importorskip("transformers.pytorch_utils")
    model = nn.Sequential(utils.Conv1D(12, 8))
    [site] = survey(model)
    assert (site.kind, site.shape, site.flipped, site.reason) == ("Conv1D", (12, 8), True, None)
    x = torch.randn(3, 8)
    torch.testing.assert_close(x @ site.weight.mT + model[0].bias, model(x))
    model.append(nn.Linear(8, 12))
    model[1].weight = model[0].weight
    assert "two directions" in (survey(model)[0].reason or "")
