"""What the verdict says, and that it says how sure it is."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import pytest
import scipy.stats
from hypothesis import given, strategies

from laconic.core.records import Measurement
from laconic.run.record import Reason, Record
from laconic.search.budget import Budget
from laconic.search.select import Selection
from laconic.search.stopped import INTERRUPT, LIMIT, Stopped, stopped
from laconic.search.verdict import Scale, Verdict, any_of, verdict
from laconic.tasks.metrics import METRICS, MetricSpec
from tests.search.records import BASE, record

ACCURACY, MAE = METRICS["accuracy"], METRICS["mae"]
KILOGRAMS = dataclasses.replace(MAE, name="weight error", unit="kg")


def points(value: float, low: float, high: float, n: int = 287) -> Measurement:
    return Measurement(value, "points", n=n, low=low, high=high)


def said(
    best: Record, others: Sequence[Record] = (), *, budget: Budget | None = None, metric: MetricSpec = ACCURACY, **choice: Any
) -> Verdict:
    return verdict(Selection(best, **choice), [BASE, best, *others], budget or Budget(max_drop=0.5), Scale.of(metric))


def test_it_says_in_examples_how_sure_it_is() -> None:
    found = said(record("a", speed=3, test_drop=points(0.35, -0.4, 1.0)))
    assert found.headline == (
        "Budget met: A is 3.00× as fast as the baseline (95 % interval 2.70 to 3.30) and loses 0.35 points (interval −0.40 to 1.00) on 287 test examples."
    )
    assert found.certainty[0] == "0.5 points of 287 are 1.4 examples; a true drop of up to 1.00 points cannot be excluded with so few."
    assert str(found) == " ".join((found.headline, *found.certainty))


def test_an_interval_within_the_limit_is_said_to_be() -> None:
    found = said(record("a", test_drop=points(0.1, -0.1, 0.3, n=20_000)))
    assert (
        found.certainty[0]
        == "0.5 points of 20,000 are 100 examples; a true drop of up to 0.30 points cannot be excluded (95 %), which the limit covers."
    )


def test_without_test_data_the_valid_data_speaks() -> None:
    assert "loses 0.40 points (interval −0.60 to 1.40) on 100 valid examples" in said(record("a", drop=0.4)).headline


@pytest.mark.parametrize(
    ("metric", "drop", "words"),
    [
        (ACCURACY, (-0.251, -0.7, 0.2), "gains 0.25 points (interval −0.20 to 0.70)"),
        (ACCURACY, (-0.001, -0.4, 0.4), "gains 0.001 points (interval −0.400 to 0.400)"),
        (ACCURACY, (-0.0, -0.4, 0.4), "loses 0.00 points (interval −0.40 to 0.40)"),
        (MAE, (0.0312, -0.0041, 0.0702), "loses 0.031 (mae; interval −0.004 to 0.070)"),
        (MAE, (-0.0312, -0.0702, 0.0041), "gains 0.031 (mae; interval −0.004 to 0.070)"),
        (KILOGRAMS, (12.5, 10.0, 15.0), "loses 12.5 kg (weight error; interval 10.0 to 15.0)"),
    ],
)
def test_a_loss_has_the_metrics_unit_and_a_falling_error_is_a_gain(
    metric: MetricSpec, drop: tuple[float, float, float], words: str
) -> None:
    unit = "points" if metric is ACCURACY else metric.unit
    best = record("a", test_drop=Measurement(drop[0], unit, n=80, low=drop[1], high=drop[2]))
    found = said(best, budget=Budget(max_drop=20), metric=metric)
    assert words in found.headline
    assert metric is ACCURACY or "points" not in str(found)


@given(strategies.floats(-1, 1), strategies.floats(0, 1), strategies.floats(0, 1), strategies.sampled_from([ACCURACY, MAE, KILOGRAMS]))
def test_zero_never_has_a_sign(value: float, below: float, above: float, metric: MetricSpec) -> None:
    drop = Measurement(value, "", n=9, low=value - below, high=value + above)
    assert not re.search(r"[-−]0(\.0*)?(?![.\d])", Scale.of(metric).told(drop))


def test_what_an_error_may_rise_by_is_told_in_its_unit() -> None:
    near = record("a", status="rejected").with_measured(drop=Measurement(3.0, "kg", n=80, low=1.0, high=5.0))
    choice = Selection(None, near, "the drop is 3 kg on the valid data; at most 1 may be lost")
    found = verdict(choice, [BASE, near], Budget(max_drop=1), Scale.of(KILOGRAMS))
    assert found.headline.startswith("Budget not met (lose at most 1 kg of weight error; best latency): the nearest, A, is 2.00×")
    assert found.certainty == (
        "Relaxing one limit would do: lose at most 3 kg of weight error (A, 2.00× as fast).",
        "A true loss of up to 5.00 kg of weight error cannot be excluded with so few.",
    )


def test_equal_scores_are_not_called_certain() -> None:
    same = dataclasses.replace(points(0.0, -0.83, 0.83, n=359), **({"worse": 0, "better": 0} if _counts() else {}))
    found = said(record("a", test_drop=same))
    if _counts():
        assert "and scores the same on each of 359 test examples." in found.headline
    assert found.certainty[0] == "0.5 points of 359 are 1.8 examples; a true drop of up to 0.83 points cannot be excluded with so few."


def _counts() -> bool:
    return {"worse", "better"} <= {field.name for field in dataclasses.fields(Measurement)}


@pytest.mark.skipif(not _counts(), reason="measurements carry no counts of examples")
def test_it_counts_the_examples_that_differ() -> None:
    drop = dataclasses.replace(points(0.35, -0.4, 1.0), worse=3, better=2)
    assert "it is worse on 3 and better on 2;" in said(record("a", test_drop=drop)).certainty[0]


def test_a_tie_says_why_this_one() -> None:
    a, b, c = record("a", drop=0.1), record("b", drop=0.2), record("c", drop=0.3)
    assert said(a, [b, c], tied=("a", "b", "c")).certainty[0] == "3 candidates are as fast as can be told; this one loses least."
    even = [record("b", drop=0.1, size=2_000_000), c]
    assert said(a, even, tied=("a", "b", "c")).certainty[0] == (
        "3 candidates are as fast as can be told; of the 2 that lose least, this one has the smallest file."
    )
    assert not any("can be told" in text for text in said(a, [b], tied=("a",)).certainty)


def test_luck_among_many_is_said_with_its_chance() -> None:
    """Interval ±1.96 s: s = 0.5 on the valid data, 0.4 on the test data. A true drop of 1 is chosen where it is measured by the margin below 0.5."""
    best = record("a", test_drop=points(0.1, 0.1 - 1.96 * 0.4, 0.1 + 1.96 * 0.4)).with_measured(
        drop=points(0.1, 0.1 - 1.96 * 0.5, 0.1 + 1.96 * 0.5, n=200)
    )
    found = said(best, [record(f"c{i}", drop=0.2) for i in range(21)])
    own = scipy.stats.norm.cdf(0.4 / (0.5 * math.sqrt(2)))
    margin = math.sqrt(2) * scipy.stats.norm.ppf(0.9 * own)
    valid, test = scipy.stats.norm.cdf(-0.5 / 0.5 - margin), scipy.stats.norm.cdf(-0.5 / 0.4)
    some = 1 - (1 - valid) ** 22
    assert [round(100 * share) for share in (own, 0.9 * own, some, some * test)] == [71, 64, 77, 8]
    assert (
        "22 candidates were judged on the same valid examples; the chance to hold the limit on as many others had to be 64 % (90 % of the best chance), and is "
        "71 % for this one."
    ) in found.certainty
    assert (
        "Had each truly lost twice the limit (1 point), one would be chosen by luck in up to 77 % of runs, and hold it on the test data too in up to 8.1 %."
    ) in found.certainty


def test_who_was_passed_over_is_said_with_its_chance() -> None:
    lucky = record("lucky", speed=5).with_measured(drop=points(0.4, -0.6, 1.4))
    luckier = record("luckier", speed=6).with_measured(drop=points(0.45, -0.6, 1.5))
    slow, broken = (
        record("slow", speed=1.5).with_measured(drop=points(0.4, -0.6, 1.4)),
        record("broken", speed=9, drop=9, status="rejected"),
    )
    found = said(record("a", speed=4).with_measured(drop=points(-0.1, -0.3, 0.1)), [lucky, luckier, slow, broken])
    chance = round(100 * scipy.stats.norm.cdf(0.05 / (1.05 / 1.96 * math.sqrt(2))))
    assert any(
        text.endswith(f"2 candidates that are faster held it here and fell short of that, Luckier with {chance} %.")
        for text in found.certainty
    ), found.certainty
    missed = verdict(Selection(None, broken), [BASE, broken, lucky], Budget(max_drop=0.5), Scale.of(ACCURACY))
    assert not any("fell short" in text or "had to be" in text for text in missed.certainty)


def test_luck_of_the_confident_is_the_intervals_error() -> None:
    """The best one's chance is small enough for no margin beside the interval's own: half of it is less than a half."""
    best = record("a").with_measured(drop=points(0.3, 0.1, 0.5))
    found = said(best, [record(f"c{i}", status="rejected") for i in range(19)], budget=Budget(max_drop=0.5, confident=True))
    assert "Had each truly lost just more than the limit, one would be chosen by luck in up to 40 % of runs." in found.certainty
    assert round(100 * (1 - 0.975**20)) == 40


def test_one_candidate_has_no_luck_of_many() -> None:
    assert not any("by luck" in text for text in said(record("a")).certainty)


def test_at_least_one_of_many() -> None:
    assert any_of(20, 0.025) == pytest.approx(1 - 0.975**20)
    assert (any_of(5, 1.0), any_of(5, 0.0)) == (1.0, 0.0)
    assert math.isclose(any_of(3, 1e-12), 3e-12)


def test_it_says_where_the_speed_comes_from_and_who_fell() -> None:
    best = record("a", speed=3.0).replace(comparison="published").with_measured(first_speedup=Measurement(3.4, "x"))
    told = said(best, fallen=("b", "c")).certainty
    assert "The speed-up was measured anew after the choice, beside the baseline alone (the comparison that chose it said 3.40×)." in told
    assert any(text.startswith("2 candidates that held the budget alone did not hold it when timed anew") for text in told)


@pytest.mark.parametrize("comparison", ["alone", "finalists", ""])
def test_figures_of_the_comparison_that_chose_are_not_said_to_be_anew(comparison: str) -> None:
    assert not any("anew" in text for text in said(record("a").replace(comparison=comparison)).certainty)


def test_a_busy_machine_is_said() -> None:
    assert (
        "Machine busy: 40 % of the turns were preempted."
        in said(record("a").replace(busy="machine busy: 40 % of the turns were preempted")).certainty
    )


LATE = Record("a", "A", {}).not_tried("the time limit was reached before its turn")
ABSENT = Record("b", "B", {}, status="unavailable", reasons=(Reason("available", "no such kernel"),))


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ([], "Nothing was tried: there was no candidate."),
        ([LATE, LATE], "Nothing was tried: 2 candidates were not tried: the time limit was reached before its turn."),
        ([ABSENT, LATE], "Nothing was tried: 1 candidate was not tried: the time limit was reached before its turn."),
        ([ABSENT], "Nothing was tried: 1 candidate cannot run here: no such kernel."),
        ([LATE, Record("c", "C", {}).failed("crash", "it died")], "Budget not met (lose at most 0.5 points; best latency): why."),
    ],
    ids=["none", "no time", "no time for the only one", "not here", "one failed"],
)
def test_nothing_tried_is_not_a_budget_missed(others: list[Record], words: str) -> None:
    found = verdict(Selection(reason="why"), [BASE, *others], Budget(max_drop=0.5), Scale.of(ACCURACY))
    assert found.headline == words


@pytest.mark.parametrize(
    ("by", "words"),
    [
        (
            LIMIT,
            [
                "The time limit was reached: this is the best after 83 s, with 1 of 3 candidates tried. Started again in the same folder, the run goes on."
            ],
        ),
        (INTERRUPT, ["The run was interrupted: this is the best after 83 s", "nothing was measured anew, and no test data was read"]),
    ],
)
def test_a_run_that_ended_early_says_how_far_it_came_and_that_it_goes_on(by: str, words: list[str]) -> None:
    best = record("z", baseline="base")
    records = [BASE, best, *(LATE.replace(baseline="base"),) * 2, ABSENT.replace(baseline="base")]
    found = verdict(Selection(best), records, Budget(max_drop=0.5), Scale.of(ACCURACY), stopped(records, by, 83.0))
    assert all(any(word in said for said in found.certainty) for word in words)


def test_a_run_that_tried_all_it_could_did_not_end_early() -> None:
    records = [BASE, record("z", baseline="base"), ABSENT.replace(baseline="base")]
    assert stopped(records, LIMIT, 83.0) is None
    assert stopped(records, INTERRUPT, 83.0) == Stopped(INTERRUPT, 83.0, 1, 1)  # its choice was not timed anew
