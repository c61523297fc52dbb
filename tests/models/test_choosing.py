"""What a model computes from a share of the tokens is exact for these, and nothing else has a say."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clisonix.models import StreamTransformer, TokenSpec, choose_tokens

SPECS = {
    "eeg": TokenSpec(2, 128.0, 256, front="spectrum", token_s=0.5, hop_s=0.25, low_hz=1, high_hz=45),
    "imu": TokenSpec(3, 50.0, 100, token_s=0.4, hop_s=0.2),
}


@settings(max_examples=60, deadline=None)
@given(
    tokens=st.integers(1, 40),
    keep=st.floats(0.05, 1.0),
    span=st.floats(0.05, 1.0),
    measured=st.floats(0.0, 1.0),
    seed=st.integers(0, 1000),
)
def test_the_best_tokens_come_first(tokens: int, keep: float, span: float, measured: float, seed: int) -> None:
    torch.manual_seed(seed)
    seen, times, starts = torch.rand(3, tokens) < measured, torch.linspace(0, 1, tokens), torch.rand(3, 1)
    chosen = choose_tokens(seen, times, starts, keep=keep, span=span)
    count = max(1, round(tokens * keep * span))
    assert chosen.shape == (3, count)
    assert (chosen.diff(dim=1) > 0).all()
    begin = starts * (1 - span)
    inside = (times >= begin) & (times <= begin + span)
    for i in range(3):
        for better in (seen[i] & inside[i], seen[i]):
            taken = int(better[chosen[i]].sum())
            assert taken == min(count, int(better.sum()))


def test_every_token_has_its_turn() -> None:
    torch.manual_seed(0)
    seen, times = torch.ones(4000, 10, dtype=torch.bool), torch.linspace(0, 1, 10)
    chosen = choose_tokens(seen, times, torch.rand(4000, 1), keep=0.3, span=1.0)
    counts = torch.bincount(chosen.flatten(), minlength=10) / 4000
    assert torch.allclose(counts, torch.full((10,), 0.3), atol=0.04)


def model_and_batch() -> tuple[StreamTransformer, dict[str, dict[str, torch.Tensor]]]:
    torch.manual_seed(0)
    model = StreamTransformer(SPECS, 3, width=16, depth=2, heads=2, dropout=0.0)
    streams = {k: torch.randn(4, s.channels, s.samples) for k, s in SPECS.items()}
    window = {"streams": streams, "masks": {k: torch.ones_like(v, dtype=torch.bool) for k, v in streams.items()}}
    model.fit(window)
    return model, window


@pytest.mark.parametrize("name", SPECS)
def test_chosen_tokens_are_those_of_the_whole_window(name: str) -> None:
    model, window = model_and_batch()
    tokeniser = model._tokeniser(name)
    chosen = torch.tensor([[0, 2], [1, 3], [0, 3], [2, 3]])
    few = tokeniser(window["streams"][name], window["masks"][name], chosen)
    whole = tokeniser(window["streams"][name], window["masks"][name])
    assert torch.allclose(few, whole[torch.arange(4)[:, None], chosen], atol=1e-6)


def test_dropped_tokens_have_no_influence() -> None:
    model, window = model_and_batch()
    hidden = {kind: {k: v.clone() for k, v in window[kind].items()} for kind in window}
    # Only the first 0.4 s of the sensor were measured: one token, which is taken, so that the others cannot matter.
    for batch in (window, hidden):
        batch["masks"]["imu"] = batch["masks"]["imu"].clone()
        batch["masks"]["imu"][:, :, 20:] = False
    hidden["streams"]["imu"][:, :, 20:] = 1e6
    scores = []
    for batch in (window, hidden):
        torch.manual_seed(3)
        scores.append(model(batch, keep=0.25))
    assert torch.equal(scores[0], scores[1])


def test_all_tokens_are_the_ordinary_pass_and_draw_nothing() -> None:
    model, window = model_and_batch()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert torch.equal(model(window, keep=1.0, span=1.0), model(window))
    assert torch.equal(torch.get_rng_state(), before)


def test_draws_follow_the_generator() -> None:
    model, window = model_and_batch()
    torch.manual_seed(1)
    first, second = model(window, keep=0.5, span=0.6), model(window, keep=0.5, span=0.6)
    torch.manual_seed(1)
    assert torch.equal(model(window, keep=0.5, span=0.6), first)
    assert not torch.equal(first, second)
