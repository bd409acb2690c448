"""What a run does with its time, with prices that were made up: no clock runs here."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import laconic as lc
from laconic.core.progress import silent
from laconic.core.records import Measurement
from laconic.run.ledger import Ledger, Span
from laconic.run.record import Record
from laconic.search.epochs import recipe_epochs
from laconic.search.timeplan import SHORTEST, TimePlan
from laconic.search.walk import Walk
from tests.run import tiny

TASK = dataclasses.replace(tiny.task(), recovery=lc.FitPlan(epochs=8))
TARGET = lc.Target("onnxruntime", threads=1)
PLAIN = lc.Recipe((), TARGET)
PRUNED = [lc.Recipe((lc.Prune(macs=share),), TARGET) for share in (0.8, 0.6, 0.5, 0.4)]
BASE = Record(
    "base",
    "base",
    {"steps": [], "deploy": {"threads": 1, "device": "cpu"}},
    "baseline",
    measured={"cold_start_ms": Measurement(2000.0, "ms")},
)


class Spent(Ledger):
    """A ledger of which the stretches are given."""

    def __init__(self, *spans: tuple[str, str, float]) -> None:
        super().__init__()
        self.given = [Span(part, of, 0.0, seconds) for part, of, seconds in spans]

    def spans(self) -> list[Span]:
        return self.given

    def spent(self) -> dict[str, float]:
        return {"total": sum(span.seconds for span in self.given)}


def plan(limit_s: float | None, *spans: tuple[str, str, float], now_s: float = 0.0, **more: Any) -> TimePlan:
    """A plan whose baseline took 4 s to build and check and 1 s to time."""
    ledger = Spent(("export", "base", 1.0), ("check", "base", 3.0), ("time", "base", 1.0), *spans)
    now = [0.0]
    made = TimePlan(limit_s, ledger, TASK, clock=lambda: now[0], **more)
    made.measured_baselines([BASE])
    now[0] = now_s
    return made


TRAINED = [{"seconds": 1.0}] * 3
# Finalists: start 2 s and 7 turns of 1 s; published: 2 s and 2 turns; test: 2 checks of 3 s; one turn by batch; 1.3 times, and 3 s for the page.
FINISH_S = 1.3 * (9 + 4 + 6 + 1) + 3


def test_what_finishing_takes_is_kept_back() -> None:
    assert plan(300).prices().finish_s == pytest.approx(FINISH_S)
    assert plan(300).until() == pytest.approx(300 - FINISH_S)
    assert plan(300, budgets=3).prices().finish_s == pytest.approx(FINISH_S + 1.3 * 2 * (4 + 3))
    assert plan(None).until() is None


def test_prices_are_those_of_the_baseline_then_of_candidates() -> None:
    before = plan(300, training=TRAINED)
    assert before.price(PLAIN) == pytest.approx(5)
    assert before.price(PRUNED[0]) == pytest.approx(5 + 8 * 1.5)  # an epoch of the model's training, half as much again for a teacher
    after = plan(
        300,
        ("check", PLAIN.key, 1.0),
        ("time", PLAIN.key, 2.0),
        ("recover", PRUNED[0].key, 40.0),
        ("time", PRUNED[0].key, 3.0),
        training=TRAINED,
    )
    for recipe in (PLAIN, PRUNED[0]):
        after.learn(Record.of(recipe), recipe)
    assert after.price(PRUNED[1]) == pytest.approx(3 + 8 * 5)


def test_what_is_not_known_is_not_priced_and_begins() -> None:
    made = plan(120)  # of a model that came trained nobody knows what an epoch takes
    assert made.price(PRUNED[0]) is None
    assert made.too_long(PRUNED[0]) is None
    assert TimePlan(60, Spent(), TASK, clock=lambda: 0.0).price(PLAIN) is None


def test_the_price_of_the_baseline_alone_leaves_nothing_out_that_does_not_train() -> None:
    """Nothing was tried of a task of a minute, since the baseline had waited for the disk."""
    made = plan(300, now_s=300 - FINISH_S - 2)
    assert made.left_s() == pytest.approx(2)
    assert made.price(PLAIN) == pytest.approx(5)
    assert made.too_long(PLAIN) is None
    made.learn(BASE.replace(key="other"), PLAIN)
    assert "would take about 5.0 s, and 2.0 s are left" in str(made.too_long(PLAIN))


@pytest.mark.parametrize(("now_s", "words"), [(0.0, None), (258.0, "would take about 17 s, and 13 s are left"), (299.0, None)])
def test_what_does_not_fit_is_not_begun(now_s: float, words: str | None) -> None:
    """At the very end the time limit itself is the reason, which the evaluator tells."""
    made = plan(300, now_s=now_s, training=TRAINED)
    why = made.too_long(PRUNED[0])
    assert (why is None) if words is None else (why is not None and words in why and "8 epochs" in why)
    assert plan(None, now_s=now_s, training=TRAINED).too_long(PRUNED[0]) is None


def rounded(recipe: lc.Recipe) -> lc.Recipe:
    return lc.Recipe((*recipe.steps, lc.Quantize()), TARGET)


def test_what_begins_with_a_training_that_was_done_is_not_priced_with_it() -> None:
    made = plan(300, training=TRAINED)
    made.learn(Record.of(PRUNED[0]).failed("error", "it did not end"), PRUNED[0])
    assert made.price(rounded(PRUNED[0])) == pytest.approx(5 + 12)
    made.learn(Record.of(PRUNED[0]), PRUNED[0])
    assert made.price(rounded(PRUNED[0])) == pytest.approx(5)
    assert made.price(rounded(PRUNED[1])) == pytest.approx(5 + 12)
    again = lc.Recipe((*PRUNED[0].steps, lc.Fit(lc.FitPlan(epochs=2))), TARGET)
    assert made.price(again) == pytest.approx(5 + 3)


def test_a_training_that_several_candidates_begin_with_is_planned_once() -> None:
    made = plan(FINISH_S + 8 * 5 + 4 * 12, training=TRAINED)
    made.plan([*PRUNED, *map(rounded, PRUNED)])
    assert "8 candidates that train, about 11 s each, 88 s;" in made.said[-1]["text"]
    assert made.shortened(PRUNED[0]) == PRUNED[0]


@pytest.mark.parametrize(("limit_s", "epochs"), [(1000, 8), (FINISH_S + 20 + 24, 4), (FINISH_S + 20 + 3, 2)])
def test_recoveries_are_shortened_to_what_fits_a_quarter_at_the_least(limit_s: float, epochs: int) -> None:
    """Four candidates: 20 s to build, check and time, 48 s to train whole."""
    made = plan(limit_s, training=TRAINED)
    made.plan(PRUNED)
    assert recipe_epochs(made.shortened(PRUNED[0]), TASK) == epochs
    assert made.shortened(PLAIN) == PLAIN
    assert SHORTEST * 8 == 2


def test_a_plan_that_has_time_again_shortens_nothing() -> None:
    made = plan(FINISH_S + 44, training=TRAINED)
    made.plan(PRUNED)
    assert made.shortened(PRUNED[0]) != PRUNED[0]
    made.plan(PRUNED[:1])
    assert made.shortened(PRUNED[0]) == PRUNED[0]


def test_the_plan_is_told_in_words() -> None:
    told: list[str] = []
    made = plan(FINISH_S + 5 + 44, training=TRAINED, tell=told.append)
    made.plan([PLAIN, *PRUNED])
    assert told == [made.said[0]["text"]]
    assert told[0] == (
        "plan after 5.0 s, with 78 s left: 1 candidate without training, about 5.0 s each, 5.0 s; 4 candidates that train, about 17 s each, 68 s: "
        "more than there is, so cut to 50 % of their epochs, the likeliest 4 first, the others as far as time is left; 29 s kept for finalists and test data"
    )
    quiet = plan(None, tell=told.append)
    quiet.plan(PRUNED)
    assert len(told) == 1


@pytest.mark.parametrize(
    ("limit_s", "effort", "asked", "trials"),
    [
        (None, "low", None, 0),
        (None, "medium", None, 0),
        (None, "high", None, 24),
        (None, "medium", 7, 7),
        (FINISH_S + 80, "high", None, 10),  # 5 s and 2 epochs of 1.5 s each
        (FINISH_S + 80, "low", None, 0),
        (FINISH_S + 1900, "medium", None, 0),
        (FINISH_S + 1930, "medium", None, 24),
        (FINISH_S - 10, "high", None, 1),  # a half of what is left is for candidates in any case
        (FINISH_S + 80, "high", 3, 3),
    ],
)
def test_much_time_is_filled_with_proposals_as_the_effort_says(limit_s: float | None, effort: str, asked: int | None, trials: int) -> None:
    pytest.importorskip("optuna")
    assert plan(limit_s, training=TRAINED).trials(asked, effort) == trials


def test_a_run_that_has_little_time_says_what_it_left_out(tmp_path: Path) -> None:
    """The plan's clock is the run's: an hour passes when the first candidate is known."""
    start = time.monotonic()
    now = [start]

    class Clock(TimePlan):
        def learn(self, record: Record, recipe: lc.Recipe) -> None:
            super().learn(record, recipe)
            now[0] = start + 3600.0 - 1e-3 - self.prices().finish_s

    made: list[Clock] = []

    def timed(ends_at: float | None, *args: Any, **more: Any) -> Clock:
        made.append(Clock(start + 3600.0, *args, **more, clock=lambda: now[0]))
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("laconic.search.optimize.TimePlan", timed)
        space = lc.SearchSpace(("onnxruntime", "torchscript"), ("fp32",), threads=1, quantize=(), prune=())
        result = lc.optimize(tiny.task(), out=tmp_path / "run", space=space, options=tiny.QUICK, time_limit="1h")
    first, second = result.data["candidates"][:2]
    assert first["status"] in ("passed", "rejected")
    assert second["status"] == "not_tried"
    assert second["reasons"][0]["rule"] == "time_limit"
    assert result.data["plan"][0]["text"].startswith("plan after")
    assert result.data["stopped"]["tried"] == 1


class Evaluating:
    """Stands for an evaluator: every recipe passes at once."""

    def __init__(self, task: lc.Task, kept: tuple[str, ...] = ()) -> None:
        self.task, self.ledger, self.progress, self.passed, self.deadline = task, Ledger(), silent, [], None
        self.store = SimpleNamespace(has=lambda name: name in [f"candidates/{key}/timing.json" for key in kept], push=lambda: None)
        self.evaluated: list[lc.Recipe] = []
        self.expected: list[list[lc.Recipe]] = []

    def expect(self, recipes: Iterable[lc.Recipe]) -> None:
        self.expected.append([*recipes])

    def evaluate(self, recipe: lc.Recipe) -> Record:
        self.evaluated.append(recipe)
        return Record.of(recipe, baseline="base")


def walking(made: TimePlan, kept: tuple[str, ...] = ()) -> tuple[Walk, Evaluating]:
    evaluator = Evaluating(TASK, kept)
    walk = Walk(evaluator, lc.Budget(), plan=made)  # type: ignore[arg-type]
    walk.records = [BASE]
    return walk, evaluator


def test_a_shortened_candidate_stands_beside_the_whole_one_that_was_not_tried() -> None:
    made = plan(FINISH_S + 44, training=TRAINED)
    made.plan(PRUNED)
    walk, evaluator = walking(made, kept=(PRUNED[3].key,))
    walk.in_order(PRUNED)
    assert [recipe_epochs(recipe, TASK) for recipe in evaluator.evaluated] == [4, 4, 4, 8]  # what was measured before takes no time
    assert evaluator.expected[0] == evaluator.evaluated  # who builds ahead builds these
    told = {record.key: record for record in walk.records}
    whole = told[PRUNED[0].key]
    assert whole.status == "not_tried"
    assert whole.waits, "with more time it may have its turn"
    assert whole.reasons[0].text == "for want of time it was trained for 4 of its 8 epochs, as another candidate"
    assert told[evaluator.evaluated[0].key].status == "passed"
    assert told[PRUNED[3].key].status == "passed"


def test_what_nobody_had_time_for_is_told_once() -> None:
    made = plan(FINISH_S + 44, training=TRAINED)
    made.plan(PRUNED)
    walk, evaluator = walking(made)
    evaluator.evaluate = lambda recipe: Record.of(recipe, baseline="base").not_tried("the time is over")  # type: ignore[method-assign]
    walk.in_order(PRUNED[:1])
    assert [(record.key, record.status) for record in walk.records[1:]] == [(PRUNED[0].key, "not_tried")]
    assert walk.records[1].reasons[0].text == "the time is over"


def test_no_more_than_a_half_of_what_is_left_is_kept_back() -> None:
    assert plan(40).until() == pytest.approx(20)


def test_proposals_are_not_shortened_and_end_with_the_time() -> None:
    now = [0.0]
    made = TimePlan(FINISH_S + 44, plan(1).ledger, TASK, TRAINED, clock=lambda: now[0])
    made.measured_baselines([BASE])
    made.plan(PRUNED)
    assert made.trials(4, "medium") == 4
    walk, evaluator = walking(made)
    left = list(PRUNED)

    def upcoming(n: int) -> list[lc.Recipe]:
        now[0] += 14.0
        return [left.pop(0)]

    walk.tuned(SimpleNamespace(upcoming=upcoming, learn=lambda record: None, params=lambda recipe: None), 4)  # type: ignore[arg-type]
    assert [recipe_epochs(recipe, TASK) for recipe in evaluator.evaluated] == [8]  # of 44 s 30 are left, then 16, and it takes 17
