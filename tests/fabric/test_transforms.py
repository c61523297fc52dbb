"""Transforms compute what the textbooks say, and what was not measured enters nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from clisonix.errors import ClisonixError
from clisonix.fabric import Recording, SignalFabric, Stream
from clisonix.fabric.transforms import Chain, LogMel, PerModality, Reference, RobustScale, Transform, band_pass, notch


def batch(channels: int = 3, samples: int = 1024) -> tuple[Tensor, Tensor]:
    x = torch.randn(2, channels, samples, generator=torch.Generator().manual_seed(0))
    return x, torch.ones_like(x, dtype=torch.bool)


def fitted(channels: int) -> RobustScale:
    x, mask = batch(channels)
    return RobustScale(channels).fit([{"streams": {"x": x}, "masks": {"x": mask}}], "x")  # type: ignore[typeddict-item]


MADE: dict[str, Transform] = {
    "band_pass": band_pass(256.0, 8.0, 30.0, transition_hz=4.0),
    "notch, masked edges": notch(256.0, 50.0, edge="mask"),
    "reference": Reference(),
    "mastoids": Reference([1, 2]),
    "scale": fitted(3),
    "log-mel": LogMel(256.0, bands=8, frame_s=0.25, hop_s=0.1),
    "chain": Chain(Reference(), band_pass(256.0, 8.0, 30.0, transition_hz=4.0), fitted(3)),
}


@pytest.mark.parametrize("name", MADE)
def test_what_was_not_measured_enters_no_trusted_result(name: str) -> None:
    x, mask = batch()
    mask[0, 1, 300:340] = False
    mask[1, :, :10] = False
    results = []
    for filler in (0.0, 1e3):
        y, kept = MADE[name](torch.where(mask, x, 0.0) if filler == 0 else torch.where(mask, x, filler), mask)
        assert not kept.all()
        assert kept.any()
        assert not y[~kept].any()
        results.append(y[kept])
    if not name.startswith(("band_pass", "notch", "chain")):
        assert torch.equal(*results)
    else:  # a transform of Fourier rounds by the largest value of the window
        torch.testing.assert_close(*results, atol=1e-2, rtol=0)


@pytest.mark.parametrize("name", MADE)
def test_state_goes_through_state_dict_and_batches_do_not_matter(name: str) -> None:
    x, mask = batch()
    made = MADE[name]
    made.load_state_dict(made.state_dict())
    y, kept = made(x, mask)
    one, kept_one = made(x[1:], mask[1:])
    torch.testing.assert_close(one[0], y[1])
    assert torch.equal(kept_one[0], kept[1])


def test_band_pass_has_scipys_taps_and_result() -> None:
    signal = pytest.importorskip("scipy.signal")
    made = band_pass(256.0, 8.0, 30.0, transition_hz=4.0)
    n = len(made.taps)
    want = signal.firwin(n, [30.0], fs=256.0) - signal.firwin(n, [8.0], fs=256.0)
    np.testing.assert_allclose(made.taps.numpy(), want, atol=1e-7)
    x, mask = batch()
    y, kept = made(x, mask)
    assert kept.all()
    padded = signal._signaltools.odd_ext(x.numpy().astype(float), n // 2, axis=-1)
    np.testing.assert_allclose(y.numpy(), signal.fftconvolve(padded, want[None, None], "valid", axes=-1), atol=1e-5)


def test_a_notch_takes_the_hum_and_leaves_the_rest() -> None:
    times = torch.arange(2048) / 256
    hum, alpha = torch.sin(2 * torch.pi * 50 * times), torch.sin(2 * torch.pi * 10 * times)
    x = (hum + alpha).expand(1, 1, -1)
    y, kept = notch(256.0, 50.0, edge="mask")(x, torch.ones_like(x, dtype=torch.bool))
    inner = kept[0, 0]
    assert 0.5 < inner.float().mean() < 1
    assert (y[0, 0][inner] - alpha[inner]).abs().max() < 0.01


def test_reference_averages_over_what_was_measured() -> None:
    x = torch.tensor([[[1.0], [2.0], [6.0]]])
    mask = torch.tensor([[[True], [True], [False]]])
    y, kept = Reference()(torch.where(mask, x, 0.0), mask)
    assert y.flatten().tolist() == [-0.5, 0.5, 0.0]
    assert torch.equal(kept, mask)
    assert not Reference([2])(x, mask)[1].any()


def test_robust_scale_is_median_and_interquartile_range_and_saved() -> None:
    x, mask = batch(2)
    x[0, 0, 0] = 1e9
    mask[:, 1, 500:] = False
    scale = RobustScale(2, limit=5.0)
    with pytest.raises(ClisonixError, match="was not fitted"):
        scale(x, mask)
    scale.fit([{"streams": {"x": x}, "masks": {"x": mask}}], "x")  # type: ignore[typeddict-item]
    for c in range(2):
        low, middle, high = np.percentile(x[:, c][mask[:, c]].numpy(), [25, 50, 75])
        assert float(scale.center[c]) == pytest.approx(middle, abs=1e-6)
        assert float(scale.spread[c]) == pytest.approx(high - low, abs=1e-6)
    other = RobustScale(2, limit=5.0)
    other.load_state_dict(scale.state_dict())
    assert torch.equal(other(x, mask)[0], scale(x, mask)[0])
    assert float(scale(x, mask)[0].abs().max()) == 5.0


def test_log_mel_is_scipys_spectrogram_in_triangles() -> None:
    signal = pytest.importorskip("scipy.signal")
    made = LogMel(8000.0, bands=20)
    x, mask = batch(1, 4000)
    y, kept = made(x, mask)
    window = signal.get_window("hann", made.frame)
    frames = np.lib.stride_tricks.sliding_window_view(x[0, 0].numpy(), made.frame)[:: made.hop] * window
    power = np.abs(np.fft.rfft(frames)) ** 2
    np.testing.assert_allclose(y[0].numpy(), np.log(power @ made.bands_matrix.numpy().T.astype(float)).T, atol=1e-3)
    assert kept.all()
    assert y.shape == (2, 20, 1 + (4000 - made.frame) // made.hop)
    # Neighbouring triangles add up to one between the first and the last peak.
    sums = made.bands_matrix.sum(0)
    peaks = made.bands_matrix.argmax(1)
    assert torch.allclose(sums[peaks[0] + 1 : peaks[-1]], torch.ones(int(peaks[-1] - peaks[0] - 1)))
    tone = torch.sin(2 * torch.pi * 1000 * torch.arange(4000) / 8000).expand(1, 1, -1)
    centre = 2595 * np.log10(1 + 1000 / 700) / (2595 * np.log10(1 + 4000 / 700)) * 21 - 1
    assert abs(int(made(tone, torch.ones_like(tone, dtype=torch.bool))[0][0, :, 5].argmax()) - centre) <= 1


def test_a_window_goes_through_per_modality() -> None:
    recording = Recording("r", {"eeg": Stream(np.random.default_rng(0).standard_normal((4, 512), np.float32), 256.0)})
    [window] = SignalFabric([recording], window=2.0, batch_size=1)
    changed = PerModality({"eeg": Reference()})(window)
    assert changed["streams"]["eeg"].mean(1).abs().max() < 1e-6
    assert changed["window"] is window["window"]
    with pytest.raises(ClisonixError, match=r"lacks 'egg'.*did you mean 'eeg'"):
        PerModality({"egg": Reference()})(window)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: band_pass(256.0, 30.0, 8.0), "does not lie between 0 and 128 Hz"),
        (lambda: band_pass(256.0, None, None), "does not lie between"),
        (lambda: notch(100.0, 50.0), "does not lie between"),
        (lambda: band_pass(256.0, 1.0, 8.0)(*batch(samples=256)), "too short for a filter"),
        (lambda: LogMel(256.0, bands=80), "fewer bands or longer frames"),
        (lambda: Reference([]), "expected indices"),
        (lambda: Reference([7])(*batch()), "is none of 3 channels"),
    ],
)
def test_bad_arguments_are_one_sentence(make: object, sentence: str) -> None:
    with pytest.raises(ClisonixError, match=sentence):
        make()  # type: ignore[operator]
