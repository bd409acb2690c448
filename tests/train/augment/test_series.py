from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicSpline

from laconic.train.augment.series import spline_basis
from tests.reference import augment as twin
from tests.train.augment.data import augment, batch

LENGTH = 61
TIMES = ("time_warp", "window_slice", "window_warp")


def ramp(n: int = 20, channels: int = 2) -> torch.Tensor:
    """A series that tells its own time: read at t it is t."""
    return torch.arange(float(LENGTH)).expand(n, channels, LENGTH).clone()


@pytest.mark.parametrize("knots", [3, 4, 6])
@pytest.mark.parametrize("length", [2, 7, 50])
def test_the_curves_are_natural_cubic_splines(length: int, knots: int) -> None:
    heights = torch.randn(knots, dtype=torch.float64)
    theirs = CubicSpline(np.arange(knots), heights.numpy(), bc_type="natural")(np.linspace(0, knots - 1, length))
    assert (spline_basis(length, knots) @ heights).numpy() == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("strength", [1.0, 3.0])
@pytest.mark.parametrize("name", TIMES)
def test_a_warp_reads_all_channels_at_one_monotone_time(name: str, strength: float) -> None:
    time, _ = augment(ramp(), name, strength, seed=7)
    assert torch.equal(time[:, 0], time[:, 1])
    assert (time.diff(dim=2) > 0).all()
    assert time.min() >= 0
    assert time.max() <= LENGTH - 1
    x = torch.randn(20, 2, LENGTH, dtype=torch.float64)
    out, _ = augment(x, name, strength, seed=7)
    # the ramp's time is known to float32 only: 1e-5 of a sample, by slopes of a few units
    assert out.numpy() == pytest.approx(twin.read_at(x.numpy(), time[:, 0].numpy()), abs=1e-4)


def test_a_warped_clock_starts_and_ends_on_time() -> None:
    for name in ("time_warp", "window_warp"):
        time = augment(ramp(), name)[0]
        assert torch.allclose(time[..., 0], torch.zeros(()), atol=1e-4)
        assert torch.allclose(time[..., -1], torch.tensor(LENGTH - 1.0), atol=1e-4)


def test_a_slice_is_nine_tenths_long_and_lies_anywhere() -> None:
    time = augment(ramp(200), "window_slice")[0][:, 0]
    assert torch.allclose(time[:, -1] - time[:, 0], torch.tensor(0.9 * (LENGTH - 1)), atol=1e-4)
    assert torch.allclose(time.diff(dim=1), torch.tensor(0.9), atol=1e-4)
    assert time[:, 0].min() < 1
    assert time[:, 0].max() > 5


def test_a_warped_window_is_twice_as_long_or_short() -> None:
    speeds = augment(ramp(200), "window_warp")[0][:, 0].diff(dim=1)
    against_outside = (speeds / speeds.median(1, keepdim=True).values).log2()
    inside = against_outside.gather(1, against_outside.abs().argmax(1, keepdim=True))
    assert torch.allclose(inside.abs(), torch.tensor(1.0), atol=1e-3)
    assert 0.4 < (inside > 0).float().mean() < 0.6


@pytest.mark.parametrize(("strength", "most"), [(0.1, 2), (1.0, 4), (3.0, 10)])
def test_a_permutation_is_one_of_segments(strength: float, most: int) -> None:
    source = augment(ramp(60), "permutation", strength)[0]
    assert torch.equal(source[:, 0], source[:, 1])
    found = [twin.segments(row.numpy()) for row in source[:, 0]]
    assert max(found) <= most
    assert len({tuple(row.tolist()) for row in source[:, 0]}) > 20


@pytest.mark.parametrize(("strength", "width"), [(0.01, 1), (1.0, 6), (3.0, 18)])
def test_masking_hides_one_stretch_behind_the_mean(strength: float, width: int) -> None:
    x = torch.randn(30, 3, LENGTH)
    out, _ = augment(x, "masking", strength)
    for old, new in zip(x, out, strict=True):
        hidden = (old != new).all(0)
        assert hidden.sum() == twin.longest_run(hidden.tolist()) == width
        assert torch.allclose(new[:, hidden], x.mean((0, 2))[:, None])


@pytest.mark.parametrize("strength", [1.0, 4.0])
def test_jitter_is_relative_to_each_channel(strength: float) -> None:
    x = torch.randn(40, 2, 300) * torch.tensor([[1.0], [50.0]]) + 7
    noise = augment(x, "jitter", strength)[0] - x
    assert (noise.std((0, 2)) / x.std((0, 2))).tolist() == pytest.approx([0.05 * strength] * 2, rel=0.05)
    assert noise[0, 0].numpy() != pytest.approx(noise[1, 0].numpy())


def test_scaling_is_one_factor_for_each_channel() -> None:
    x = torch.rand(300, 2, 5, dtype=torch.float64) + 1
    factor = augment(x, "scaling")[0] / x
    assert torch.allclose(factor, factor[..., :1].expand_as(factor))
    assert factor[..., 0].std() == pytest.approx(0.1, rel=0.15)
    assert factor[..., 0].mean() == pytest.approx(1, abs=0.02)


def test_a_magnitude_curve_is_smooth_and_of_mean_1() -> None:
    curve = augment(torch.ones(300, 2, LENGTH), "magnitude_warp")[0]
    assert curve.mean() == pytest.approx(1, abs=0.02)
    assert curve[..., 0].std() == pytest.approx(0.2, rel=0.15)
    assert curve.diff(dim=2).abs().mean() < 0.05
    assert not torch.equal(curve[:, 0], curve[:, 1])


def test_mixup_mixes_series_too() -> None:
    x = batch("series")
    mixed, mix = augment(x, "mixup", seed=3)
    assert mix is not None
    assert mixed.numpy() == pytest.approx(twin.mixture(x.numpy(), mix.order.tolist(), mix.share), abs=1e-6)
