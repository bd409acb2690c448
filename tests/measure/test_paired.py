from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import f1_score, roc_auc_score

from laconic.core.errors import BadInput
from laconic.core.records import Measurement, to_json
from laconic.measure.paired import _gamma_above, mid_p, paired_bootstrap, paired_difference, unseen_share
from tests.measure.ends import ends

RNG = np.random.default_rng(0)


def discordant(n: int, worse: int, better: int) -> tuple[np.ndarray, np.ndarray]:
    """Right or wrong, of n examples each: both are right where they agree."""
    baseline, candidate = np.ones(n), np.ones(n)
    candidate[:worse] = 0
    baseline[worse : worse + better] = 0
    return baseline, candidate


# 0/1 scores -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 20, 287, 359, 10_000])
@pytest.mark.parametrize("scores", ["all right", "all wrong", "some of each"])
def test_no_discordant_pair_does_not_exclude_a_drop(n: int, scores: str) -> None:
    both = {"all right": np.ones(n), "all wrong": np.zeros(n), "some of each": (np.arange(n) % 3 > 0).astype(float)}[scores]
    found = paired_difference(both, both.copy(), scale=100)
    low, high = ends(found)
    assert found.value == 0
    assert -low == pytest.approx(high) == pytest.approx(100 * (1 - 0.05 ** (1 / n)))
    assert (found.worse, found.better, found.n) == (0, 0, n)


def test_the_known_case_is_in_the_known_range() -> None:
    assert 0.83 <= ends(paired_difference(*discordant(359, 0, 0), scale=100))[1] <= 1.0


@pytest.mark.parametrize(("k", "n"), [(0, 10), (1, 10), (5, 10), (10, 10), (3, 359), (40, 50_000)])
def test_the_share_of_one_side_is_scipys_mid_p(k: int, n: int) -> None:
    low, high = mid_p(k, n)

    def above(p: float) -> float:
        return float(scipy.stats.binom.sf(k, n, p) + 0.5 * scipy.stats.binom.pmf(k, n, p))

    assert above(high) == pytest.approx(0.975) if k < n else high == 1
    assert above(low) == pytest.approx(0.025) if k else low == 0
    exact = scipy.stats.binomtest(k, n).proportion_ci(method="exact")
    assert exact.low <= low <= k / n <= high <= exact.high


def test_discordant_pairs_are_counted_in_the_unit_and_the_direction_given() -> None:
    found = paired_difference(*discordant(500, 9, 4), scale=100)
    assert (found.value, found.worse, found.better, found.unit) == (pytest.approx(1.0), 9, 4, "points")
    errors = [-(1 - scores) for scores in discordant(500, 9, 4)]
    twin = paired_difference(*errors, scale=100)
    assert to_json(twin) == pytest.approx(to_json(found))
    other = paired_difference(*discordant(500, 9, 4), scale=1.0, unit="mm")
    assert (other.unit, other.value, other.high) == ("mm", pytest.approx(0.01), pytest.approx(ends(found)[1] / 100))
    assert Measurement.from_json(to_json(found)) == found


@pytest.mark.parametrize(("worse", "better"), [(8000, 6000), (3000, 1000), (500, 500)])
def test_of_many_discordant_pairs_the_interval_is_walds(worse: int, better: int) -> None:
    n = 20_000
    p, q = worse / n, better / n
    half = 1.96 * math.sqrt((p + q - (p - q) ** 2) / n)
    assert ends(paired_difference(*discordant(n, worse, better))) == pytest.approx((p - q - half, p - q + half), abs=0.02 * half)


def exact_coverage(n: int, p: float, q: float) -> tuple[float, float]:
    """How often the interval lies above and below the true difference p - q, summed over all outcomes of a multinomial: no simulation."""
    binom, above, below = scipy.stats.binom, 0.0, 0.0
    for worse in range(int(binom.ppf(1 - 1e-6, n, p)) + 1):
        for better in range(int(binom.ppf(1 - 1e-6, n, q)) + 1 if q else 1):
            weight = float(binom.pmf(worse, n, p) * binom.pmf(better, n - worse, q / (1 - p)))
            if weight > 1e-8 and worse + better <= n:
                low, high = ends(paired_difference(*discordant(n, worse, better)))
                above, below = above + weight * (low > p - q), below + weight * (high < p - q)
    return above, below


@pytest.mark.parametrize(
    ("n", "p", "q"),
    [
        (100, 0.05, 0.05),
        (100, 0.1, 0.05),
        (359, 0.02, 0.01),
        (359, 0.03, 0.005),
        (359, 0.015, 0.015),
        (1000, 0.01, 0.0),
        (1000, 0.01, 0.01),
    ],
)
def test_the_interval_covers_as_often_as_it_says(n: int, p: float, q: float) -> None:
    above, below = exact_coverage(n, p, q)
    assert 0.93 <= 1 - above - below <= 0.97
    assert max(above, below) <= 0.04


@pytest.mark.parametrize(("p", "q"), [(0.002, 0.0), (0.002, 0.002), (0.0084, 0.0), (0.005, 0.001)])
def test_where_hardly_any_example_differs_it_covers_at_least_as_often(p: float, q: float) -> None:
    """A true drop of 0.2 points in 359 examples: an interval of resampled examples holds it in 51 % of cases."""
    assert 1 - sum(exact_coverage(359, p, q)) >= 0.94


# Other scores per example ---------------------------------------------------------------------------------------------------------------


def test_a_mean_over_examples_agrees_with_scipys_bootstrap() -> None:
    a = RNG.normal(2.0, 1.0, 400)
    b = a - RNG.normal(0.1, 0.3, 400)
    found = paired_difference(a, b, scale=100, unit="mm")
    gaps = a - b
    twin = scipy.stats.bootstrap((gaps,), np.mean, method="BCa", n_resamples=5000, rng=np.random.default_rng(1)).confidence_interval
    width = 100 * (twin.high - twin.low)
    assert found.value == pytest.approx(100 * gaps.mean())
    assert ends(found) == pytest.approx((100 * twin.low, 100 * twin.high), abs=0.05 * width)
    assert (found.unit, found.n, found.worse, found.better) == ("mm", 400, None, None)


def tenths(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Shares of ten labels, of which 15 % of the examples differ."""
    base = rng.integers(0, 11, n) / 10
    return base + (rng.random(n) < 0.15) * rng.choice([-0.1, 0.2, 0.3], n), base


DRAWS: dict[str, tuple[Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]], float]] = {
    "normal": (lambda rng, n: (rng.normal(0.3, 1, n), np.zeros(n)), 0.3),
    "exponential": (lambda rng, n: (rng.exponential(1, n), np.zeros(n)), 1.0),
    "tenths": (tenths, 0.15 * 0.4 / 3),
}


@pytest.mark.parametrize("n", [40, 200, 6000])
@pytest.mark.parametrize("name", DRAWS)
def test_a_means_interval_covers_as_often_as_it_says(name: str, n: int) -> None:
    draw, truth = DRAWS[name]
    runs, above, below = 400, 0, 0
    for seed in range(runs):
        low, high = ends(paired_difference(*draw(np.random.default_rng(seed), n), seed=seed))
        above, below = above + (low > truth), below + (high < truth)
    # 95 % and three standard errors of 400 runs on either side
    assert 0.917 <= 1 - (above + below) / runs <= 0.983
    assert max(above, below) / runs <= 0.06


@pytest.mark.parametrize(("differing", "most"), [(6, 0.10), (24, 0.04)])
def test_few_differing_examples_of_unlike_gaps_are_seldom_below_the_truth(differing: int, most: float) -> None:
    rng, n, runs, missed = np.random.default_rng(0), 300, 1000, 0
    for _ in range(runs):
        gaps = np.where(rng.random(n) < differing / n, rng.exponential(1, n), 0.0)
        missed += ends(paired_difference(gaps, np.zeros(n)))[1] < differing / n
    assert missed / runs <= most


@pytest.mark.parametrize("k", [1, 3, 20])
def test_the_upper_end_of_weighted_counts_is_the_exact_one_of_poisson_for_equal_weights(k: int) -> None:
    above = _gamma_above(np.full(k, 0.5)) / 0.5 + k
    assert scipy.stats.poisson.cdf(k, above) == pytest.approx(0.025)


@pytest.mark.parametrize(("bounds", "span"), [(None, 0.9), ((0.0, 1.0), 1.0)], ids=["seen", "known"])
def test_scores_that_do_not_differ_leave_room_for_a_rare_difference(bounds: tuple[float, float] | None, span: float) -> None:
    scores = np.linspace(0.05, 0.95, 120)
    low, high = ends(paired_difference(scores, scores.copy(), scale=100, bounds=bounds))
    assert -low == pytest.approx(high) == pytest.approx(100 * span * (1 - 0.05 ** (1 / 120)))


def test_one_differing_example_of_many_leaves_as_much_room() -> None:
    scores = RNG.random(300)
    other = scores.copy()
    other[7] -= 0.5
    found = paired_difference(scores, other)
    low, high = ends(found)
    assert low <= found.value - 0.5 * unseen_share(300)  # type: ignore[operator]
    assert high >= found.value + 0.5 * unseen_share(300)  # type: ignore[operator]


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_examples_have_a_wide_interval(n: int) -> None:
    low, high = ends(paired_difference(np.arange(n) + 1.3, np.linspace(0, 0.1, n)))
    assert high > low


def test_a_hundred_thousand_examples_are_not_resampled_two_thousand_times() -> None:
    """2000 × 100,000 numbers would be 1.6 GB."""
    gaps = RNG.exponential(1, 100_000)
    tracemalloc.start()
    low, high = ends(paired_difference(gaps, np.zeros(100_000)))
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()
    error = gaps.std() / math.sqrt(len(gaps))
    assert (low, high) == pytest.approx((gaps.mean() - 1.96 * error, gaps.mean() + 1.96 * error), abs=0.05 * error)


def test_examples_without_a_score_are_left_out_and_told() -> None:
    baseline, candidate = discordant(60, 3, 1)
    without = np.r_[baseline, np.nan, np.nan], np.r_[candidate, np.nan, np.nan]
    found = paired_difference(*without, scale=100)
    assert found.note == "2 of 62 examples left out: they have no score"
    assert (found.value, found.n, found.worse) == (paired_difference(baseline, candidate, scale=100).value, 60, 3)


@pytest.mark.parametrize(
    ("scores", "match"),
    [
        ((np.array([1.0, np.nan]), np.array([1.0, 0.0])), "1 of 2 examples have a finite score with one model only"),
        ((np.array([1.0, 2.0]), np.array([1.0, np.inf])), "1 of 2 examples have a finite score with one model only"),
        ((np.array([np.nan]), np.array([np.nan])), "no example has a score"),
    ],
    ids=["nan", "infinite", "none"],
)
def test_a_score_of_one_model_alone_is_an_error(scores: tuple[np.ndarray, np.ndarray], match: str) -> None:
    with pytest.raises(BadInput, match=match):
        paired_difference(*scores)


@pytest.mark.parametrize("shapes", [(3, 4), (0, 0), ((2, 2), (2, 2))])
def test_scores_must_pair(shapes: tuple[object, object]) -> None:
    with pytest.raises(BadInput, match="paired scores"):
        paired_difference(np.zeros(shapes[0]), np.zeros(shapes[1]))  # type: ignore[call-overload]


# Scores that are no means ---------------------------------------------------------------------------------------------------------------


def test_a_bootstrap_of_f1_agrees_with_a_plain_one() -> None:
    target = RNG.integers(0, 2, 300)
    a, b = (np.where(RNG.random(300) < share, target, 1 - target) for share in (0.9, 0.8))

    def difference(index: np.ndarray) -> float:
        return 100 * float(f1_score(target[index], a[index]) - f1_score(target[index], b[index]))

    found = paired_bootstrap(difference, 300, resamples=300)
    plain = np.std([difference(np.random.default_rng(1000 + i).integers(0, 300, 300)) for i in range(300)])
    assert found.value == difference(np.arange(300))
    low, high = ends(found)
    assert (high - low) / 2 == pytest.approx(scipy.stats.t.ppf(0.975, 299) * plain, rel=0.15)


def f1(target: np.ndarray, answer: np.ndarray) -> float:
    return float(200 * (target & answer).sum() / (target.sum() + answer.sum()))


def test_the_bootstraps_interval_covers_as_often_as_it_says() -> None:
    def draw(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        target = rng.random(n) < 0.3
        a = np.where(rng.random(n) < 0.9, target, ~target)
        return target, a, np.where(rng.random(n) < 0.8, a, np.where(rng.random(n) < 0.9, target, ~target))

    def difference(data: tuple[np.ndarray, np.ndarray, np.ndarray], index: np.ndarray) -> float:
        target, a, b = (array[index] for array in data)
        return f1(target, a) - f1(target, b)

    many = draw(np.random.default_rng(99), 2_000_000)
    truth, runs, missed = difference(many, np.arange(2_000_000)), 300, 0
    for seed in range(runs):
        data = draw(np.random.default_rng(seed), 200)
        low, high = ends(paired_bootstrap(lambda index, data=data: difference(data, index), 200, seed=seed))  # type: ignore[misc]
        missed += not low <= truth <= high
    # 95 % and three standard errors of 300 runs on either side
    assert 0.912 <= 1 - missed / runs <= 0.988


def test_resamples_without_a_class_are_left_out_and_counted() -> None:
    target = np.zeros(40, dtype=int)
    target[:2] = 1
    a = np.linspace(0, 1, 40)[::-1]
    b = np.roll(a, 3)

    def difference(index: np.ndarray) -> float:
        if len(np.unique(target[index])) < 2:
            return math.nan
        return 100 * float(roc_auc_score(target[index], a[index]) - roc_auc_score(target[index], b[index]))

    found = paired_bootstrap(difference, 40, resamples=200)
    undefined = sum(len(np.unique(target[index])) < 2 for index in resamples(40, 200))
    assert 0 < undefined < 200
    assert found.note == f"{undefined} of 200 resamples left out: the difference is not defined there"
    assert found.value == difference(np.arange(40))
    ends(found)


def resamples(n: int, count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, n, n) for _ in range(count)]


def test_a_difference_that_is_not_defined_is_not_measured() -> None:
    found = paired_bootstrap(lambda index: math.nan, 10)
    assert found.value is None
    assert "not defined" in found.note


def test_too_few_defined_resamples_give_no_interval() -> None:
    whole = np.arange(30)
    found = paired_bootstrap(lambda index: 1.0 if np.array_equal(index, whole) else math.nan, 30)
    assert (found.value, found.low, found.high) == (1.0, None, None)
    assert found.note == "400 of 400 resamples left out: the difference is not defined there; too few resamples for an interval"


@pytest.mark.parametrize(("unit", "span", "most"), [("points", None, 100.0), ("mm", 4.0, 4.0)], ids=["points", "own unit"])
def test_equal_scores_leave_room_for_a_rare_difference(unit: str, span: float | None, most: float) -> None:
    low, high = ends(paired_bootstrap(lambda index: 0.0, 250, unit=unit, span=span))
    assert -low == pytest.approx(high) == pytest.approx(most * (1 - 0.05 ** (1 / 250)))


def test_equal_scores_of_unknown_span_have_no_interval() -> None:
    found = paired_bootstrap(lambda index: 0.0, 250, unit="mm")
    assert (found.value, found.low, found.high) == (0.0, None, None)
    assert "span is not known" in found.note
