"""The margin for choosing among many: the chance to hold the limit again, whom it passes over, and what it is worth where truth is known."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats

from laconic.core.records import Measurement
from laconic.measure.paired import paired_difference
from laconic.search.budget import Budget
from laconic.search.chance import by_luck, chance, dependable, likely
from laconic.search.select import so_far
from tests.search.records import BASE, judged, record


def points(value: float, s: float) -> Measurement:
    """A drop whose standard deviation is s."""
    return Measurement(value, "points", n=1000, low=value - 1.959964 * s, high=value + 1.959964 * s)


@pytest.mark.parametrize(("value", "s"), [(0.2, 0.25), (-0.1, 0.25), (0.5, 0.3), (0.0, 0.02)])
def test_the_chance_is_that_of_two_draws_to_differ_by_less_than_the_margin(value: float, s: float) -> None:
    again = np.random.default_rng(0).normal(
        value, s * math.sqrt(2), 200_000
    )  # the truth around what was measured, what is measured again around the truth
    assert chance(points(value, s), 0.5) == pytest.approx((again <= 0.5).mean(), abs=4e-3)
    upper = np.random.default_rng(1).normal(value + 1.959964 * s, s * math.sqrt(2), 200_000)
    assert chance(points(value, s), 0.5, confident=True) == pytest.approx((upper <= 0.5).mean(), abs=4e-3)


@pytest.mark.parametrize("others", [0.25, 2.0, 1000.0])
def test_it_is_that_of_as_many_others_as_the_test_data_has(others: float) -> None:
    rng, s = np.random.default_rng(0), 0.25
    drop = dataclasses.replace(points(0.2, s), others=others)
    again = rng.normal(rng.normal(0.2, s, 200_000), s / math.sqrt(others))
    assert chance(drop, 0.5) == pytest.approx((again <= 0.5).mean(), abs=4e-3)
    assert chance(drop, 0.5, confident=True) == pytest.approx((again + 1.959964 * s / math.sqrt(others) <= 0.5).mean(), abs=4e-3)


@pytest.mark.parametrize(
    "drop", [None, Measurement(None, "points"), Measurement(0.2, "points"), Measurement(0.2, "points", low=0.2, high=0.2)]
)
def test_without_an_interval_no_chance_is_known_and_nothing_held_against_it(drop: Measurement | None) -> None:
    assert chance(drop, 0.5) is None
    assert likely([drop, points(-1.0, 0.1)], 0.5) == [True, True]


def test_a_share_of_the_best_chance_is_wanted() -> None:
    """Of few examples nobody's chance is high, and nobody is passed over for what cannot be known; of many the margin is what luck can do."""
    assert likely([points(0.0, 5.0), points(0.4, 5.2)], 0.5) == [True, True]
    assert likely([points(0.0, 0.1), points(0.3, 0.1), points(0.4, 0.1)], 0.5) == [True, True, False]
    assert scipy.stats.norm.cdf(0.1 / (0.1 * math.sqrt(2))) < 0.9 < scipy.stats.norm.cdf(0.2 / (0.1 * math.sqrt(2)))


def test_the_fastest_by_luck_is_passed_over() -> None:
    budget = Budget(max_drop=0.5)
    lucky, sure = (
        record("lucky", speed=5).with_measured(drop=points(0.4, 0.25)),
        record("sure", speed=4).with_measured(drop=points(-0.1, 0.2)),
    )
    records = judged(budget, lucky, sure)
    assert [one.key for one in dependable(records[1:], budget)] == ["sure"]
    chosen = so_far(records, budget).best
    assert chosen is not None
    assert chosen.key == "sure"
    alone = so_far([BASE, *judged(budget, lucky)[1:]], budget).best
    assert alone is not None  # nobody is likelier: it held the limit, and the test data will tell
    assert alone.key == "lucky"
    unlimited = Budget(max_drop="any")
    assert [one.key for one in dependable(judged(unlimited, lucky, sure)[1:], unlimited)] == ["lucky", "sure"]


def _sure(drops: list[Measurement]) -> list[bool]:
    held = [drop.value is not None and drop.value <= 0.5 for drop in drops]
    may = iter(likely([drop for drop, yes in zip(drops, held, strict=True) if yes], 0.5))
    return [yes and next(may) for yes in held]


def _held(drops: list[Measurement]) -> list[bool]:
    return [drop.value is not None and drop.value <= 0.5 for drop in drops]


def _broken(rule: Callable[[list[Measurement]], list[bool]]) -> float:
    """Return how often the fastest that may be chosen loses more than 0.5 points on 2,000 test examples: of twenty candidates, each faster one loses more."""
    rng, n, broken = np.random.default_rng(0), 2000, 0
    worse = np.linspace(0.005, 0.018, 20)  # shares of the examples; as many as 0.5 points of these are better
    for _ in range(100):
        valid, test = ([rng.multinomial(n, (share, 0.005, 1 - share - 0.005)) for share in worse] for _ in range(2))
        drops = [_paired(int(a), int(b), n) for a, b, _ in valid]
        chosen = max(i for i, yes in enumerate(rule(drops)) if yes)
        broken += 100 * (test[chosen][0] - test[chosen][1]) / n > 0.5
    return broken / 100


def _paired(worse: int, better: int, n: int) -> Measurement:
    before, after = np.zeros(n), np.zeros(n)
    before[:worse], after[worse : worse + better] = 1, 1
    return paired_difference(before, after, scale=100)


def test_among_many_it_breaks_the_limit_far_less_often() -> None:
    assert _broken(_held) > 0.7
    assert _broken(_sure) < 0.3


@pytest.mark.parametrize(("limit", "half", "one"), [(0.5, 0.98, 0.1587), (0.0, 0.98, 0.5), (0.5, 0.098, 0.0)])
def test_the_chance_to_pass_by_luck_is_that_of_a_normal(limit: float, half: float, one: float) -> None:
    drop = Measurement(0.2, "points", low=0.2 - half, high=0.2 + half)
    assert by_luck(drop, limit, 0.0) == pytest.approx(one, abs=1e-4)
    assert by_luck(drop, limit, 0.0, confident=True) == pytest.approx(0.025, abs=1e-4)
    margin = math.sqrt(2) * scipy.stats.norm.ppf(0.9)
    assert by_luck(drop, limit, 0.9) == pytest.approx(scipy.stats.norm.cdf(-limit / (half / 1.959964) - margin), abs=1e-9)
    assert by_luck(Measurement(0.2, "points", low=0.2, high=0.2), limit, 0.9) is None


@pytest.mark.parametrize("others", [0.25, 1.0, 4.0, 1000.0])
@pytest.mark.parametrize("confident", [False, True])
def test_who_passes_by_luck_is_who_is_measured_to_have_the_chance(others: float, confident: bool) -> None:
    """Of many that truly lose twice the limit, or just the limit where the upper end must hold it."""
    limit, s, least = 0.5, 0.5, 0.6
    seen = np.random.default_rng(0).normal(limit if confident else 2 * limit, s, 4000)
    drops = [dataclasses.replace(points(value, s), others=others) for value in seen]
    held = [drop for drop in drops if ((drop.high if confident else drop.value) or 0) <= limit]
    share = sum((chance(drop, limit, confident) or 0) >= least for drop in held) / len(drops)
    assert share == pytest.approx(by_luck(drops[0], limit, least, confident) or 0, abs=0.012)
