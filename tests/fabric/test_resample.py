"""A changed rate is what it would be over the whole stream, and gaps stay gaps."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from clisonix.errors import ClisonixError
from clisonix.fabric import Modality, Recording, SignalFabric, Stream
from clisonix.fabric.resample import Resampler, kaiser_sinc

RATIOS = [(256, 128), (256, 250), (2000, 100), (100, 256), (4410, 1600), (64, 96)]


def resampled(x: np.ndarray, rate_hz: float, to_hz: float, hop: float = 0.37) -> SignalFabric:
    shapes = {"x": Modality(len(x), to_hz, round(to_hz))}
    return SignalFabric(
        [Recording("r", {"x": Stream(x, rate_hz)})], window=1.0, hop=hop, modalities=shapes, batch_size=3
    )


@pytest.mark.parametrize(("rate_hz", "to_hz"), RATIOS)
def test_windows_are_scipys_polyphase_result_wherever_they_are_cut(rate_hz: int, to_hz: int) -> None:
    signal = pytest.importorskip("scipy.signal")
    x = np.random.default_rng(0).standard_normal((2, rate_hz * 4)).astype(np.float32)
    ratio = Fraction(to_hz, rate_hz)
    up, down = ratio.numerator, ratio.denominator
    whole = signal.resample_poly(x.astype(float), up, down, axis=1, window=kaiser_sinc(up, down) / up)
    for batch in resampled(x, rate_hz, to_hz):
        for y, mask, start_s in zip(batch["streams"]["x"], batch["masks"]["x"], batch["t0_s"].tolist(), strict=True):
            begin = round(start_s * to_hz)
            want = np.where(mask, whole[:, begin : begin + to_hz], 0)
            np.testing.assert_allclose(y.numpy(), want, atol=5e-6)
            if 1.0 <= start_s <= 2.0:
                assert mask.all()


def test_a_tone_above_the_new_band_is_gone_and_one_below_stays() -> None:
    times = np.arange(1000 * 6) / 1000
    for tone_hz, want in ((30.0, 1.0), (50.5, 0.0), (180.0, 0.0), (430.0, 0.0)):
        x = np.sin(2 * np.pi * tone_hz * times).astype(np.float32)[None]
        for batch in resampled(x, 1000.0, 100.0, hop=1.0):
            for y, mask in zip(batch["streams"]["x"], batch["masks"]["x"], strict=True):
                if mask.all():
                    assert float(y.square().mean().sqrt() * 2**0.5) == pytest.approx(want, abs=2e-4)


@pytest.mark.parametrize(("rate_hz", "to_hz"), [(256, 128), (100, 256)])
def test_missing_values_reach_no_result_that_is_trusted(rate_hz: int, to_hz: int) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, rate_hz * 6)).astype(np.float32)
    gap = slice(rate_hz * 3, rate_hz * 3 + 7)
    holed, spiked = x.copy(), x.copy()
    holed[1, gap], spiked[1, gap] = np.nan, 1e6
    reach_s = Resampler(rate_hz, to_hz).reach / rate_hz
    for a, b in zip(resampled(holed, rate_hz, to_hz), resampled(spiked, rate_hz, to_hz), strict=True):
        mask, ya, yb = a["masks"]["x"], a["streams"]["x"], b["streams"]["x"]
        assert np.array_equal(ya[mask], yb[mask])
        assert not ya[~mask].any()
        times = a["t0_s"][:, None].numpy().round(9) + np.arange(to_hz) / to_hz
        away = np.abs(times - 3 - 3 / rate_hz) > reach_s + 8 / rate_hz
        inside = (times > reach_s + 2 / to_hz) & (times < 6 - reach_s - 2 / to_hz)
        assert mask.numpy()[:, 1][away & inside].all()
        assert mask.numpy()[:, 0][inside].all()
        assert not mask.numpy()[:, 1][np.abs(times - 3) < 1e-3].any()


def test_the_place_in_a_batch_changes_no_bit() -> None:
    x = np.random.default_rng(2).standard_normal((3, 256 * 5)).astype(np.float32)
    fabric = resampled(x, 256, 100)
    rows = np.arange(len(fabric.table))
    together = fabric.gather(rows[::-1].copy())["streams"]["x"].flip(0)
    for row in rows:
        alone = fabric.gather(rows[row : row + 1])["streams"]["x"][0]
        assert alone.numpy().tobytes() == together[row].contiguous().numpy().tobytes()


def test_rates_without_a_ratio_are_refused() -> None:
    with pytest.raises(ClisonixError, match=r"255.9837 Hz cannot be resampled to 250 Hz"):
        Resampler(255.9837, 250.0)
