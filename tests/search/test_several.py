"""One run, several budgets, against each budget's own choice; which single limit to relax, against the gate."""

from __future__ import annotations

from typing import Any

import pytest

from laconic.core.errors import BadInput
from laconic.core.records import Measurement
from laconic.run.gate import gate
from laconic.run.record import Reason, Record
from laconic.search.budget import Budget
from laconic.search.relax import relaxations, told_relaxed
from laconic.search.select import choose, judged_by
from laconic.search.several import answers, budgets, choose_all, handed, judge, loosest
from laconic.search.stopped import Stopped
from laconic.search.verdict import Scale
from tests.search.records import BASE, judged
from tests.search.records import of_many as record
from tests.search.test_select import Anew

LOSSY, MIDDLE, SAFE = record("lossy", 9.0, 3.0, 100), record("middle", 5.0, 0.8, 300), record("safe", 2.0, 0.0, 900)
ASKED = budgets(Budget(max_drop=0.5), (5, 1))
POINTS = Scale("accuracy", "points", True)


def test_budgets_are_each_there_once_and_the_strictest_of_the_others_first() -> None:
    assert [one.max_drop for one in budgets(Budget(max_drop=0.5, min_speedup=2), (5, 0.5, 1, 1.0))] == [0.5, 1, 5]
    assert budgets(Budget(), ()) == [Budget()]
    assert loosest(ASKED).max_drop == 5
    assert all(one.min_speedup == 2 for one in budgets(Budget(min_speedup=2), (1, 2)))


@pytest.mark.parametrize("drops", ["0.1", 0.1, (0.1, "x"), (True,), (-1.0,), (None,)])
def test_wrong_drops_are_told(drops: Any) -> None:
    with pytest.raises(BadInput, match="frontier|max_drop"):
        budgets(Budget(), drops)


def test_each_budget_gets_what_a_run_of_its_own_would_give_it() -> None:
    records = judged(loosest(ASKED), LOSSY, MIDDLE, SAFE)
    anew: Any = Anew()
    _, choices = choose_all(records, ASKED, anew)
    alone = [choose(judged(budget, LOSSY, MIDDLE, SAFE), budget, Anew().compare, Anew().publish)[1] for budget in ASKED]
    assert [one.best.key for one in choices if one.best] == [one.best.key for one in alone if one.best] == ["safe", "middle", "lossy"]
    assert [one.key for one in handed(choices)] == ["safe", "middle", "lossy"]
    assert all(sorted(keys) == ["lossy", "middle", "safe"] for keys in anew.together), "all finalists are timed together"


def test_the_first_of_all_budgets_are_published_together_and_who_follows_alone() -> None:
    asked = budgets(Budget(max_drop=0.5, min_speedup=1.5), (1, 5))
    anew: Any = Anew(published={"middle": 1.2})
    _, choices = choose_all(judged(loosest(asked), LOSSY, MIDDLE, SAFE, record("next", 4.0, 0.7, 400)), asked, anew)
    assert [one.best.key for one in choices if one.best] == ["safe", "next", "lossy"]
    assert {tuple(keys) for keys in anew.at_once} == {("lossy", "middle", "safe"), ("next",)}


def test_one_that_falls_for_a_budget_leaves_its_place_to_the_next_of_that_budget_alone() -> None:
    asked = budgets(Budget(max_drop=0.5, min_speedup=1.5), (1, 5))
    records = judged(loosest(asked), LOSSY, MIDDLE, SAFE)
    now, choices = choose_all(records, asked, Anew(published={"middle": 1.2}))  # type: ignore[arg-type]
    assert [one.best.key for one in choices if one.best] == ["safe", "safe", "lossy"]
    assert choices[1].fallen == ("middle",)
    assert {one.key: one.comparison for one in now}["lossy"] == "published"


def test_what_is_answered_names_each_choice_and_the_run_it_came_from() -> None:
    records = judged(loosest(ASKED), LOSSY, MIDDLE, SAFE)
    now, choices = choose_all(records, ASKED, Anew())  # type: ignore[arg-type]
    told = answers(now, ASKED, choices, POINTS, [], Stopped("time limit", 9.0, 3, 5))
    assert [(one["budget"]["max_drop"], one["best"]) for one in told] == [(0.5, "safe"), (1.0, "middle"), (5.0, "lossy")]
    assert all(one["met"] and "3 of 5 candidates" in one["verdict"] for one in told)
    assert answers(now, ASKED[:1], choices[:1], POINTS, [], None) == []


def test_a_budget_that_the_test_data_break_is_not_met_and_the_others_are() -> None:
    records = judged(loosest(ASKED), LOSSY, MIDDLE, SAFE)
    now, choices = choose_all(records, ASKED, Anew())  # type: ignore[arg-type]
    worse = Measurement(2.0, "points", n=100, low=1.0, high=3.0)
    tested = [one.with_measured(test_drop=worse) if one.key == "middle" else one for one in now]
    told = {one["budget"]["max_drop"]: one for one in answers(tested, ASKED, choices, POINTS, [], None)}
    assert (told[1.0]["met"], told[1.0]["nearest"]) == (False, "middle")
    assert "test data" in told[1.0]["reason"]
    assert told[0.5]["met"]
    assert told[5.0]["met"]


@pytest.mark.parametrize(
    ("drop", "passed", "rival"),
    [
        (2.0, [LOSSY, MIDDLE, SAFE], "lossy"),  # it holds the loosest alone
        (0.6, [LOSSY, MIDDLE, SAFE], "middle"),
        (0.1, [LOSSY, MIDDLE, SAFE], "safe"),  # it may be what the strictest is given, though another is faster
        (0.1, [LOSSY, MIDDLE], None),
        (9.0, [LOSSY, MIDDLE, SAFE], "lossy"),  # it holds none
        (None, [LOSSY, MIDDLE, SAFE], "safe"),  # nothing is known of it
    ],
)
def test_a_candidate_is_held_against_the_best_of_those_that_hold_what_it_holds(
    drop: float | None, passed: list[Record], rival: str | None
) -> None:
    asked = judge(ASKED)
    one = None if drop is None else record("one", 1.0, drop)
    found = asked.rival(one, passed)
    assert (found and found.key) == rival
    assert asked.marks(found).best_ratio == (None if found is None else found.speedup and found.speedup.low)
    assert asked.marks(None).best_ratio is None


def test_of_one_budget_the_rival_is_the_best() -> None:
    assert judge([Budget(max_drop=5)]).rival(record("one", 1.0, 0.0), [SAFE, LOSSY, MIDDLE]) == LOSSY
    assert judge([Budget(max_drop="any")]).rival(record("one", 1.0, 0.0), [SAFE, LOSSY, MIDDLE]) == LOSSY


def test_records_are_judged_by_another_budget_as_if_they_had_met_it_first() -> None:
    records = judged(Budget(max_drop=0.5), LOSSY, MIDDLE, SAFE)
    assert judged_by(records, Budget(max_drop=1)) == judged(Budget(max_drop=1), LOSSY, MIDDLE, SAFE)
    wrong = SAFE.rejected(Reason("parity", "outputs differ"))
    assert judged_by([BASE, wrong], Budget(max_drop=1))[1] == wrong
    failed = SAFE.failed("crash", "it crashed")
    assert judged_by([BASE, failed], Budget(max_drop=1))[1] == failed


# What to relax ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "limits"),
    [
        (Budget(max_drop=0.5, min_speedup=3), ["max_drop", "min_speedup"]),
        (Budget(max_drop=0.5, max_size_mb=0.0005), ["max_drop", "max_size_mb"]),
        (Budget(max_drop=0.5, min_speedup=100, max_size_mb=0.0001), []),
        (Budget(max_drop=0.04, min_speedup=4, confident=True), ["max_drop"]),  # measured, one would hold it
    ],
)
def test_a_relaxed_limit_is_the_nearest_at_which_the_gate_lets_one_pass(budget: Budget, limits: list[str]) -> None:
    records = judged(budget, LOSSY, MIDDLE, SAFE)
    assert all(one.status != "passed" for one in records)
    found = relaxations(records, budget)
    assert [one.limit for one in found] == limits
    for one in found:
        assert _passing(budget.at(one.limit, one.enough), one.key)
        nearer = one.enough + (one.asked - one.enough) * 0.02
        assert not any(_passing(budget.at(one.limit, nearer), record.key) for record in (LOSSY, MIDDLE, SAFE))


def _passing(budget: Budget, key: str) -> bool:
    one: Record = next(one for one in (LOSSY, MIDDLE, SAFE) if one.key == key)
    return gate(one, budget.rules(BASE)).status == "passed"


def test_what_to_relax_is_told_in_a_sentence() -> None:
    budget = Budget(max_drop=0.5, min_speedup=3)
    (told,) = told_relaxed(relaxations(judged(budget, LOSSY, MIDDLE, SAFE), budget), "points")
    assert (
        told
        == "Relaxing one limit would do: lose at most 0.8 points (Middle, 5.00× as fast), or at least 1.8× faster (Safe, 2.00× as fast)."
    )
    assert list(told_relaxed([], "points")) == []
    met = Budget(max_drop=1)
    assert relaxations(judged(met, LOSSY, MIDDLE, SAFE), met) == []
