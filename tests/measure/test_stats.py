from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import f1_score

from laconic.core.errors import BadInput
from laconic.measure.stats import paired_bootstrap, paired_difference, ratio_of_rounds

RNG = np.random.default_rng(0)


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    base, other = [[4.0, 6.0, 5.0], [10.0], [3.0]], [[2.0], [2.0, 2.0], [3.0]]
    found = ratio_of_rounds(base, other)
    assert found.value == 2.5
    assert found.low is not None
    assert found.high is not None
    assert 1.0 <= found.low <= 2.5 <= found.high <= 5.0
    assert (found.unit, found.n) == ("x", 3)


def test_drift_within_a_run_leaves_the_ratio_alone() -> None:
    """The machine slows threefold over the run; both contenders feel it, so the interval stays narrow around 2."""
    drift = np.linspace(1, 3, 20)
    noise = RNG.normal(1, 0.01, (2, 20, 50))
    found = ratio_of_rounds((2 * drift[:, None] * noise[0]).tolist(), (drift[:, None] * noise[1]).tolist())
    assert found.value == pytest.approx(2, rel=0.01)
    assert found.low is not None
    assert found.high is not None
    assert 1.97 < found.low < found.high < 2.03


def test_a_ratios_interval_covers_the_truth_as_often_as_it_says() -> None:
    """100 runs of 15 rounds with log-normal noise: a 95 % interval of the median covers at least 85 times (the bootstrap of a median is a little narrow)."""
    covered = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        base, other = (1.5 * np.exp(rng.normal(0, 0.1, (15, 1)))).tolist(), np.exp(rng.normal(0, 0.1, (15, 1))).tolist()
        found = ratio_of_rounds(base, other, seed=seed)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 1.5 <= found.high
    assert covered >= 85


@pytest.mark.parametrize(("base", "other"), [([[1.0]], []), ([], []), ([[1.0]], [[1.0], [2.0]])])
def test_rounds_must_pair(base: list[list[float]], other: list[list[float]]) -> None:
    with pytest.raises(BadInput, match="same number of rounds"):
        ratio_of_rounds(base, other)


@pytest.mark.parametrize("kind", ["shares", "numbers"])
def test_a_paired_difference_agrees_with_scipys_bootstrap(kind: str) -> None:
    a = RNG.random(400) < 0.8 if kind == "shares" else RNG.normal(2.0, 1.0, 400)
    b = np.where(RNG.random(400) < 0.9, a, ~a) if kind == "shares" else a - RNG.normal(0.1, 0.3, 400)
    found = paired_difference(a, b, scale=100)
    gaps = a.astype(float) - b.astype(float)
    twin = scipy.stats.bootstrap((gaps,), np.mean, method="percentile", n_resamples=5000, rng=np.random.default_rng(1)).confidence_interval
    assert found.value == pytest.approx(100 * gaps.mean())
    width = 100 * (twin.high - twin.low)
    assert found.low == pytest.approx(100 * twin.low, abs=0.08 * width)
    assert found.high == pytest.approx(100 * twin.high, abs=0.08 * width)
    assert (found.unit, found.n) == ("points", 400)


def test_equal_answers_have_no_interval() -> None:
    scores = RNG.random(50) < 0.5
    found = paired_difference(scores, scores.copy(), 100)
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("shapes", [(3, 4), (0, 0), ((2, 2), (2, 2))])
def test_scores_must_pair(shapes: tuple[object, object]) -> None:
    with pytest.raises(BadInput, match="paired scores"):
        paired_difference(np.zeros(shapes[0]), np.zeros(shapes[1]))  # type: ignore[call-overload]


def test_a_bootstrap_of_f1_agrees_with_a_plain_one() -> None:
    target = RNG.integers(0, 2, 300)
    a, b = (np.where(RNG.random(300) < share, target, 1 - target) for share in (0.9, 0.8))

    def difference(index: np.ndarray) -> float:
        return 100 * float(f1_score(target[index], a[index]) - f1_score(target[index], b[index]))

    found = paired_bootstrap(difference, 300, resamples=300)
    plain = [difference(np.random.default_rng(1000 + i).integers(0, 300, 300)) for i in range(300)]
    low, high = np.percentile(plain, (2.5, 97.5))
    assert found.value == difference(np.arange(300))
    assert found.low == pytest.approx(low, abs=0.2 * (high - low))
    assert found.high == pytest.approx(high, abs=0.2 * (high - low))
