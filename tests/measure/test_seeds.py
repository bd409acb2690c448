from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from laconic.core.errors import BadInput
from laconic.measure.seeds import holm, over_seeds, paired_gain, paired_p
from tests.measure.ends import ends


def test_the_mean_over_seeds_has_students_interval() -> None:
    values = [91.2, 90.1, 92.5]
    assert ends(over_seeds(values, "%")) == pytest.approx(scipy.stats.t.interval(0.95, 2, np.mean(values), scipy.stats.sem(values)))
    assert over_seeds([3.0], "%").low is None


@pytest.mark.parametrize("values", [[0.5, 0.5], [0.0, 0.0], [-2.0, -2.0, -2.0]])
def test_seeds_that_agree_are_no_certainty(values: list[float]) -> None:
    found = over_seeds(values, "points", resolution=100 / 360)
    low, high = ends(found)
    n = len(values)
    half = scipy.stats.t.ppf(0.975, n - 1) * (100 / 360) / math.sqrt(12 * n)
    assert (low, high) == pytest.approx((values[0] - half, values[0] + half))
    assert "all seeds agree" in found.note
    low, high = ends(over_seeds(values, "points"))
    assert high > low


def test_rounded_figures_of_two_seeds_cover_the_truth() -> None:
    """A figure of mean 0.31 and deviation 0.5, seen in steps of 1: two seeds often agree, and an interval without width would miss the truth each time."""
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(1000):
        low, high = ends(over_seeds(list(np.round(rng.normal(0.31, 0.5, 2))), "points", resolution=1.0))
        covered.append(low <= 0.31 <= high)
    assert 0.93 <= np.mean(covered) <= 1.0


def test_intervals_end_where_the_metric_ends() -> None:
    found = over_seeds([99.5, 97.5], "%", bounds=(0.0, 100.0))
    assert ends(found)[1] == 100.0
    assert ends(over_seeds([0.4, 1.2], "%", bounds=(0.0, 100.0)))[0] == 0.0


def test_a_gain_is_paired_by_seed_and_cannot_exceed_what_is_left() -> None:
    base, values = [97.0, 93.0, 95.0], [98.1, 94.0, 96.2]
    found = paired_gain(values, base, bounds=(0.0, 100.0))
    expected = scipy.stats.t.interval(0.95, 2, 1.1, scipy.stats.sem([1.1, 1.0, 1.2]))
    assert found.value == pytest.approx(1.1)
    assert ends(found) == pytest.approx(expected)
    wide = paired_gain([99.0, 96.0], [97.0, 97.0], bounds=(0.0, 100.0))
    assert ends(wide)[1] == pytest.approx(3.0)


def test_a_fall_of_an_error_is_a_gain_in_its_unit() -> None:
    found = paired_gain([2.0, 2.2], [3.0, 3.1], direction="min", unit="mm", bounds=(0.0, math.inf))
    assert found.value == pytest.approx(0.95)
    assert found.unit == "mm"
    assert ends(found)[1] <= 3.05 + 1e-9


def test_paired_p_is_scipys_and_agreeing_seeds_are_not_proof() -> None:
    values, base = [1.0, 2.0, 4.0], [0.5, 1.9, 3.0]
    assert paired_p(values, base) == pytest.approx(scipy.stats.ttest_rel(values, base).pvalue)
    assert paired_p([90.0, 91.0], [90.0, 91.0]) == 1.0
    assert 0 < paired_p([91.0, 92.0], [90.0, 91.0], resolution=1.0) == pytest.approx(2 * scipy.stats.t.sf(math.sqrt(24), 1))
    assert math.isnan(paired_p([91.0], [90.0]))


@pytest.mark.parametrize("runs", [([], []), ([1.0], [1.0, 2.0])])
def test_gains_need_the_same_seeds(runs: tuple[list[float], list[float]]) -> None:
    with pytest.raises(BadInput, match="the same seeds"):
        paired_gain(*runs)


def test_holm_is_the_step_down_of_bonferroni() -> None:
    p = [0.02, 0.5, 0.004, 0.03]

    def rejected(level: float) -> set[int]:
        """Holm's procedure as published: from the least on, reject while p ≤ level / (number of hypotheses left)."""
        found: set[int] = set()
        for rank, index in enumerate(sorted(range(4), key=p.__getitem__)):
            if p[index] > level / (4 - rank):
                return found
            found.add(index)
        return found

    corrected = holm(p)
    for level in (0.01, 0.016, 0.05, 0.06, 0.0601, 0.3, 0.5):
        assert {i for i, value in enumerate(corrected) if value <= level} == rejected(level)
    with_none = holm([math.nan, *p])
    assert math.isnan(with_none[0])
    assert with_none[1:] == corrected
