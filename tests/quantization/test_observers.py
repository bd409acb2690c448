from __future__ import annotations

import pickle
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from torch import Tensor

from laconic.quantization.observers import OBSERVERS, ChannelMean, ChannelRange, Entropy, Histogram, MeanSquare, Observer, Percentile
from laconic.quantization.scheme import ACTIVATION_AFFINE, ACTIVATION_SYMMETRIC, ACTIVATION_UNSIGNED, Scheme
from tests.reference import quantize as twin

CODES = {"symmetric": ACTIVATION_SYMMETRIC, "affine": ACTIVATION_AFFINE}


def seen(name: str, batches: Iterable[Tensor]) -> Observer:
    observer = OBSERVERS[name]()
    for batch in batches:
        observer.fold(batch)
    return observer


def width(observer: Observer) -> float:
    """Of a histogram's bins; an observer without one is exact up to float32."""
    return observer.width if isinstance(observer, Histogram) else 1e-5


def mean_square(x: Tensor, ends: tuple[float, float], codes: Scheme) -> float:
    return twin.squared_error(x.numpy(), *ends, codes.low, codes.high, codes.symmetric)


# Against twins that see all data at once ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "reference"),
    [("minmax", twin.minmax), ("moving_average", twin.mean_of_extremes), ("percentile", twin.percentile)],
    ids=["minmax", "moving average", "percentile"],
)
def test_the_range_is_the_twins(name: str, reference: object) -> None:
    # 270,000 numbers: 0.001 % are 2.7 of them, so that no rounding decides which one is meant
    x = torch.randn(270, 1000) * torch.rand(270, 1) + 0.3
    observer = seen(name, x.split(90))
    np.testing.assert_allclose(observer.finish(ACTIVATION_SYMMETRIC), reference(x.numpy()), atol=width(observer) * 1.001)
    assert width(observer) < 0.02


@pytest.mark.parametrize("codes", CODES.values(), ids=CODES)
@pytest.mark.parametrize("outlier", [0.0, 20.0, 100.0], ids=["none", "mild", "far"])
def test_mse_is_as_good_as_brute_force(codes: Scheme, outlier: float) -> None:
    x = torch.randn(200, 250)
    x[0, 0] += outlier
    found = seen("mse", x.split(50)).finish(codes)
    best = twin.best_shrink(x.numpy(), lambda low, high: mean_square(x, (low, high), codes), MeanSquare.steps)
    assert mean_square(x, found, codes) <= best * 1.02  # the bins' centres stand for what is in them
    assert mean_square(x, found, codes) < mean_square(x, twin.minmax(x.numpy()), codes)


@pytest.mark.parametrize("codes", CODES.values(), ids=CODES)
@pytest.mark.parametrize("share", [1.0, 0.6, 0.2], ids=["whole", "a little clipped", "much clipped"])
def test_the_cost_of_entropy_is_the_twins(codes: Scheme, share: float) -> None:
    x = torch.randn(40, 500)
    observer = seen("entropy", [x])
    assert isinstance(observer, Entropy)
    low, high = (v * share for v in twin.minmax(x.numpy()))
    expected = twin.divergence(observer.count.numpy(), observer.centers().numpy(), low, high, codes.low, codes.high, codes.symmetric)
    assert observer.cost(low, high, codes) == pytest.approx(
        expected, rel=1e-3
    )  # steps are float32 there: a bin at a border may change its code


def test_entropy_takes_the_shrink_of_least_cost() -> None:
    x = normals(100.0)
    observer = seen("entropy", [x])
    assert isinstance(observer, Entropy)
    best = twin.best_shrink(x.numpy(), lambda low, high: observer.cost(low, high, ACTIVATION_SYMMETRIC), Entropy.steps)
    found = observer.finish(ACTIVATION_SYMMETRIC)
    assert observer.cost(*found, ACTIVATION_SYMMETRIC) == pytest.approx(best, rel=1e-6)
    assert found[1] < float(x.max())


# Outliers ---------------------------------------------------------------------------------------------------------------------------------


def normals(outlier: float) -> Tensor:
    """100,000 normal numbers, one of them replaced."""
    x = torch.randn(1000, 100)
    x[500, 3] = outlier
    return x


@pytest.mark.parametrize(
    ("name", "ceiling"),
    [("percentile", 20.0), ("moving_average", 20.0), ("entropy", 5000.0)],
    ids=["percentile", "moving average", "entropy"],
)
def test_an_outlier_is_clipped(name: str, ceiling: float) -> None:
    x = normals(1e4)
    for size in (1000, 100):
        assert 2.0 < seen(name, x.split(size)).finish(ACTIVATION_SYMMETRIC)[1] < ceiling


def test_an_outlier_is_kept_by_minmax() -> None:
    assert seen("minmax", normals(1e4).split(100)).finish(ACTIVATION_SYMMETRIC)[1] == 1e4


def test_mse_clips_an_outlier_that_costs_less_than_what_it_spoils() -> None:
    assert seen("mse", normals(100.0).split(100)).finish(ACTIVATION_SYMMETRIC)[1] < 80.0
    # of 1e4 it cannot: losing all of 1e5 normals costs 1e5, clipping one number to a tenth of a percent of itself as much again a thousand times
    x = normals(1e4)
    assert mean_square(x, (-5.0, 5.0), ACTIVATION_SYMMETRIC) > 100 * mean_square(x, (-5.0, 1e4), ACTIVATION_SYMMETRIC)
    assert seen("mse", x.split(100)).finish(ACTIVATION_SYMMETRIC)[1] == 1e4


def test_entropy_does_not_cut_off_what_a_relu_puts_out() -> None:
    x = torch.randn(1000, 100).relu()
    found = seen("entropy", x.split(100)).finish(ACTIVATION_UNSIGNED)
    assert mean_square(x, found, ACTIVATION_UNSIGNED) < 10 * mean_square(x, twin.minmax(x.numpy()), ACTIVATION_UNSIGNED)


# Streaming -----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["minmax", "moving_average", "percentile"])
@pytest.mark.parametrize("sizes", [(400,), (1,) * 400, (3, 197, 1, 199)], ids=["at once", "one by one", "unequal"])
def test_the_split_into_batches_moves_a_range_by_a_bin_at_most(name: str, sizes: tuple[int, ...]) -> None:
    x = torch.randn(400, 100)
    expected, found = seen(name, x.split(100)), seen(name, x.split(list(sizes)))
    tolerance = max(width(expected), width(found)) * 1.001
    np.testing.assert_allclose(found.finish(ACTIVATION_SYMMETRIC), expected.finish(ACTIVATION_SYMMETRIC), atol=tolerance)


@pytest.mark.parametrize("name", ["mse", "entropy"])
def test_the_split_into_batches_hardly_changes_a_searched_range(name: str) -> None:
    x = torch.randn(400, 100)
    expected, found = (seen(name, x.split(size)).finish(ACTIVATION_SYMMETRIC) for size in (400, 7))
    assert mean_square(x, found, ACTIVATION_SYMMETRIC) < 1.1 * mean_square(x, expected, ACTIVATION_SYMMETRIC)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((0.0, 1.0), (5.0, 9.0)),
        ((0.0, 1.0), (-9.0, -5.0)),
        ((0.0, 1.0), (-40.0, 70.0)),
        ((2.0, 2.0), (0.0, 3.0)),
        ((0.0, 0.0), (-1.0, 1.0)),
    ],
    ids=["up", "down", "both ways", "from a constant", "from zeros"],
)
def test_a_histogram_widens_and_loses_nobody(first: tuple[float, float], second: tuple[float, float]) -> None:
    observer = Percentile()
    parts = [torch.linspace(*first, 1000).reshape(10, 100), torch.linspace(*second, 3000).reshape(10, 300)]
    for part in parts:
        observer.fold(part)
    x = torch.cat([part.flatten() for part in parts]).double()
    assert float(observer.count.sum()) == 4000
    assert observer.start <= float(x.min())
    assert float(x.max()) < observer.start + observer.width * len(observer.count)
    # each count is that of numpy's histogram of everything, moved by a bin where a value lies on a border
    edges = observer.start + observer.width * np.arange(len(observer.count) + 1)
    expected = np.histogram(x.numpy(), edges)[0]
    assert np.abs(np.cumsum(expected) - observer.count.cumsum(0).numpy()).max() <= observer.count.max()
    assert int((torch.from_numpy(expected) != observer.count).sum()) <= 0.02 * len(expected)


def test_a_large_batch_is_sampled_but_weighs_what_it_holds() -> None:
    observer = Percentile()
    observer.fold(torch.randn(4, 1 << 17))
    assert float(observer.count.sum()) == 4 << 17


@pytest.mark.parametrize("name", OBSERVERS)
def test_memory_does_not_grow(name: str) -> None:
    observer, sizes = OBSERVERS[name](), {}
    for n in range(1, 1001):
        observer.fold(torch.randn(2, 8) * n)
        sizes[n] = len(pickle.dumps(observer))
    assert sizes[1000] <= sizes[10] + 16  # whole numbers are written with more bytes when they grow


@pytest.mark.parametrize("name", OBSERVERS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")], ids=["nan", "inf", "-inf"])
def test_what_is_not_finite_is_refused(name: str, bad: float) -> None:
    x = torch.randn(4, 5)
    x[2, 3] = bad
    with pytest.raises(FloatingPointError):
        OBSERVERS[name]().fold(x)


@pytest.mark.parametrize("name", OBSERVERS)
def test_the_layout_in_memory_does_not_matter(name: str) -> None:
    x = torch.randn(6, 5, 4, 3)
    plain, other = seen(name, [x]), seen(name, [x.contiguous(memory_format=torch.channels_last)])
    assert plain.finish(ACTIVATION_AFFINE) == pytest.approx(other.finish(ACTIVATION_AFFINE), rel=1e-9)


@pytest.mark.parametrize("name", OBSERVERS)
@pytest.mark.parametrize("value", [0.0, 2.5, -2.5], ids=["zeros", "positive", "negative"])
def test_a_constant_is_covered(name: str, value: float) -> None:
    low, high = seen(name, [torch.full((3, 4), value)] * 2).finish(ACTIVATION_AFFINE)
    assert min(low, 0.0) == pytest.approx(min(value, 0.0), abs=0.02)
    assert max(high, 0.0) == pytest.approx(max(value, 0.0), abs=0.02)


def test_a_moving_average_forgets() -> None:
    observer = seen("moving_average", [torch.full((500, 2), 100.0), *[torch.full((1000, 2), 1.0)] * 20])
    assert observer.finish(ACTIVATION_SYMMETRIC)[1] == pytest.approx(1.0, abs=0.01)


# By channel ------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [1, -1], ids=["front", "back"])
def test_channels_have_their_own_magnitudes_and_means(axis: int) -> None:
    x = torch.randn(12, 5, 6) * 3 + 1
    largest, mean = ChannelRange(axis), ChannelMean(axis)
    for batch in x.split([5, 7]):
        largest.fold(batch)
        mean.fold(batch)
    rest = tuple(i for i in range(3) if i != axis % 3)
    assert largest.largest is not None
    np.testing.assert_allclose(largest.largest.numpy(), np.abs(x.numpy()).max(rest))
    np.testing.assert_allclose(mean.mean.numpy(), x.double().numpy().mean(rest), rtol=1e-6)
