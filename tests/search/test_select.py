"""The choice: who is first, who is timed anew, what is published; and the simulation that it does not flatter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from laconic.core.records import Measurement
from laconic.measure.stats import ratio_of_rounds
from laconic.run.record import Reason, Record
from laconic.search.budget import Budget
from laconic.search.select import FINALISTS, Selection, choose, confirm, finalists, frontier, neighbours, ranking
from tests.search.records import BASE, judged, record


def anew(speeds: Mapping[str, float] | None = None, asked: list[list[str]] | None = None) -> Any:
    """A second comparison that measures these speeds (as before where none is given), and notes whom it was asked to time."""

    def timed(one: Record) -> Record:
        speed = (speeds or {}).get(one.key, one.speedup.value if one.speedup is not None else None)
        assert speed is not None
        second = Measurement(speed, "x", n=15, low=speed * 0.95, high=speed * 1.05)
        return one.replace(timing="finalists").with_measured(speedup=second, latency_ms=10 / speed, first_speedup=one.speedup)

    def run(records: Sequence[Record], few: Sequence[Record]) -> list[Record]:
        keys = {one.key for one in few}
        if asked is not None:
            asked.append(sorted(keys))
        return [timed(one) if one.key in keys else one for one in records]

    return run


def made(records: Sequence[Record], budget: Budget, rounds: Any = None, second: Any = None) -> tuple[list[Record], Selection]:
    return choose(records, budget, rounds or {}, second or anew())


@pytest.mark.parametrize(("objective", "best"), [("latency", "fast"), ("size", "small"), ("memory", "small")])
def test_the_objective_decides_among_those_that_hold(objective: Any, best: str) -> None:
    budget = Budget(max_drop=0.5, objective=objective)
    records = judged(budget, record("fast", speed=4, size=900_000), record("small", speed=2, size=500_000), record("bad", speed=9, drop=9))
    _, choice = made(records, budget)
    assert choice.best is not None
    assert choice.best.key == best


def rounds_of(**milliseconds: list[float]) -> dict[str, list[list[float]]]:
    return {key: [[value] for value in values] for key, values in milliseconds.items()}


STEADY = [1.0, 1.01, 0.99, 1.02, 1.0, 0.98, 1.01, 1.0, 0.99, 1.0, 1.02, 0.98, 1.0, 1.01, 0.99]


@pytest.mark.parametrize(
    ("other", "best"),
    [
        ([1.02 * ms * (1.1 if i % 2 else 0.9) for i, ms in enumerate(STEADY)], "b"),
        ([1.2 * ms for ms in STEADY], "a"),
    ],
    ids=["cannot be told apart: the one that loses less", "slower in every round: the faster"],
)
def test_speeds_that_cannot_be_told_apart_are_a_tie(other: list[float], best: str) -> None:
    budget = Budget(max_drop=0.5)
    records = judged(budget, record("a", speed=4.0, drop=0.3), record("b", speed=3.9, drop=0.1))
    _, choice = made(records, budget, rounds_of(a=STEADY, b=other))
    assert choice.best is not None
    assert choice.best.key == best
    assert set(choice.tied) == ({"a", "b"} if best == "b" else {"a"})


def test_of_ties_that_lose_the_same_the_smaller_file_is_taken() -> None:
    budget = Budget(max_drop=0.5)
    some = [record(key, speed=4.0 - i / 100, drop=0.1, size=size) for i, (key, size) in enumerate([("a", 900), ("b", 700), ("c", 800)])]
    _, choice = made(judged(budget, *some), budget, rounds_of(a=STEADY, b=STEADY, c=STEADY))
    assert choice.best is not None
    assert (choice.best.key, set(choice.tied)) == ("b", {"a", "b", "c"})


def test_sizes_are_exact_and_tie_only_when_equal() -> None:
    budget = Budget(max_drop=0.5, objective="size")
    records = judged(budget, record("a", size=500, drop=0.4), record("b", size=501, drop=0.0), record("c", size=500, drop=0.2))
    _, choice = made(records, budget, rounds_of(a=STEADY, b=STEADY, c=STEADY))
    assert choice.best is not None
    assert (choice.best.key, set(choice.tied)) == ("c", {"a", "c"})


def test_the_order_goes_on_among_the_rest() -> None:
    budget = Budget(max_drop=0.5)
    records = judged(budget, record("a", speed=4), record("b", speed=2), record("c", speed=3))
    assert [one.key for one, _ in ranking(records, budget, {})] == ["a", "c", "b"]


def test_what_is_published_comes_from_the_second_comparison() -> None:
    budget = Budget(max_drop=0.5)
    records = judged(budget, record("a", speed=4), record("b", speed=3.5))
    now, choice = made(records, budget, second=anew({"a": 3.0, "b": 3.9}))
    assert choice.best is not None
    assert (choice.best.key, choice.best.speedup.value, choice.best.value("first_speedup")) == ("a", 3.0, 4.0)  # type: ignore[union-attr]
    assert {one.key: one.timing for one in now} == {"base": "", "a": "finalists", "b": "finalists"}


def test_who_no_longer_holds_is_out_and_the_next_of_the_first_order_follows() -> None:
    """By the second comparison `d` would lead; the order of the first one stands."""
    budget = Budget(max_drop=0.5, min_speedup=2.5)
    records = judged(budget, record("a", speed=5), record("b", speed=4.5), record("c", speed=4), record("d", speed=3.5))
    now, choice = made(records, budget, second=anew({"a": 2.0, "b": 2.4, "c": 3.0, "d": 9.0}))
    assert choice.best is not None
    assert (choice.best.key, choice.fallen) == ("c", ("a", "b"))
    rejected = {one.key: [reason.text for reason in one.reasons] for one in now if one.status == "rejected"}
    assert rejected == {
        "a": ["the speed-up is 2× (95 % interval from 1.9); at least 2.5× is asked for"],
        "b": ["the speed-up is 2.4× (95 % interval from 2.28); at least 2.5× is asked for"],
    }


def test_finalists_are_few_and_further_ones_follow_only_if_all_of_them_fall() -> None:
    budget = Budget(max_drop=0.5)
    some = [record(f"c{i}", speed=9 - i / 2) for i in range(FINALISTS + 3)]
    asked: list[list[str]] = []
    _, choice = made(judged(budget, *some), budget, second=anew(asked=asked))
    assert choice.best is not None
    assert asked == [[f"c{i}" for i in range(FINALISTS)]]
    asked.clear()
    _, choice = made(judged(budget, *some), budget, second=anew({f"c{i}": 0.9 for i in range(FINALISTS + 1)}, asked))
    assert choice.best is not None
    assert (choice.best.key, len(asked), asked[1]) == (f"c{FINALISTS + 1}", 2, [f"c{i}" for i in range(FINALISTS, FINALISTS + 3)])


def test_nobody_is_timed_anew_twice() -> None:
    """Who fell loses least, and so stays on the frontier, beside those who follow."""
    budget = Budget(max_drop=9, min_speedup=4)
    some = [record(f"c{i}", speed=9 - i / 2, drop=i / 2) for i in range(FINALISTS + 3)]
    asked: list[list[str]] = []
    _, choice = made(judged(budget, *some), budget, second=anew({one.key: 3.9 for one in some}, asked))
    assert choice.best is None
    assert choice.nearest is not None
    assert sorted(key for keys in asked for key in keys) == sorted(one.key for one in some)


def test_a_finalist_that_crashes_when_timed_anew_is_not_delivered() -> None:
    budget = Budget(max_drop=0.5)
    records = judged(budget, record("a", speed=4), record("b", speed=3))

    def crashing(known: Sequence[Record], few: Sequence[Record]) -> list[Record]:
        return [one.failed("crash", "it died") if one.key == "a" else one for one in anew()(known, few)]

    now, choice = made(records, budget, second=crashing)
    assert choice.best is not None
    assert (choice.best.key, choice.fallen, now[1].status) == ("b", ("a",), "failed")


def test_the_neighbours_on_the_frontier_are_timed_anew_too() -> None:
    budget = Budget(max_drop=0.5)
    some = [
        record("fast", speed=9, drop=2),
        record("best", speed=5, drop=0.4),
        record("exact", speed=2, drop=0.0),
        record("far", speed=1.5, drop=-0.2),
    ]
    records = judged(budget, *some)
    best = next(one for one in records if one.key == "best")
    assert [one.key for one in neighbours(best, records, budget)] == ["fast", "exact"]
    assert [one.key for one in finalists(best, ("best",), records, budget)] == ["best", "fast", "exact", "far"]


def test_the_nearest_miss_comes_with_its_reasons_and_is_timed_anew() -> None:
    budget = Budget(max_drop=0.5, min_speedup=4)
    records = judged(budget, record("a", speed=3), record("b", speed=2), record("c", speed=3.9, status="failed"))
    _, choice = made(records, budget, second=anew({"a": 3.2}))
    assert choice.best is None
    assert choice.nearest is not None
    assert (choice.nearest.key, choice.nearest.timing) == ("a", "finalists")
    assert choice.reason == "the speed-up is 3.2× (95 % interval from 3.04); at least 4× is asked for"


def test_a_second_chance_is_no_second_draw() -> None:
    """Rejected by the first comparison, it would hold by the second; it stays rejected, and says why."""
    budget = Budget(max_drop=0.5, min_speedup=4)
    records = judged(budget, record("a", speed=4.1))
    now, choice = made(records, budget, second=anew({"a": 5.0}))
    assert (choice.best, now[1].status) == (None, "rejected")
    assert choice.reason == (
        "the speed-up is 4.1× (95 % interval from 3.69); at least 4× is asked for (in the first comparison, which decides; timed anew it would have held)"
    )


def test_a_broken_model_is_never_the_nearest_miss() -> None:
    wrong = record("wrong", speed=9, status="rejected", reasons=(Reason("parity", "differs"),))
    _, choice = made([BASE, wrong], Budget(max_drop=0.5))
    assert (choice.best, choice.nearest) == (None, None)
    assert choice.reason == "no candidate could be measured (1 rejected); the first reason: differs"


@pytest.mark.parametrize(("test_drop", "met"), [(0.4, True), (0.6, False)])
def test_test_data_confirms_the_choice(test_drop: float, met: bool) -> None:
    budget = Budget(max_drop=0.5)
    records = judged(budget, record("a", test_drop=Measurement(test_drop, "points", n=50, low=0.1, high=0.9)))
    records, choice = made(records, budget)
    choice = confirm(choice, records, budget)
    assert (choice.best is not None) == met
    if not met:
        assert choice.nearest is not None
        assert choice.reason == "it held the budget on the valid data, but the drop is 0.6 points on the test data; at most 0.5 may be lost"


def test_the_frontier_keeps_what_nothing_beats() -> None:
    records = [
        BASE,
        record("a", speed=3, drop=0.2),
        record("b", speed=2, drop=0.3),
        record("c", speed=1.5, drop=-0.1),
        record("d", speed=9, status="failed"),
    ]
    assert [r.key for r in frontier(records, Budget()) if r.frontier] == ["a", "c"]


TRUTH, CANDIDATES, ROUNDS = 2.0, 20, 15


def equal_candidates(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Milliseconds by round of a baseline and twenty candidates that are truly twice as fast; the machine drifts, and each turn has its own noise."""
    drift = np.exp(np.cumsum(rng.normal(0, 0.1, ROUNDS)))
    return {
        name: (TRUTH if name == "base" else 1.0) * drift * np.exp(rng.normal(0, 0.05, ROUNDS))
        for name in ("base", *(f"c{i}" for i in range(CANDIDATES)))
    }


def measured(times: Mapping[str, np.ndarray], one: Record, timing: str) -> Record:
    return one.replace(timing=timing).with_measured(
        speedup=ratio_of_rounds(times["base"][:, None].tolist(), times[one.key][:, None].tolist())
    )


def test_the_published_interval_does_not_suffer_from_the_choice() -> None:
    """Of the twenty equal ones the luckiest is chosen; the published lower end lies above the truth in 2.5 % of runs, as its interval promises.

    The comparison that chose says so much more often: that is the flattery. 2,000 runs: a share of 2.5 % has a standard error of 0.35 points.
    """
    budget, runs = Budget(max_drop=0.5), 2000
    flattered = published = 0
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        first, second = equal_candidates(rng), equal_candidates(rng)
        ratios = {key: float(np.median(first["base"] / times)) for key, times in first.items()}
        records = [BASE, *(record(key, speed=ratios[key]) for key in first if key != "base")]

        def time_again(known: Sequence[Record], few: Sequence[Record], times: Mapping[str, np.ndarray] = second) -> list[Record]:
            keys = {one.key for one in few[:1]}  # the others' figures are of no interest here
            return [measured(times, one, "finalists") if one.key in keys else one for one in known]

        _, choice = choose(records, budget, {}, time_again)
        assert choice.best is not None
        lucky = measured(first, choice.best, "first").speedup
        assert lucky is not None
        assert lucky.value == max(ratios.values())
        flattered += lucky.low > TRUTH  # type: ignore[operator]
        published += choice.best.speedup.low > TRUTH  # type: ignore[union-attr, operator]
    assert published / runs == pytest.approx(0.025, abs=0.01)
    assert flattered / runs > 0.06
