"""Sizes that are solved for: when they are proposed, what is predicted of them, and a whole run that tries them."""

from __future__ import annotations

import dataclasses
import json
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import laconic as lc
from laconic.core.choices import Cost, Table
from laconic.core.errors import WorkerFailed
from laconic.core.files import write_json
from laconic.core.records import Measurement, Outcome
from laconic.pruning.coupling import couple
from laconic.pruning.sizes import Sizes as GroupSizes
from laconic.pruning.tables import Making, choices, distinct
from laconic.run.latency_table import latency_table
from laconic.run.ledger import Ledger
from laconic.run.record import Record
from laconic.run.store import RunStore
from laconic.search import tables, walk
from laconic.search.levers import levers
from laconic.search.propose import between, propose, shipping, solved_kinds
from laconic.search.tables import EVERY, Sizes, digest, factor, measured, paced_ms, pacer, with_prediction
from laconic.search.tune import Tuner
from tests.run import tiny
from tests.search.test_levers import CONV
from tests.search.test_propose import Evaluates, around
from tests.search.test_solve import layered, table

SPACE = lc.SearchSpace(("onnxruntime", "openvino"), ("fp32",), quantize=("static",), effort="high", trials=0)
KNOWN = table(3)


@pytest.fixture
def sizes() -> Sizes:
    return Sizes(KNOWN, lc.Target("onnxruntime"), "int8", "l2")


def cut(sizes: Sizes, share: float = 0.6, *more: Any, runtime: str = "onnxruntime") -> lc.Recipe:
    return lc.Recipe((lc.Prune(keep=sizes.keep(share), criterion="l2"), *more), lc.Target(runtime))


def timed(recipe: lc.Recipe, ms: float, base: str | None = "base", status: str = "passed") -> Record:
    """A record of a latency beside a baseline of 10 ms that at that moment took twice as long."""
    speedup = {} if base is None else {"speedup": Measurement(20 / ms, "×")}
    return Record.of(recipe, baseline=base, status=status).with_measured(latency_ms=Measurement(ms, "ms"), **speedup)


def base() -> Record:
    return timed(lc.Recipe((), lc.Target("torch")), 10.0, None, "baseline").replace(key="base")


ROUNDED = lc.Quantize(mode="static", target="onnxruntime")


def test_solved_settings_wait_for_the_table_and_then_stand_for_its_runtime_alone(sizes: Sizes) -> None:
    before, after = around(), dataclasses.replace(around(), sizes=sizes)
    solved = {recipe.title: recipe for recipe in propose(after, SPACE)}.keys() - {recipe.title for recipe in propose(before, SPACE)}
    groups = {share: (len(sizes.keep(share)), sum(sizes.keep(share).values())) for share in (0.6, 0.4)}
    assert solved == {
        f"prune {n} groups to {left} components{how}"
        for n, left in groups.values()
        for how in (" · ONNX Runtime · fp32", " · quantize static · ONNX Runtime · int8")
    }
    first = next(recipe for recipe in propose(after, SPACE) if recipe.steps and isinstance(recipe.steps[0], lc.Prune))
    assert first.steps[0].keep == sizes.keep(0.6)  # type: ignore[attr-defined]
    assert (first.steps[0].criterion, first.steps[0].recovery["epochs"] > 0) == ("l2", True)  # type: ignore[attr-defined]


def test_solved_sizes_stand_behind_no_other_net(sizes: Sizes) -> None:
    """They name groups of the model as it is."""
    space = lc.SearchSpace(("onnxruntime",), ("fp32",), levers=("student=lenet5", "prune=solved-0.6", "prune=0.5"))
    here = dataclasses.replace(around(), sizes=sizes)
    tuner = Tuner(here, space, [base()], 0)
    recipes = [*propose(here, space), *tuner.upcoming(12)]
    pruned = [(recipe.steps, step.keep) for recipe in recipes for step in recipe.steps if isinstance(step, lc.Prune)]
    assert {len(steps) for steps, keep in pruned if keep} == {1}
    assert {len(steps) for steps, keep in pruned if not keep} == {1, 3}


def test_a_time_that_no_sizes_reach_is_not_proposed() -> None:
    stiff = Table(KNOWN.parts, tuple(Cost(cost.layers, cost.parts, {"fp32": 0 * cost.ms["fp32"] + 1}) for cost in KNOWN.costs))
    sizes = Sizes(stiff, lc.Target("onnxruntime"), "fp32", "l2")
    after = dataclasses.replace(around(), sizes=sizes)
    assert [recipe.title for recipe in propose(after, SPACE)] == [recipe.title for recipe in propose(around(), SPACE)]


@pytest.mark.parametrize(
    ("space", "status", "chosen"),
    [
        (SPACE, "passed", "quantize static · ONNX Runtime · int8"),
        (SPACE, "rejected", "OpenVINO · fp32"),
        (lc.SearchSpace(("onnxruntime", "openvino"), ("fp32",), prune=("solved-0.4",)), "passed", "quantize static · ONNX Runtime · int8"),
        (lc.SearchSpace(("onnxruntime", "openvino"), ("fp32",), prune=(0.5,)), "passed", None),
        (lc.SearchSpace(("openvino",), ("fp32",), effort="high"), "passed", "OpenVINO · fp32"),
        (lc.SearchSpace(("openvino",), ("fp32",)), "passed", None),
    ],
    ids=["the fastest", "that passed", "asked for", "not asked for", "of the runtimes that are tried", "with a high effort alone"],
)
def test_sizes_are_solved_for_the_runtime_of_the_best_so_far(space: lc.SearchSpace, status: str, chosen: str | None) -> None:
    records = [
        base(),
        timed(lc.Recipe((), lc.Target("openvino")), 5.0),
        timed(lc.Recipe((ROUNDED,), lc.Target("onnxruntime")), 4.0, status=status),
        timed(lc.Recipe((), lc.Target("torchscript")), 1.0),
    ]
    best = shipping(around(), space, records)
    assert (best and best.title) == chosen


def test_what_is_predicted_is_the_layers_time_and_loss_and_corrected_by_what_was_measured(sizes: Sizes) -> None:
    """The baseline runs at half its pace whenever something is timed beside it, so measured times count half."""
    whole = {name: KNOWN.ms(KNOWN.whole, name) for name in KNOWN.precisions}
    records = [
        base(),
        timed(lc.Recipe((), lc.Target("onnxruntime")), 2 * 3.0 * whole["fp32"]),
        timed(lc.Recipe((ROUNDED,), lc.Target("onnxruntime")), 2 * 1.5 * whole["int8"]),
        timed(lc.Recipe((lc.Quantize(mode="weights", target="onnxruntime"),), lc.Target("onnxruntime")), 2 * 9.0 * whole["int8"]),
    ]
    floats, recipe, found = cut(sizes, 0.6), cut(sizes, 0.6, ROUNDED), sizes.allocation(0.6)
    assert factor(sizes, floats, records) == pytest.approx(3.0)
    assert factor(sizes, recipe, records) == pytest.approx(1.5)  # weights alone do not compute in integers
    assert factor(sizes, recipe, records[:2]) is None
    assert found is not None
    changed = {"keep": sizes.keep(0.6), "loss": [0.25, 0.75]}
    record = timed(recipe, 2 * 2.4 * found.ms).replace(outcomes=(Outcome("prune", changed), Outcome("quantize", {})))
    told = with_prediction(record, recipe, sizes, records).predicted
    assert told is not None
    figures = {name: told[name] for name in ("layers_ms", "share", "loss", "factor", "latency_ms", "measured_ms", "measured_loss")}
    assert figures == pytest.approx(
        {
            "layers_ms": found.ms,
            "share": found.share,
            "loss": found.loss,
            "factor": 1.5,
            "latency_ms": 1.5 * found.ms,
            "measured_ms": 2.4 * found.ms,
            "measured_loss": 0.5,
        }
    )
    assert told["loss_factor"] is None
    assert [(row["name"], row["after"]) for row in told["groups"] if row["after"] < row["before"]] == list(sizes.keep(0.6).items())
    # the next one is predicted by what this one took, and loses as much more than its parts as this one did
    known = record.replace(predicted=told)
    other = cut(sizes, 0.4, ROUNDED)
    after = with_prediction(timed(other, 1.0), other, sizes, [*records, known]).predicted
    milder = sizes.allocation(0.4)
    assert after is not None
    assert milder is not None
    assert after["loss_factor"] == pytest.approx(0.5 / found.loss)
    assert (after["parts_loss"], after["loss"]) == pytest.approx((milder.loss, milder.loss * 0.5 / found.loss))
    assert after["measured_loss"] is None
    assert factor(sizes, other, [*records, record]) == pytest.approx(2.4)
    # what has ranges of each input tells nothing of it
    unlike = cut(sizes, 0.4, lc.Quantize(mode="dynamic", target="onnxruntime"))
    assert factor(sizes, unlike, [*records, record]) is None


def test_the_pace_is_that_of_the_model_as_it_is_which_computes_alike_on_as_many_threads(sizes: Sizes) -> None:
    """It takes three times as long as when it was first timed, PyTorch twice: what it was faster then counts."""
    recipe, whole_ms = cut(sizes, 0.6, ROUNDED), KNOWN.ms(KNOWN.whole, "int8")
    whole = lc.Recipe((ROUNDED,), lc.Target("onnxruntime"))
    fewer = lc.Recipe((ROUNDED,), lc.Target("onnxruntime", threads=1))
    floats, dynamic = lc.Recipe((), whole.deploy), lc.Recipe((lc.Quantize(mode="dynamic", target="onnxruntime"),), whole.deploy)
    records = [base(), *(timed(one, 2 * ms * whole_ms) for one, ms in ((fewer, 0.5), (floats, 1.0), (dynamic, 1.0), (whole, 1.5)))]
    by = pacer(sizes, recipe, records)
    assert by is records[-1]
    assert pacer(sizes, whole, records) is pacer(None, recipe, records) is None
    assert pacer(sizes, cut(sizes, 0.6, ROUNDED), records[:-1]) is None
    assert factor(sizes, recipe, records) == pytest.approx(1.5)
    assert factor(sizes, recipe, records[:-1]) == pytest.approx(0.5)
    then_ms = 3.0 * 2 * 1.5 * whole_ms
    record = timed(recipe, then_ms / 1.6).replace(pace={"by": by.key, "speedup": 1.6, "latency_ms": then_ms})
    told = with_prediction(record, recipe, sizes, records).predicted
    assert told is not None
    assert (told["measured_ms"], told["slowed"]) == pytest.approx((1.5 * whole_ms / 1.6, 3.0))
    slow, calm = (record.replace(predicted={**told, "slowed": slowed}) for slowed in (3.0, 1.1))
    learned = 1.5 * whole_ms / 1.6 / sizes.ms(recipe)  # type: ignore[operator]
    assert factor(sizes, recipe, [*records, slow]) == pytest.approx(1.5)  # others slowed the machine down: nothing is learned then
    assert factor(sizes, recipe, [*records, slow, calm]) == pytest.approx(learned)
    assert paced_ms(record, records[:-1]) == pytest.approx(3.0 * 1.5 * whole_ms / 1.6)  # whose pacer is not known is held against PyTorch


@pytest.mark.parametrize(
    "recipe",
    [
        lc.Recipe((), lc.Target("onnxruntime")),
        lc.Recipe((lc.Prune(macs=0.5),), lc.Target("onnxruntime")),
        lc.Recipe((lc.Prune(keep={"g0": 3}),), lc.Target("onnxruntime")),
        lc.Recipe((lc.Prune(keep={"g0": 4}),), lc.Target("openvino")),
        lc.Recipe((lc.Sparsify(), lc.Prune(keep={"g0": 4})), lc.Target("onnxruntime")),
    ],
    ids=["whole", "by a share", "a size between", "another runtime", "more steps"],
)
def test_nothing_is_predicted_of_what_is_not_in_the_table(sizes: Sizes, recipe: lc.Recipe) -> None:
    record = Record.of(recipe)
    assert with_prediction(record, recipe, sizes, [base()]) is record
    assert with_prediction(record, recipe, None, [base()]) is record


@pytest.mark.parametrize("seed", [0, 10], ids=["with a block", "without"])
def test_all_kinds_that_are_solved_for_are_one_recipe_and_are_known_again(seed: int) -> None:
    sizes = Sizes(layered(seed), lc.Target("onnxruntime"), "int8", "l2")
    found, row = sizes.allocation(0.4, EVERY), levers()["allocate"]
    setting = row.setting(0.4)
    assert found is not None
    assert setting is not None
    steps = row.steps(setting, dataclasses.replace(around(), sizes=sizes))
    by_kind = {type(step): step for step in steps}
    values: dict[str, dict[str, Any]] = {kind: sizes.table.values(found.chosen, kind) for kind in EVERY}
    assert by_kind[lc.Quantize].keep == tuple(values["bits"])
    assert (values["rank"], values["block"]) == ({"layer0": "spatial 8"}, {"block": 0} if seed == 0 else {})
    assert lc.DropBlocks in by_kind or seed == 10
    assert by_kind[lc.LowRank].ranks == values["rank"]
    assert by_kind[lc.Prune].keep == values["channels"]
    assert by_kind[lc.Prune].recovery["epochs"] == 0  # all cuts recover together
    assert [step.trained() for step in steps].count(True) == 1
    recipe = lc.Recipe(steps, lc.Target("onnxruntime"))
    assert sizes.chosen(recipe) == found.chosen
    told = with_prediction(timed(recipe, 3.0), recipe, sizes, [base()]).predicted
    assert told is not None
    assert (told["share"], told["parts_loss"]) == pytest.approx((found.share, found.loss))
    assert told["measured_loss"] is None  # the step that cuts channels tells that of channels alone
    assert {(row["kind"], row["name"]): row["after"] for row in told["groups"] if row["after"] != row["before"]} == {
        (kind, name): value for kind, own in values.items() for name, value in own.items()
    }


def test_where_nothing_but_channels_helps_there_is_no_allocation_of_all_kinds(sizes: Sizes) -> None:
    assert sizes.allocation(0.6, EVERY) is None
    after = dataclasses.replace(around(), sizes=sizes)
    assert not any(setting.solvable(after) for setting in levers()["allocate"].choices)


def test_in_floats_no_layer_is_told_to_stay_in_floats() -> None:
    sizes = Sizes(layered(10), lc.Target("onnxruntime"), "fp32", "l2")
    found = sizes.allocation(0.6, EVERY)
    assert found is not None
    assert sizes.table.values(found.chosen, "bits") == {}
    setting = levers()["allocate"].setting(0.6)
    assert setting is not None
    steps = levers()["allocate"].steps(setting, dataclasses.replace(around(), sizes=sizes))
    assert not any(isinstance(step, lc.Quantize) for step in steps)


def test_only_the_kinds_that_would_be_tried_are_measured() -> None:
    def kinds(**more: Any) -> tuple[str, ...]:
        return solved_kinds(around().at(lc.Target("onnxruntime")), lc.SearchSpace(("onnxruntime",), ("fp32",), trials=0, **more))

    assert kinds(prune=("solved-0.6",)) == ("channels",)
    assert kinds(effort="high", without=("allocate",)) == ("channels",)
    assert kinds(levers=("allocate=0.6",)) == EVERY
    assert kinds() == ()


def test_a_call_does_not_shrink_with_the_layers(sizes: Sizes) -> None:
    """One factor then tells the time of a small net as well as that of a large one: here a call takes as long as all the layers of the model as it is."""
    call = {name: np.array(KNOWN.ms(KNOWN.whole, name)) for name in KNOWN.precisions}
    with_call = Sizes(dataclasses.replace(KNOWN, costs=(*KNOWN.costs, Cost(("the call",), (), call))), sizes.target, "int8", "l2")
    found, recipe = sizes.allocation(0.6), cut(sizes, 0.6, ROUNDED)
    assert found is not None
    records = [base(), timed(lc.Recipe((ROUNDED,), lc.Target("onnxruntime")), 2 * 2.0 * KNOWN.ms(KNOWN.whole, "int8"))]
    told = with_prediction(timed(recipe, 3.2), recipe, with_call, records).predicted
    assert told is not None
    assert (told["factor"], told["share"]) == (pytest.approx(1.0), pytest.approx((1 + found.share) / 2))
    assert told["latency_ms"] == pytest.approx(found.ms + float(call["int8"]))
    least = with_call.allocation(0.6)
    assert least is None or least.ms <= 0.6 * 2 * KNOWN.ms(KNOWN.whole, "int8")


def test_what_lies_beside_the_layers_is_predicted_and_not_solved_for(sizes: Sizes) -> None:
    """It takes as long as all the layers here; a model of layers that take 0.6 of their time takes 0.8 of its own."""
    whole_ms = KNOWN.ms(KNOWN.whole, "int8")
    more = Sizes(dataclasses.replace(KNOWN, beside=(Cost(("all",), (), {"int8": np.array(whole_ms)}),)), sizes.target, "int8", "l2")
    found, recipe = sizes.allocation(0.6), cut(sizes, 0.6, ROUNDED)
    assert found is not None
    assert more.allocation(0.6) == found
    records = [base(), timed(lc.Recipe((ROUNDED,), lc.Target("onnxruntime")), 2 * 1.5 * 2 * whole_ms)]
    told = with_prediction(timed(recipe, 3.2), recipe, more, records).predicted
    assert told is not None
    assert (told["factor"], told["beside_ms"]) == pytest.approx((1.5, whole_ms))
    assert told["latency_ms"] == pytest.approx(1.5 * (found.ms + whole_ms))


def test_what_lies_between_the_layers_of_a_block_goes_with_it() -> None:
    known = layered(0)
    whole_ms = known.ms(known.whole, "fp32")
    ms = [dataclasses.replace(cost, ms={"fp32": cost.ms["fp32"] * 8.0 / whole_ms}) for cost in known.costs]
    known = dataclasses.replace(known, beside=tuple(ms))
    (block,) = (i for i, part in enumerate(known.parts) if part.kind == "block")
    without = tuple(int(i == block) for i in range(len(known.parts)))
    share = known.ms(without, "fp32") / known.ms(known.whole, "fp32")
    assert 0.1 < share < 0.9
    assert (known.beside_ms(known.whole, "fp32"), known.beside_ms(without, "fp32")) == pytest.approx((8.0, 8.0 * share))
    assert known.beside_ms(without, "int8") == 0.0
    channels = known.only(["channels"])
    assert channels.beside_ms(channels.whole, "fp32") == pytest.approx(8.0)
    again = Table.from_json(json.loads(json.dumps(known.to_json())))
    assert again.beside_ms(without, "fp32") == known.beside_ms(without, "fp32")


def test_the_models_as_they_are_are_timed_beside_the_layers_of_a_runtime_that_reads_onnx() -> None:
    slow, fast = lc.Quantize(mode="dynamic", target="onnxruntime"), ROUNDED
    recipes = [
        lc.Recipe((slow,)),
        lc.Recipe(()),
        lc.Recipe((fast,)),
        lc.Recipe((lc.Prune(macs=0.5), fast)),
        lc.Recipe((), lc.Target("openvino")),
    ]
    records = [base(), *(timed(recipe, 9.0 - n) for n, recipe in enumerate(recipes))]
    found = tables._wholes(lc.Recipe((fast,)), records)
    assert found == {"fp32": lc.Recipe(()), "int8": lc.Recipe((fast,))}
    assert tables._wholes(lc.Recipe((), lc.Target("torchscript")), records) == {}


def lost(recipe: lc.Recipe, drop: float) -> Record:
    """A record that is the faster the less is left, of many examples."""
    left = sum((getattr(recipe.steps[0], "keep", None) or {"all": 500}).values()) if recipe.steps else 1000
    record = timed(recipe, 1.0 + left, status="passed" if drop <= 0.5 else "rejected")
    return record.with_measured(drop=Measurement(drop, "points", n=40_000, low=drop - 0.05, high=drop + 0.05))


@pytest.mark.parametrize(
    ("drops", "best", "share"),
    [
        ((0.2, 0.9), 0, 0.49),
        ((0.2, 0.49), 0, 0.49),
        ((0.2, 0.3), 1, 0.327),
        ((0.6, 0.3), 1, 0.327),
        ((0.9, 1.5), None, None),
        ((0.2, None), None, None),
    ],
    ids=["too much", "just held it", "held it well", "alone", "both too much", "not tried"],
)
def test_between_what_held_the_limit_and_what_did_not_lies_another_share(
    drops: tuple[float, float | None], best: int | None, share: float | None, sizes: Sizes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sizes, "keep", lambda self, share: {"g0": int(1000 * share)})  # each share other sizes
    known = dataclasses.replace(around(), sizes=sizes)
    recipes = [next(one for one in propose(known, SPACE) if _keeps(one, sizes, share)) for share in (0.6, 0.4)]
    records = [base(), *(lost(recipe, drop) for recipe, drop in zip(recipes, drops, strict=True) if drop is not None)]
    pair = between(known, SPACE, records)
    if best is None or share is None:
        assert pair is None
        return
    assert pair is not None
    assert pair[1] == recipes[best]
    assert pair[0].deploy == recipes[best].deploy
    assert pair[0].steps[0].keep == sizes.keep(share)  # type: ignore[attr-defined]
    assert between(dataclasses.replace(known, budget=lc.Budget()), SPACE, records) is None


@pytest.mark.parametrize(("middle", "share"), [(0.2, 0.443), (0.9, 0.542)], ids=["held it", "lost too much"])
def test_it_is_gone_on_from_what_was_found_between(middle: float, share: float, sizes: Sizes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sizes, "keep", lambda self, share: {"g0": int(1000 * share)})  # each share other sizes
    known = dataclasses.replace(around(), sizes=sizes)
    recipes = [next(one for one in propose(known, SPACE) if _keeps(one, sizes, each)) for each in (0.6, 0.4)]
    records = [base(), lost(recipes[0], 0.1), lost(recipes[1], 0.9)]
    found = list[Any]()
    while (pair := between(known, SPACE, records)) is not None:
        found.append(pair)
        records.append(lost(pair[0], 0.9 if found[1:] else middle))
    assert [one.steps[0].keep for one, _ in found[:2]] == [sizes.keep(0.49), sizes.keep(share)]
    assert found[1][1] == (found[0][0] if middle < 0.5 else recipes[0])
    assert 2 <= len(found) <= 4  # until two shares are near each other


@pytest.mark.parametrize(("holds_until", "shares"), [(0.3, [0.327, 0.267, 0.295, 0.311]), (0.0, [0.327, 0.267])], ids=["lost", "no sizes"])
def test_beyond_the_harshest_share_that_holds_it_is_gone_on(
    holds_until: float, shares: list[float], sizes: Sizes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sizes, "keep", lambda self, share: {"g0": int(1000 * share)})
    known = dataclasses.replace(around(), sizes=sizes)
    recipes = [next(one for one in propose(known, SPACE) if _keeps(one, sizes, each)) for each in (0.6, 0.4)]
    records, found = [base(), *(lost(recipe, 0.1) for recipe in recipes)], list[int]()
    while (pair := between(known, SPACE, records)) is not None:
        found.append(pair[0].steps[0].keep["g0"])  # type: ignore[attr-defined]
        records.append(lost(pair[0], 0.1 if found[-1] >= 1000 * holds_until else 0.9))
    assert found == [int(1000 * share) for share in shares]


def _keeps(recipe: lc.Recipe, sizes: Sizes, share: float) -> bool:
    return bool(recipe.steps) and getattr(recipe.steps[0], "keep", None) == sizes.keep(share) and len(recipe.steps) == 1


def test_it_is_tried_right_behind_the_one_that_lost_too_much(sizes: Sizes, monkeypatch: pytest.MonkeyPatch) -> None:
    def evaluate(self: Evaluates, recipe: lc.Recipe) -> Record:
        self.titles.append(recipe.title)
        paced.append((bool(recipe.steps) and getattr(recipe.steps[0], "keep", None) is not None, self.pacer and self.pacer.title))  # type: ignore[attr-defined]
        return lost(recipe, 0.0 if not recipe.steps or _keeps(recipe, sizes, 0.6) else 0.9)

    paced = list[tuple[bool, str | None]]()
    monkeypatch.setattr(Evaluates, "evaluate", evaluate)
    monkeypatch.setattr(walk, "measured", lambda *given: sizes)
    space = lc.SearchSpace(
        ("onnxruntime",), ("fp32",), quantize=(), without=("threads",), levers=("prune=solved-0.6", "prune=solved-0.4", "prune=0.5")
    )
    budget, evaluator = lc.Budget(max_drop=0.5), Evaluates(0.0)
    one = walk.Walk(evaluator, budget)  # type: ignore[arg-type]
    one.records.append(base())
    here = around()
    one.likeliest_first(propose(here, space), here, space)
    left = [sum(sizes.keep(share).values()) for share in (0.6, 0.4, 0.49, 0.542)]
    assert [title for title in evaluator.titles if "groups" in title] == [
        f"prune {len(sizes.keep(share))} groups to {n} components · ONNX Runtime · fp32"
        for share, n in zip((0.6, 0.4, 0.49, 0.542), left, strict=True)
    ]
    assert "50 %" in evaluator.titles[-1]
    # beside those with solved sizes the model as it is is timed, and beside nothing else, such as what is evaluated after the walk
    one._computed(next(record.made_by for record in one.records if record.recipe and _keeps(record.made_by, sizes, 0.6)))
    assert set(paced) == {(True, "ONNX Runtime · fp32"), (False, None)}
    assert evaluator.pacer is None  # type: ignore[attr-defined]


def test_tables_of_other_models_runtimes_and_ways_to_measure_are_others() -> None:
    ways = [("openvino", 1, 8, 0), ("openvino", 2, 8, 0), ("onnxruntime", 1, 8, 0), ("openvino", 1, 9, 0), ("openvino", 1, 8, 1)]
    names = [digest(CONV, lc.Target(runtime, threads=threads), Making(examples=n), seed) for runtime, threads, n, seed in ways]
    assert names[0] == names[1]  # layers are timed on one thread
    assert len(set(names)) == 4


def priced(program: lc.Program) -> None:
    """Let layers take as long as they have multiply-adds, in int8 half as long: what a run finds in the user's table is not timed again."""
    sizes = GroupSizes(couple(program))
    table = latency_table(lc.Target("onnxruntime"))
    shapes = distinct(sizes, choices(sizes, Making()))
    table.known = {"reference": 1.0} | {
        table.key(dataclasses.replace(shape, bits=bits)): shape.macs / (bits or 4) for shape in shapes for bits in (None, 8)
    }
    table.measured = 1
    table.keep()


def test_a_run_makes_a_table_and_tells_predicted_and_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    priced(CONV)
    space = lc.SearchSpace(("onnxruntime",), ("fp32",), threads=1, prune=("solved-0.6",), quantize=("static",))
    task = tiny.task()
    task.recovery = lc.FitPlan(epochs=1, batch_size=32)
    folder = tmp_path / "run"
    result = lc.optimize(task, {"max_drop": 100}, out=folder, space=space, options=tiny.QUICK)
    rows = [record for record in result.data["candidates"] if record["predicted"]]
    assert [row["predicted"]["precision"] for row in rows] == ["fp32", "int8"]
    for row in rows:
        told, (outcome, *_) = row["predicted"], row["outcomes"]
        assert 0.2 < told["share"] <= 0.6
        assert {group["name"]: group["after"] for group in told["groups"]} == {g["name"]: g["after"] for g in outcome["changed"]["groups"]}
        assert min(told["latency_ms"], told["measured_ms"], told["factor"], told["slowed"]) > 0
        (by,) = (record for record in result.data["candidates"] if record["key"] == row["pace"]["by"])
        assert (by["predicted"], by["recipe"]["deploy"]) == (None, row["recipe"]["deploy"])
        assert told["measured_loss"] == pytest.approx(outcome["changed"]["loss"][1] - outcome["changed"]["loss"][0])
    (file,) = (folder / "tables").glob("*.json")
    made = Table.from_json(json.loads(file.read_text(encoding="utf-8")))
    assert made.runtime == "onnxruntime"
    assert [cost.parts for cost in made.costs if cost.layers == ("the call",)] == [()]
    assert {name for cost in made.beside for name in cost.ms} == {"fp32", "int8"}  # both files were timed as a whole
    assert "moved" not in made.precisions
    assert result.data["spent"]["tables"] > 0


def test_a_table_that_is_there_is_not_measured_again_and_one_that_fails_is_told(tmp_path: Path, sizes: Sizes) -> None:
    told: list[str] = []

    class Builds:
        deadline: float | None = None
        asked = 0

        def size_table(self, target: lc.Target, making: Making, file: Path, wholes: object) -> None:
            self.asked += 1
            assert self.deadline is not None
            assert 0 < self.deadline - time.monotonic() < 30
            if self.asked == 1:
                raise WorkerFailed("the layers are gone")
            write_json(file, KNOWN.to_json())

    with RunStore(tmp_path / "run", {}) as store:
        progress = SimpleNamespace(log=told.append)
        ledger, builder, options = Ledger(), Builds(), SimpleNamespace(seed=0)
        evaluator: Any = SimpleNamespace(
            store=store, builder=builder, ledger=ledger, options=options, progress=progress, deadline=time.monotonic() + 100
        )
        evaluator.crew = SimpleNamespace(paused=nullcontext)
        best = lc.Recipe((ROUNDED,), lc.Target("onnxruntime"))
        assert measured(evaluator, CONV, best) is None
        assert told == ["sizes are not solved for: the layers are gone"]
        found = [measured(evaluator, CONV, one) for one in (best, lc.Recipe((), lc.Target("onnxruntime")))]
        assert [one and (one.precision, one.table.to_json()) for one in found] == [("int8", KNOWN.to_json()), ("fp32", KNOWN.to_json())]
        assert (builder.asked, builder.deadline) == (2, None)
        assert 0 < store.read("spent.json")["tables"] < 60


def test_without_a_table_the_rest_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(walk, "measured", lambda evaluator, program, best, making, records: asked.append((best.title, making.kinds)))
    monkeypatch.setattr(Evaluates, "evaluate", lambda self, recipe: timed(recipe, 5.0))
    one = walk.Walk(Evaluates(0.0), lc.Budget(max_drop=0.5))  # type: ignore[arg-type]
    one.records.append(base())
    space = lc.SearchSpace(("onnxruntime",), ("fp32",), quantize=(), without=("threads",), effort="high", trials=0)
    one.likeliest_first(propose(around(), space), around(), space)
    assert asked == [("ONNX Runtime · fp32", ("channels", "rank", "bits", "block"))]
    assert [record.title for record in one.records[1:]] == [
        f"{how}ONNX Runtime · fp32" for how in ("", "prune to 50 % of MACs · ", "prune to 30 % of MACs · ")
    ]


def test_the_milder_solved_share_comes_before_the_shares_of_multiply_adds() -> None:
    names = [setting.name for setting in levers()["prune"].choices]
    assert names == ["solved-0.6", "0.5", "solved-0.4", "0.3"]
