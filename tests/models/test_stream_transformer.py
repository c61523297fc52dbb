"""The model sees what was measured and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from clisonix.errors import ClisonixError
from clisonix.models import StreamTransformer, Tokeniser, TokenSpec

SPECS = {
    "eeg": TokenSpec(4, 256.0, 512, front="spectrum", token_s=0.5, hop_s=0.25, low_hz=1, high_hz=45),
    "audio": TokenSpec(1, 8000.0, 16000, front="mel", token_s=0.05, hop_s=0.05, bands=24),
    "imu": TokenSpec(6, 50.0, 100, token_s=0.4, hop_s=0.2),
}


def batch(n: int = 3, seed: int = 0) -> dict[str, dict[str, Tensor]]:
    g = torch.Generator().manual_seed(seed)
    streams = {k: torch.randn(n, s.channels, s.samples, generator=g) for k, s in SPECS.items()}
    return {"streams": streams, "masks": {k: torch.ones_like(v, dtype=torch.bool) for k, v in streams.items()}}


@pytest.fixture
def model() -> StreamTransformer:
    torch.manual_seed(0)
    made = StreamTransformer(SPECS, 5, width=32, depth=2, heads=2)
    made.fit(batch(16, seed=1))
    return made.eval()


def test_scores_and_gradients(model: StreamTransformer) -> None:
    model.train()
    scores = model(batch())
    assert scores.shape == (3, 5)
    scores.square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_unmeasured_values_have_no_influence(model: StreamTransformer) -> None:
    first, second = batch(), batch()
    for window in (first, second):
        window["masks"]["imu"][:, 2:4, 30:60] = False
        window["masks"]["eeg"][:, :, 200:] = False
    second["streams"]["imu"][:, 2:4, 30:60] = 1e6
    second["streams"]["eeg"][:, :, 200:] = float("nan")
    assert torch.equal(model(first), model(second))


def test_an_absent_modality_equals_a_masked_one(model: StreamTransformer) -> None:
    masked, absent = batch(), batch()
    masked["masks"]["audio"][:] = False
    del absent["streams"]["audio"], absent["masks"]["audio"]
    assert torch.allclose(model(masked), model(absent), atol=1e-6)


def test_a_window_without_any_signal_has_scores(model: StreamTransformer) -> None:
    empty = batch()
    for mask in empty["masks"].values():
        mask[:] = False
    scores = model(empty)
    assert torch.isfinite(scores).all()
    assert torch.allclose(scores[0], scores[1], atol=1e-6)


def test_every_modality_matters(model: StreamTransformer) -> None:
    base = model(batch())
    for name in SPECS:
        changed = batch()
        changed["streams"][name] = batch(seed=9)["streams"][name]
        assert not torch.allclose(base, model(changed), atol=1e-4), name


def test_windows_of_a_batch_are_independent(model: StreamTransformer) -> None:
    many = batch()
    one = {kind: {k: v[1:2] for k, v in many[kind].items()} for kind in ("streams", "masks")}
    assert torch.allclose(model(many)[1:2], model(one), atol=1e-5)


def test_fitted_scaling_makes_units_irrelevant() -> None:
    def scores(factor: float) -> Tensor:
        torch.manual_seed(0)
        made = StreamTransformer({"imu": SPECS["imu"]}, 3, width=16, depth=1, heads=2)
        window = batch(8)
        window["streams"] = {"imu": window["streams"]["imu"] * factor + 3 * factor}
        made.fit(window)
        return made.eval()(window)

    assert torch.allclose(scores(1.0), scores(1000.0), atol=1e-4)


def test_fit_ignores_what_was_not_measured() -> None:
    tokeniser = Tokeniser(SPECS["imu"], 8)
    x = torch.randn(4, 6, 100) * 5 + 2
    mask = torch.rand(4, 6, 100) > 0.3
    tokeniser.fit(torch.where(mask, x, 1e9), mask)
    for channel in range(6):
        values = x[:, channel][mask[:, channel]]
        assert tokeniser.center[channel].item() == pytest.approx(values.mean().item(), abs=1e-3)
        assert tokeniser.scale[channel].item() == pytest.approx(values.std(unbiased=False).item(), abs=1e-3)


def test_a_tone_lights_up_its_own_frequency() -> None:
    spec = TokenSpec(1, 256.0, 512, front="spectrum", token_s=1.0, hop_s=0.5, low_hz=4, high_hz=45)
    tone = torch.sin(2 * np.pi * 20 * torch.arange(512) / 256).expand(1, 1, 512)
    described = Tokeniser(spec, 8).describe(tone, torch.ones_like(tone, dtype=torch.bool))
    assert described.shape == (1, 3, 1, 42)
    assert (described[0, :, 0].argmax(dim=1) + 4 == 20).all()


def test_mel_bands_cover_every_frequency_between_the_outer_ones() -> None:
    filters = Tokeniser(SPECS["audio"], 8).filters
    assert filters is not None
    assert (filters.sum(dim=0) > 0).all()
    assert (filters.sum(dim=1)[1:-1] > 0).all()


def test_state_round_trip_keeps_the_scaling(model: StreamTransformer) -> None:
    torch.manual_seed(5)
    other = StreamTransformer(SPECS, 5, width=32, depth=2, heads=2).eval()
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(batch()), other(batch()))


def test_it_compiles_as_one_graph(model: StreamTransformer) -> None:
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(batch()), model(batch()), atol=1e-5)


@pytest.mark.parametrize(
    ("specs", "options", "sentence"),
    [
        ({}, {}, "at least one modality"),
        (SPECS, {"classes": 1}, "expected at least 2"),
        (SPECS, {"width": 30}, "not a multiple"),
        ({"x": TokenSpec(1, 50.0, 10, token_s=1.0)}, {}, "shorter than one token"),
        ({"x": SPECS["eeg"]._replace(low_hz=200, high_hz=220)}, {}, "no frequency"),
    ],
)
def test_bad_arguments_are_one_sentence(specs: dict[str, TokenSpec], options: dict[str, int], sentence: str) -> None:
    with pytest.raises(ClisonixError, match=sentence):
        StreamTransformer(specs, **{"classes": 3, "width": 16, **options, "heads": 4})
