"""When timing stops early: rarely wrong however often one looks, early where it is clear, and never where the gate would say something else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from laconic.measure.sequential import ERROR, FIRST_LOOK, Marks, settled
from laconic.measure.stats import ratio_of_rounds

ROUNDS = 15
RUNS = 2000
Noise = Callable[[np.random.Generator], np.ndarray]
NOISES: dict[str, Noise] = {
    "normal": lambda rng: rng.normal(0, 0.05, ROUNDS),
    "heavy tails": lambda rng: 0.03 * rng.standard_t(3, ROUNDS),
    "one turn in ten disturbed": lambda rng: rng.normal(0, 0.03, ROUNDS) + rng.choice([0.0, 0.5, -0.5], ROUNDS, p=[0.9, 0.05, 0.05]),
}


def rounds(truth: float, noise: np.ndarray, rng: np.random.Generator) -> tuple[list[list[float]], list[list[float]]]:
    """Nanoseconds of a baseline and of a candidate that is `truth` times as fast, on a machine that drifts."""
    drift = 1e6 * np.exp(np.cumsum(rng.normal(0, 0.1, len(noise))))
    return (truth * drift)[:, None].tolist(), (drift * np.exp(noise))[:, None].tolist()


def stop(base: Any, own: Any, marks: Marks, **options: Any) -> tuple[int, str | None]:
    """The round after which timing stops, and why."""
    for n in range(1, len(own) + 1):
        why = settled(base[:n], own[:n], marks, len(own), **options)
        if why is not None:
            return n, why
    return len(own), None


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("marks", [Marks(least_ratio=2.0), Marks(best_ratio=2.0)], ids=["exactly as fast as asked", "exactly as the best"])
def test_looking_often_does_not_lie(noise: str, marks: Marks) -> None:
    """The candidate lies on the mark, where being wrong is easiest, and the margin is off. A share of 2.5 % has a standard error of 0.35 points."""
    wrong = 0
    for seed in range(RUNS):
        rng = np.random.default_rng(seed)
        wrong += stop(*rounds(2.0, NOISES[noise](rng), rng), marks, margin=0.0)[1] is not None
    assert wrong / RUNS <= ERROR / 2


def test_plain_intervals_would_lie() -> None:
    """Why the level is corrected: of candidates on the mark, plain 95 % intervals reject far more than their 2.5 % in one of the looks."""
    wrong = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        base, own = rounds(2.0, NOISES["normal"](rng), rng)
        highs = [ratio_of_rounds(base[:n], own[:n]).high for n in range(FIRST_LOOK, ROUNDS)]
        wrong += any(high < 2.0 for high in highs if high is not None)
    assert wrong / 400 > 0.07


@pytest.mark.parametrize(
    ("truth", "marks", "said"),
    [
        (0.5, Marks(least_ratio=1.0), "clearly not faster than the baseline"),
        (1.5, Marks(least_ratio=4.0), "clearly not 4× as fast as the baseline"),
        (1.5, Marks(least_ratio=1.0, best_ratio=5.0), "clearly behind the best so far"),
        (1.5, Marks(least_ratio=1.0, most_ms=0.01), "clearly slower than 0.01 ms"),
        (1.5, Marks(least_ratio=1.0, most_ms=100, best_ratio=5.0), "clearly behind the best so far"),
        (5.0, Marks(least_ratio=1.0, best_ratio=1.5), None),
        (5.0, Marks(least_ratio=1.0), None),
        (1.01, Marks(least_ratio=1.0, best_ratio=5.0), None),
        (1.5, Marks(), None),
    ],
    ids=["slower", "too slow", "behind", "too long", "behind, in time", "the best", "good", "behind, but perhaps no better than the baseline", "no mark"],
)  # fmt: skip
def test_what_is_clear_stops_early_and_nothing_else(truth: float, marks: Marks, said: str | None) -> None:
    rng = np.random.default_rng(0)
    n, why = stop(*rounds(truth, rng.normal(0, 0.03, ROUNDS), rng), marks)
    assert why == said
    assert n <= 6 if said else n == ROUNDS


def test_who_is_stopped_behind_holds_by_the_interval_that_the_gate_reads() -> None:
    """With two turns of seven disturbed, the order statistics reach below 1 where Student's interval does not."""
    for seed in range(300):
        rng = np.random.default_rng(seed)
        base, own = rounds(1.5, NOISES["one turn in ten disturbed"](rng), rng)
        n, why = stop(base, own, Marks(least_ratio=1.0, best_ratio=9.0))
        if why is not None:
            low = ratio_of_rounds(base[:n], own[:n]).low
            assert low is not None
            assert low > 1.0


def test_near_a_mark_nothing_is_clear() -> None:
    """Without any noise a candidate a percent behind is timed to the end: two starts of one program differ by as much."""
    rng = np.random.default_rng(0)
    exact = np.zeros(ROUNDS)
    assert stop(*rounds(1.98, exact, rng), Marks(least_ratio=2.0)) == (ROUNDS, None)
    assert stop(*rounds(1.9, exact, rng), Marks(least_ratio=2.0))[0] == FIRST_LOOK


@pytest.mark.parametrize("planned", [1, 3, FIRST_LOOK])
def test_short_comparisons_are_not_stopped(planned: int) -> None:
    assert settled([[4.0]] * planned, [[9.0]] * planned, Marks(least_ratio=1.0), planned) is None
