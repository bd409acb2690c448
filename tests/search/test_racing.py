"""Who is not tried any more, and that nobody is left out who might have won."""

from __future__ import annotations

import pytest

import laconic as lc
from laconic.core.records import Measurement
from laconic.run.recipe import parse
from laconic.run.record import OUTRACED, Record
from laconic.search.judge import Judge
from laconic.search.racing import MOST, doomed, harsher, heavy, outraced, oversized
from laconic.search.several import budgets, judge
from laconic.search.stopped import LIMIT, stopped
from laconic.search.walk import Walk
from tests.search.test_propose import Evaluates

PLAIN, HALF = (lc.Recipe((), lc.Target("openvino", precision, 1)) for precision in ("fp32", "bf16"))
FOLDED = lc.Recipe((lc.FoldBatchNorm(),), lc.Target("openvino", "bf16", 1))


def measured(recipe: lc.Recipe, low: float, high: float) -> Record:
    ratio = Measurement((low + high) / 2, "x", n=15, low=low, high=high)
    return Record.of(recipe, baseline="base").with_measured(speedup=ratio, drop=Measurement(0.0, "points"))


BEST_RECIPE = lc.Recipe((), lc.Target("onnxruntime", "fp32", 1))
BEST = measured(BEST_RECIPE, 10.0, 12.0)


@pytest.mark.parametrize(("high", "out"), [(10.0 / MOST + 0.01, False), (10.0 / MOST - 0.01, True)])
def test_another_precision_is_left_out_where_it_would_have_to_win_too_much(high: float, out: bool) -> None:
    assert bool(outraced(HALF, BEST, [measured(PLAIN, 1.0, high)])) == out


def test_nobody_is_left_out_of_whom_nothing_near_is_known() -> None:
    slow = measured(PLAIN, 0.5, 0.6)
    assert outraced(HALF, None, [slow]) is None
    assert outraced(HALF, BEST, []) is None
    assert outraced(FOLDED, BEST, [slow]) is None, "other steps"
    assert outraced(PLAIN, BEST, [slow]) is None, "fp32 is tried in any case"
    assert outraced(HALF, BEST, [slow.replace(measured={})]) is None, "it was not timed"
    base = Record.of(lc.Recipe((), lc.Target("torch", "fp32", 1)), status="baseline")
    told = outraced(lc.Recipe((), lc.Target("torch", "bf16", 1)), BEST, [base])
    assert told == (
        "PyTorch eager · fp32 · 1 thread is 1.00× as fast as the baseline at the most, the best so far 10.00× at the least: this would have to win "
        "10.0 times over the former, and 5 at the most is expected of it"
    )


def test_what_calls_the_kernels_of_another_runtime_is_bounded_by_that() -> None:
    base = Record.of(lc.Recipe((), lc.Target("torch", "fp32", 1)), status="baseline")
    compiled = lc.Recipe((), lc.Target("torch.compile", "fp32", 1))
    assert outraced(compiled, BEST, [base])
    assert outraced(compiled, measured(BEST_RECIPE, 4.9, 6.0), [base]) is None
    assert outraced(lc.Recipe((), lc.Target("torchscript", "fp32", 1)), BEST, [base]) is None
    on_gpu = Record.of(lc.Recipe((), lc.Target("torch", "fp32", 1, "cuda")), status="baseline")
    assert outraced(lc.Recipe((), lc.Target("torch.compile", "fp32", 1, "cuda")), BEST, [on_gpu]) is None


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({}, False),
        ({"runtimes": ("torch.compile",)}, True),
        ({"precisions": ("bf16",)}, True),
        ({"levers": ("prune", "torch.compile")}, True),
    ],
)
def test_whoever_names_a_runtime_or_a_precision_gets_it_tried(given: dict[str, tuple[str, ...]], named: bool) -> None:
    assert lc.SearchSpace(**given).names_targets == named  # type: ignore[arg-type]


class Timed(Evaluates):
    """Stands in for an evaluator: every fp32 in PyTorch eager is slow, everything else fast."""

    def __init__(self) -> None:
        super().__init__(0.0)
        self.passed = [BEST]

    def evaluate(self, recipe: lc.Recipe) -> Record:
        self.titles.append(recipe.title)
        return measured(recipe, 1.0, 1.1)


@pytest.mark.parametrize("races", [True, False])
def test_a_walk_leaves_out_who_is_outraced_and_says_why(races: bool) -> None:
    evaluator = Timed()
    walk = Walk(evaluator, lc.Budget(max_drop=0.5), Judge(lc.Budget(max_drop=0.5)) if races else None)  # type: ignore[arg-type]
    walk.records.append(Record.of(lc.Recipe((), lc.Target("torch", "fp32", 1)), status="baseline"))
    walk.in_order([PLAIN, HALF])
    assert evaluator.titles == [recipe.title for recipe in ((PLAIN,) if races else (PLAIN, HALF))]
    last = walk.records[-1]
    assert (last.status == "not_tried" and last.reasons[-1].rule == OUTRACED) == races
    assert stopped(walk.records, LIMIT, 1.0) is None, "the run is finished: more time brings nothing"
    late = Record.of(FOLDED, baseline="base").not_tried("the time limit was reached before its turn")
    ended = stopped([*walk.records, late], LIMIT, 1.0)
    assert ended is not None
    assert (ended.tried, ended.of) == ((1, 2) if races else (2, 3))


@pytest.mark.parametrize(("drop", "tried"), [(0.1, 1), (3.0, 2)])
def test_with_several_budgets_it_is_outraced_only_where_the_best_of_the_strictest_leaves_it_behind(drop: float, tried: int) -> None:
    evaluator = Timed()
    evaluator.passed = [BEST.with_measured(drop=Measurement(drop, "points"))]
    walk = Walk(evaluator, lc.Budget(max_drop=0.5), judge(budgets(lc.Budget(max_drop=0.5), (5, 1))))  # type: ignore[arg-type]
    walk.records.append(Record.of(lc.Recipe((), lc.Target("torch", "fp32", 1)), status="baseline"))
    walk.in_order([PLAIN, HALF])
    assert len(evaluator.titles) == tried


def pruned(share: float, *then: lc.StepConfig, **options: object) -> lc.Recipe:
    return lc.Recipe((lc.Prune(macs=share, **options), *then), lc.Target("openvino", "fp32", 1))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("later", "before", "found"),
    [
        (pruned(0.3), pruned(0.5), True),
        (pruned(0.5), pruned(0.3), False),
        (pruned(0.5), pruned(0.5), False),
        (pruned(0.3, lc.Quantize()), pruned(0.5), True),
        (pruned(0.3), pruned(0.5, lc.Quantize()), False),
        (pruned(0.3, lc.Qat()), pruned(0.5), False),  # it trains, which may win back
        (pruned(0.3, criterion="taylor"), pruned(0.5), False),
        (lc.Recipe((lc.Sparsify(sparsity=0.95),)), lc.Recipe((lc.Sparsify(sparsity=0.9),)), True),
        (lc.Recipe((lc.Sparsify(sparsity=0.8),)), lc.Recipe((lc.Sparsify(sparsity=0.9),)), False),
        (lc.Recipe((lc.Prune(keep={"a": 1}),)), pruned(0.5), False),
    ],
)
def test_what_leaves_less_of_the_model_is_harsher(later: lc.Recipe, before: lc.Recipe, found: bool) -> None:
    assert harsher(later.steps, before.steps) == found


@pytest.mark.parametrize(("low", "limit", "out"), [(0.6, 0.5, True), (0.4, 0.5, False), (0.6, "any", False)])
def test_what_is_harsher_than_one_that_lost_too_much_for_certain_is_not_tried(low: float, limit: float | str, out: bool) -> None:
    lost = Record.of(pruned(0.5), baseline="base", status="rejected").with_measured(
        drop=Measurement(2.0, "points", n=99, low=low, high=3.0)
    )
    told = doomed(pruned(0.3), lc.Budget(max_drop=limit), [lost])  # type: ignore[arg-type]
    assert bool(told) == out
    if out:
        assert (
            told == f"{lost.title}, which leaves more of the model, loses 0.60\N{NO-BREAK SPACE}points at the least; this would lose more"
        )


def sized(recipe: lc.Recipe, mb: float) -> Record:
    return Record.of(recipe, baseline="base").with_measured(packed_size_bytes=Measurement(mb * 1e6, "B"))


def cut(*then: lc.StepConfig, runtime: str = "openvino") -> lc.Recipe:
    return lc.Recipe((lc.Prune(macs=0.5), *then), lc.Target(runtime, "fp32", 2))


@pytest.mark.parametrize(
    ("recipe", "limit", "known", "out"),
    [
        (cut(lc.Quantize()), 10.0, {"whole": 40, "cut": 20, "rounded": 30}, True),
        (cut(lc.Quantize()), 10.0, {"whole": 40, "cut": 20, "rounded": 24}, False),  # 12 are expected: it may be less
        (cut(lc.Quantize()), 20.0, {"whole": 40, "cut": 20, "rounded": 30}, False),
        (cut(lc.Quantize()), 10.0, {"whole": 40, "rounded": 30}, False),  # nothing is known of pruning
        (cut(lc.Quantize()), 10.0, {"cut": 20, "rounded": 30}, False),  # nor of what it left
        (cut(lc.Quantize()), 10.0, {"whole": 40, "cut": 20}, False),  # nor of rounding
        (cut(lc.Quantize()), 10.0, {"few": 9, "cut, few": 9, "rounded": 30}, False),  # what fills the limit does not tell what was left
        (cut(runtime="onnxruntime"), 10.0, {"whole": 40, "cut": 20, "there": 40}, True),  # the same steps elsewhere
        (cut(runtime="onnxruntime"), 10.0, {"whole": 40, "cut": 20, "there": 20}, False),
    ],
)
def test_what_will_be_too_large_is_not_tried(recipe: lc.Recipe, limit: float, known: dict[str, float], out: bool) -> None:
    place, few = lc.Target("openvino", "fp32", 1), lc.RateDistortion(packed_mb=9.0, recovery={"epochs": 0})
    recipes = {
        "few": lc.Recipe((few,), place),
        "cut, few": lc.Recipe((lc.Prune(macs=0.5), few), place),
        "whole": lc.Recipe((), place),
        "cut": lc.Recipe((lc.Prune(macs=0.5),), place),
        "rounded": lc.Recipe((lc.Quantize(),), place),
        "there": lc.Recipe((), lc.Target("onnxruntime", "fp32")),
    }
    records = [sized(recipes[name], mb) for name, mb in known.items()]
    told = oversized(recipe, lc.Budget(max_drop=0.5, limits={"max_packed_mb": limit}), records)
    assert bool(told) == out
    assert oversized(recipe, lc.Budget(max_drop=0.5), records) is None, "nothing is asked of its size"
    if out and recipe.steps[1:]:
        assert told == (
            "prune to 50 % of MACs leaves 50 % of the packed size where something else follows; here too, divided by 1.3, the packed size is 11.5 MB; "
            "at most 10 MB is asked for"
        )


def test_a_walk_leaves_out_what_will_be_too_large() -> None:
    evaluator = Timed()
    budget = lc.Budget(max_drop=0.5, limits={"max_packed_mb": 10.0})
    walk = Walk(evaluator, budget, Judge(budget))  # type: ignore[arg-type]
    place = lc.Target("openvino", "fp32", 2)
    walk.records.append(Record.of(lc.Recipe((), lc.Target("torch", "fp32", 2)), status="baseline"))
    walk.records += [sized(lc.Recipe((), place), 40), sized(lc.Recipe((lc.Quantize(),), place), 30), sized(cut(), 20)]
    walk.in_order([cut(lc.Quantize()), cut(lc.Qat())])
    assert evaluator.titles == [cut(lc.Qat()).title], "of rounding in training nothing is known"
    assert walk.records[4].reasons[-1].rule == OUTRACED


def test_what_has_to_be_made_up_for_is_tried_last() -> None:
    """Rounding alone holds the limit of the size, floats do not: all that is trained and rounded comes before what is trained alone."""
    evaluator = Timed()
    budget = lc.Budget(max_drop=0.5, limits={"max_packed_mb": 10.0})
    walk = Walk(evaluator, budget)  # type: ignore[arg-type]
    place = lc.Target("openvino", "fp32", 2)
    walk.records += [sized(lc.Recipe((), place), 40), sized(lc.Recipe((lc.Quantize(),), place), 9)]
    further = lc.Recipe((lc.Prune(macs=0.3), lc.Quantize()), place)
    recipes = [cut(), cut(lc.Quantize()), further]
    assert [heavy(recipe, budget, walk.records) for recipe in recipes] == [True, False, False]
    assert not heavy(cut(), lc.Budget(max_drop=0.5), walk.records)
    assert walk._by_turns(recipes) == [*recipes[1:], recipes[0]]


def test_a_record_is_read_back_once_however_many_candidates_are_held_against_it(monkeypatch: pytest.MonkeyPatch) -> None:
    read = list[object]()
    monkeypatch.setattr("laconic.run.record.parse", lambda data: read.append(data) or parse(data))
    known = [measured(pruned(share), 1.0, 1.1).replace(status="rejected") for share in (0.5, 0.4)]
    for share in (0.3, 0.2, 0.1):
        doomed(pruned(share), lc.Budget(max_drop=1.0), known)
    assert len(read) == len(known)
    assert known[0].replace(status="passed").made_by == known[0].made_by
