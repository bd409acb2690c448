from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from laconic.core.errors import BadInput
from laconic.measure.stats import median_of_rounds, ratio_of_rounds
from tests.measure.ends import ends


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    base, other = [[4.0, 6.0, 5.0], [10.0], [3.0]], [[2.0], [2.0, 2.0], [3.0]]
    found = ratio_of_rounds(base, other)
    assert (found.value, found.unit, found.n) == (2.5, "x", 3)
    ends(found)


def test_drift_within_a_run_leaves_the_ratio_alone() -> None:
    """The machine slows threefold over the run; both candidates feel it, so the interval stays narrow around 2."""
    drift = np.linspace(1, 3, 20)
    noise = np.random.default_rng(0).normal(1, 0.01, (2, 20, 50))
    found = ratio_of_rounds((2 * drift[:, None] * noise[0]).tolist(), (drift[:, None] * noise[1]).tolist())
    assert found.value == pytest.approx(2, rel=0.01)
    low, high = ends(found)
    assert 1.97 < low < high < 2.03


def test_rounds_that_fall_apart_are_told_by_the_lower_end() -> None:
    """Calls on all cores of a busy machine, in microseconds, from a run beside twelve other processes: 20 times faster where both were let run."""
    base = [485, 875227, 396, 760310, 482, 398, 386, 861553, 802559, 496, 392, 776439, 644111, 832044, 485570]
    other = [19.9, 19.6, 27.1, 20.3, 20.1, 19.9, 19.6, 26.6, 19.6, 19.7, 19.7, 19.4, 19.3, 19.3, 19.5]
    found = ratio_of_rounds([[float(each)] for each in base], [[each] for each in other])
    low, high = ends(found)
    assert found.value == low == pytest.approx(21.4, rel=0.1)
    assert high > 10_000
    assert "half of them lie outside 21.99 to 38,738" in found.note
    few = ratio_of_rounds([[1.0], [1.0], [1000.0]], [[1.0], [1.0], [1.0]])
    assert (few.value, few.note) == (1.0, "")


def test_six_rounds_are_published_order_statistics() -> None:
    """Of six values the least and the greatest hold the median in 1 - 2/64 = 96.9 % of cases, their neighbors in 78.1 %: 95 % lies a little within."""
    low, high = ends(median_of_rounds([1.0, 2.0, 4.0, 8.0, 16.0, 32.0], "x"))
    share = (1 - 2 / 64 - 0.95) / (12 / 64)
    weight = 5 * share / (1 + 4 * share)
    assert low == pytest.approx(2**weight)
    assert high == pytest.approx(32 / 2**weight)


NOISE: dict[str, Callable[[np.random.Generator, tuple[int, int]], np.ndarray]] = {
    "normal": lambda rng, shape: rng.normal(0, 0.1, shape),
    "long tails": lambda rng, shape: 0.03 * rng.standard_t(2, shape),
    "skewed": lambda rng, shape: rng.exponential(0.1, shape),
}


@pytest.mark.parametrize("rounds", [3, 5, 6, 9, 15, 30])
@pytest.mark.parametrize("name", NOISE)
def test_a_ratios_interval_covers_the_truth_as_often_as_it_says(name: str, rounds: int) -> None:
    runs, above, below = 1000, 0, 0
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        base, other = 1.5 * np.exp(NOISE[name](rng, (rounds, 1))), np.exp(NOISE[name](rng, (rounds, 1)))
        low, high = ends(ratio_of_rounds(base.tolist(), other.tolist()))
        above, below = above + (low > 1.5), below + (high < 1.5)
    # 93 to 97 %; Student's, of fewer than six rounds, holds more where tails are long
    assert 0.93 <= 1 - (above + below) / runs <= (0.97 if rounds >= 6 else 0.995)
    assert max(above, below) / runs <= 0.04


def test_one_round_has_no_interval() -> None:
    found = ratio_of_rounds([[3.0, 3.0]], [[1.0]])
    assert (found.value, found.low, found.high, found.note) == (3.0, None, None, "one round has no interval")


@pytest.mark.parametrize(("base", "other"), [([[1.0]], []), ([], []), ([[1.0]], [[1.0], [2.0]])])
def test_rounds_must_pair(base: list[list[float]], other: list[list[float]]) -> None:
    with pytest.raises(BadInput, match="same number of rounds"):
        ratio_of_rounds(base, other)


@pytest.mark.parametrize("n", [6, 15, 60, 2000])
def test_coins_are_counted_as_scipy_does(n: int) -> None:
    from scipy.stats import binom

    from laconic.measure import stats

    for k in {0, 1, n // 3, n // 2, n}:
        assert stats._cdf(k, n) == pytest.approx(binom.cdf(k, n, 0.5), rel=1e-9)
    assert stats._pair(n)[0] == binom.ppf(0.025, n, 0.5)
