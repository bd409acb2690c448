"""What a sampler proposes: legal recipes, each once, the same again in a run that goes on; short recoveries first; and that it learns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import pytest

import laconic as lc
from laconic.core.records import Measurement
from laconic.run.gate import gate
from laconic.run.recipe import parse
from laconic.run.record import Record
from laconic.search.epochs import epochs_of, retrained
from laconic.search.lever import STEP_STAGES, Range
from laconic.search.propose import LONGEST, propose
from laconic.search.space import SearchSpace
from laconic.search.tune import KEPT, ROUND, Tuner
from tests.search.records import BASE
from tests.search.test_propose import MLP, TRAINABLE, around

SPACE = SearchSpace(("onnxruntime", "openvino"), ("fp32",), threads=1)
Judge = Callable[[lc.Recipe], tuple[float, float]]


def measured(recipe: lc.Recipe, judge: Judge) -> Record:
    """A record with the speed and the drop that a function gives a recipe, held against the budget."""
    speed, drop = judge(recipe)
    ratio = Measurement(speed, "x", n=9, low=0.95 * speed, high=1.05 * speed)
    one = Record.of(recipe, baseline=BASE.key).with_measured(speedup=ratio, latency_ms=10 / speed, drop=Measurement(drop, "points", n=99))
    return gate(one, lc.Budget(max_drop=0.5).rules(BASE))


def one_runtime(*levers: str) -> SearchSpace:
    return SearchSpace(("onnxruntime",), ("fp32",), threads=1, levers=levers)


def kept(recipe: lc.Recipe) -> float:
    """The share of multiply-adds that its pruning keeps."""
    return next((step.macs for step in recipe.steps if isinstance(step, lc.Prune) and step.macs is not None), 1.0)


def by_share(recipe: lc.Recipe) -> tuple[float, float]:
    """The fewer are kept the faster, but below 0.4 too much is lost."""
    return 2 / kept(recipe), 0.0 if kept(recipe) >= 0.4 else 5.0


def proposals(n: int, judge: Judge = by_share, space: SearchSpace = SPACE, seed: int = 0) -> Iterator[tuple[lc.Recipe, Record]]:
    here = around(task=dataclasses.replace(TRAINABLE, batch_size=4))
    known = [measured(recipe, judge) for recipe in propose(here, space)]
    tuner = Tuner(here, space, known, seed)
    for _ in range(n):
        recipe = tuner.propose()
        if recipe is None:
            return
        record = measured(recipe, judge)
        tuner.learn(record)
        yield recipe, record


def test_proposals_are_legal_new_and_the_same_for_the_same_seed_and_records() -> None:
    found = [recipe for recipe, _ in proposals(12)]
    assert [recipe.key for recipe in found] == [recipe.key for recipe, _ in proposals(12)]
    assert len({recipe.key for recipe in found}) == len(found) == 12
    assert not {recipe.key for recipe in found} & {recipe.key for recipe in propose(around(), SPACE)}
    for recipe in found:
        stages = [STEP_STAGES.index(step.stage) for step in recipe.steps]
        assert stages == sorted(stages)
        assert 1 <= len(recipe.steps) <= LONGEST + 1
        assert parse(recipe.to_plain()).recipe == recipe, "it can be written down"


def test_a_setting_that_stands_alone_is_combined_with_nothing() -> None:
    here, space = around(MLP, max_size_mb=1.0), one_runtime("prune", "quantize")
    tuner, found = Tuner(here, space, [], 0), list[lc.Recipe]()
    while len(found) < 16 and (recipe := tuner.propose()) is not None:
        tuner.learn(measured(recipe, by_share))
        found.append(recipe)
    alone = [recipe for recipe in found if any(isinstance(step, lc.Quantize) and step.bits == 4 for step in recipe.steps)]
    assert alone
    assert all(len(recipe.steps) == 1 for recipe in alone)


def test_what_trains_recovers_shortly_first_and_the_best_of_a_round_go_on() -> None:
    found = list(proposals(2 * ROUND, space=one_runtime("prune")))
    epochs = [sum(epochs_of(step, TRAINABLE) for step in recipe.steps if step.trains) for recipe, _ in found]
    begin, last = epochs.index(5), [n for n, epoch in enumerate(epochs) if epoch == 5][ROUND - 1]
    assert set(epochs[:begin]) == {20}, "where the budget ends is looked for with whole recoveries"
    assert epochs[begin : last + 1] == [5] * ROUND, "20 epochs are wanted, a quarter of them comes first"
    assert epochs[last + 1 :][:KEPT] == [20] * KEPT
    budget = lc.Budget(max_drop=0.5)
    best = sorted(found[begin : last + 1], key=lambda pair: (budget.shortfall(pair[1]), budget.order(pair[1])))[:KEPT]
    assert [kept(recipe) for recipe, _ in found[last + 1 :][:KEPT]] == [kept(recipe) for recipe, _ in best]


def test_where_the_budget_ends_is_found_by_steps_from_both_sides() -> None:
    """Halfway by ratio between what holds it and what does not, until they are within 7 percent; from what loses too much towards the whole."""
    between = [kept(recipe) for recipe, _ in proposals(3, space=one_runtime("prune"))]
    assert between == [0.387, 0.44, 0.413]
    on = [kept(recipe) for recipe, _ in proposals(4, lambda recipe: (2 / kept(recipe), 0.0), one_runtime("prune"))]
    assert on == [0.18, 0.108, 0.0648, 0.05]
    back = [kept(recipe) for recipe, _ in proposals(3, lambda recipe: (2 / kept(recipe), 5.0 * (kept(recipe) < 0.8)), one_runtime("prune"))]
    assert back == [0.707, 0.841, 0.771]


def test_a_runtime_that_is_far_behind_is_not_proposed() -> None:
    def judge(recipe: lc.Recipe) -> tuple[float, float]:
        speed, drop = by_share(recipe)
        return speed / (1 if recipe.deploy.runtime == "openvino" else 3), drop

    assert {recipe.deploy.runtime for recipe, _ in proposals(12, judge)} == {"openvino"}
    assert {recipe.deploy.runtime for recipe, _ in proposals(12)} == {"openvino", "onnxruntime"}


def test_it_learns_where_the_best_lies() -> None:
    """The best share is 0.4: what is proposed late lies nearer to it than what is proposed early."""
    shares = [kept(recipe) for recipe, _ in proposals(60, space=one_runtime("prune"))]
    early, late = shares[:ROUND], shares[-20:]
    assert min(share for share in shares if share >= 0.4) < 0.45
    assert sum(abs(share - 0.4) for share in late) / len(late) < sum(abs(share - 0.4) for share in early) / len(early)


def test_an_exhausted_space_proposes_nothing() -> None:
    assert list(proposals(5, space=one_runtime("quantize=static"))) == []


def test_a_failed_proposal_is_no_loss() -> None:
    here = around()
    tuner = Tuner(here, SPACE, [], 0)
    recipe = tuner.propose()
    assert recipe is not None
    tuner.learn(Record.of(recipe, baseline="base").failed("crash", "it crashed"))
    assert tuner.propose() is not None


def test_training_is_changed_and_nothing_else() -> None:
    assert retrained(lc.Quantize(), {"epochs": 3}) == lc.Quantize()
    assert retrained(lc.Prune(macs=0.5, recovery={"lr": 0.1}), {"epochs": 3}) == lc.Prune(macs=0.5, recovery={"lr": 0.1, "epochs": 3})
    assert retrained(lc.Fit(lc.FitPlan(lr=0.1)), {"epochs": 3}) == lc.Fit(lc.FitPlan(lr=0.1, epochs=3))
    untrained = lc.RateDistortion(bits_per_weight=2.0, recovery={"epochs": 0})
    assert retrained(untrained, {"epochs": 3}) == untrained
    assert epochs_of(lc.Prune(macs=0.5), dataclasses.replace(TRAINABLE, recovery=lc.FitPlan(epochs=7))) == 7
    assert epochs_of(lc.Fit(lc.FitPlan(epochs=2)), TRAINABLE) == 2


@pytest.mark.parametrize(
    ("given", "words"),
    [({"effort": "hi"}, "effort: 'hi'"), ({"trials": -1}, "trials: -1"), ({"trials": "x"}, "trials"), ({"effort": 3}, "effort: '3'")],
)
def test_wrong_efforts_are_told(given: dict[str, object], words: str) -> None:
    with pytest.raises(lc.BadInput, match=words):
        SearchSpace(**given)  # type: ignore[arg-type]


def test_a_low_effort_trains_nothing_that_was_not_asked_for() -> None:
    assert SearchSpace(effort="high").trials is SearchSpace().trials is None  # by the effort: tests/search/test_timeplan.py
    low = propose(around(), SearchSpace(effort="low"))
    assert low
    assert not any(step.trains for recipe in low for step in recipe.steps)
    packed = propose(around(objective="size"), SearchSpace(effort="low"))
    assert any(isinstance(step, lc.RateDistortion) for recipe in packed for step in recipe.steps), "without recovery it trains nothing"
    assert not any(step.trained() for recipe in packed for step in recipe.steps)
    asked = propose(around(), SearchSpace(effort="low", levers=("prune",)))
    assert any(step.trains for recipe in asked for step in recipe.steps)


@pytest.mark.parametrize(
    ("varied", "held", "lost", "value"),
    [
        (Range(0.1, 0.9), None, 0.5, 0.707), (Range(0.1, 0.9), None, 0.88, None), (Range(0.1, 0.9), 0.8, 0.4, 0.566),
        (Range(0.1, 0.8, rises=True), None, 0.5, 0.293), (Range(0.1, 0.8, rises=True), None, 0.12, None),
    ],
)  # fmt: skip
def test_what_lies_between_is_in_the_range(varied: Range, held: float | None, lost: float, value: float | None) -> None:
    """A sampler takes no number outside: of a share that may be 0.9 at the most, nothing lies between the whole and 0.88."""
    assert varied.between(held, lost) == value
