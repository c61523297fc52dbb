"""A recursive filter gives what SciPy gives, in pieces as in one go, and its state is in checkpoints."""

from __future__ import annotations

import doctest
from typing import Any

import pytest
import torch

from clisonix.errors import ClisonixError
from clisonix.fabric.transforms import Chain, Iir, Reference, iir, iir_band_pass, iir_notch

FILTERS: list[dict[str, Any]] = [
    {"low_hz": 0.1, "high_hz": None},
    {"low_hz": 1.0, "high_hz": 40.0},
    {"low_hz": None, "high_hz": 30.0, "order": 8},
]


def whole(x: torch.Tensor) -> torch.Tensor:
    return torch.ones(x.shape, dtype=torch.bool)


@pytest.mark.parametrize("band", FILTERS)
@pytest.mark.parametrize("samples", [1, 63, 64, 65, 5000])
def test_it_is_scipys_filter(band: dict[str, Any], samples: int) -> None:
    signal = pytest.importorskip("scipy.signal")
    x = torch.randn(3, 2, samples, generator=torch.Generator().manual_seed(0))
    filtered = iir_band_pass(256.0, settle_s=0.0, **band)
    y, mask = filtered(x, whole(x))
    want = signal.sosfilt(filtered.sections.numpy(), x.double().numpy(), axis=-1)
    torch.testing.assert_close(y.double(), torch.from_numpy(want), rtol=0, atol=1e-5)
    assert mask.all()


def test_designs_are_scipys() -> None:
    signal = pytest.importorskip("scipy.signal")
    frequencies = torch.linspace(0.01, 127, 500).numpy()

    def gain(sections: Any) -> Any:
        return signal.sosfreqz(sections, frequencies, fs=256.0)[1]

    low, high = (signal.butter(6, f, kind, fs=256.0, output="sos") for f, kind in ((40, "low"), (1, "high")))
    ours = gain(iir_band_pass(256.0, 1.0, 40.0, order=6).sections.numpy())
    assert abs(ours - gain(low) * gain(high)).max() < 1e-6
    b, a = signal.iirnotch(50.0, 30.0, fs=256.0)
    assert (
        abs(gain(iir_notch(256.0, 50.0).sections.numpy()) - signal.freqz(b, a, frequencies, fs=256.0)[1]).max() < 1e-9
    )


@pytest.mark.parametrize("cuts", [[64], [1, 2, 3], [100, 356, 357, 900]])
def test_pieces_give_what_the_whole_gives_through_a_checkpoint(cuts: list[int]) -> None:
    x = torch.randn(2, 3, 1000, generator=torch.Generator().manual_seed(1))
    measured = torch.rand(x.shape, generator=torch.Generator().manual_seed(2)) > 0.002
    x = torch.where(measured, x, 0.0)

    def fresh() -> Chain:
        return Chain(Reference(), iir_band_pass(100.0, 2.0, 20.0, settle_s=0.5), iir_notch(100.0, 30.0, settle_s=0.2))

    want, want_mask = fresh()(x, measured)
    assert want_mask.any()
    assert not want_mask.all()
    parts, filtered = [], fresh()
    for a, b in zip([0, *cuts], [*cuts, 1000], strict=True):
        parts.append(filtered(x[..., a:b], measured[..., a:b]))
        saved = filtered.state_dict()
        filtered = fresh()
        filtered.load_state_dict(saved)
    torch.testing.assert_close(torch.cat([y for y, _ in parts], -1), want, rtol=0, atol=1e-6)
    assert bool((torch.cat([m for _, m in parts], -1) == want_mask).all())


def test_what_was_not_measured_starts_no_transient_and_what_follows_is_masked() -> None:
    x = torch.full((1, 1, 2000), 500.0)
    measured = whole(x)
    measured[..., 1000:1100] = False
    x[..., 1000:1100] = 0.0
    y, mask = iir_band_pass(100.0, 1.0, None, settle_s=3.0)(x, measured)
    assert not mask[..., :300].any()
    assert mask[..., 300:1000].all()
    assert not mask[..., 1000:1400].any()
    assert mask[..., 1400:].all()
    assert not y[~mask].any()
    assert float(y[..., 1400:].abs().max()) < 1e-3


def test_a_new_signal_needs_a_reset() -> None:
    filtered = iir_notch(256.0, 50.0)
    filtered(torch.zeros(2, 1, 9), whole(torch.zeros(2, 1, 9)))
    with pytest.raises(ClisonixError, match="reset"):
        filtered(torch.zeros(3, 1, 9), whole(torch.zeros(3, 1, 9)))
    filtered.reset()
    filtered(torch.zeros(3, 1, 9), whole(torch.zeros(3, 1, 9)))


def test_sections_that_make_no_filter_are_refused() -> None:
    for sections in (torch.zeros(2, 5), torch.tensor([[1.0, 0, 0, 0, 0, 0]]), torch.tensor([[1.0, 0, 0, 1, 0, 1.2]])):
        with pytest.raises(ClisonixError):
            Iir(sections)
    for bad in ((256.0, 40.0, 1.0), (256.0, None, None), (256.0, 1.0, 200.0)):
        with pytest.raises(ClisonixError, match="band"):
            iir_band_pass(*bad)


def test_the_example_holds() -> None:
    assert doctest.testmod(iir).failed == 0
