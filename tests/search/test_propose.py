"""What is proposed, for which model, task, budget and target, in which order; and what follows a loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import laconic as lc
from laconic.core.errors import WorkerFailed
from laconic.core.progress import silent
from laconic.core.records import Measurement
from laconic.run.ledger import Ledger
from laconic.run.record import Reason, Record
from laconic.search import walk as walk_room
from laconic.search.lever import Surroundings
from laconic.search.levers import levers
from laconic.search.propose import follow_up, milder, propose, rivals, turn_of, with_fewer_threads
from laconic.search.space import baseline_recipe
from laconic.search.walk import Walk
from laconic.tasks import models
from laconic.tasks.models import DataShape
from tests.core.models import ConvNet, Recurrent
from tests.run import tiny

CONV = lc.capture(ConvNet(), torch.randn(2, 1, 8, 8))
LSTM = lc.capture(Recurrent(), torch.randn(2, 5, 6))
MLP = lc.capture(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(2, 4))
TRAINABLE = dataclasses.replace(tiny.task(), loss=F.cross_entropy)
UNTRAINABLE = dataclasses.replace(TRAINABLE, train=None)
ALL_READY = ("onnxruntime", "openvino", "torch")  # runtimes that start at once here


def around(program: lc.Program = CONV, task: lc.Task = TRAINABLE, **budget: Any) -> Surroundings:
    return Surroundings(program, task, lc.Budget(max_drop=0.5, **budget))


def titles(recipes: Sequence[lc.Recipe]) -> list[str]:
    return [recipe.title for recipe in recipes]


def steps(recipes: Sequence[lc.Recipe]) -> set[str]:
    """The recipes' steps in words, without runtime and numerics."""
    return {" · ".join(recipe.title.split(" · ")[: len(recipe.steps)]) for recipe in recipes}


# Written down from `laconic optimize digits` before levers were rows: kinds of candidates by runtime, on a processor without bf16 or with it.
BEFORE = {
    *((name, "") for name in ("onnxruntime", "openvino", "torchscript", "torch", "torch.compile")),
    ("torch", "fold batch norm"),
    *((name, kind) for name in ("onnxruntime", "openvino") for kind in (
        "quantize static",
        "prune to 50 % of MACs", "prune to 50 % of MACs · quantize static",
        "prune to 30 % of MACs", "prune to 30 % of MACs · quantize static",
    )),
}  # fmt: skip


def test_the_demo_tries_what_it_did() -> None:
    net = lc.capture(models.build("resnet8", DataShape("image", (1, 8, 8), 10), 0), torch.randn(2, 1, 8, 8))
    recipes = propose(around(net), lc.SearchSpace())
    tried = {(recipe.deploy.runtime, " · ".join(recipe.title.split(" · ")[: len(recipe.steps)])) for recipe in recipes}
    bare = {("torch", "")}  # in fp32 the baseline itself, in bf16 a candidate
    assert tried | bare == BEFORE
    assert len({recipe.key for recipe in recipes}) == len(recipes)


def test_the_likeliest_comes_first_and_training_last() -> None:
    recipes = propose(around(), lc.SearchSpace())
    assert [turn_of(recipe) for recipe in recipes] == sorted(map(turn_of, recipes))
    trains = [any(isinstance(step, lc.Prune) for step in recipe.steps) for recipe in recipes]
    assert trains == sorted(trains)
    free = [(r.deploy.runtime, bool(r.steps)) for r, training in zip(recipes, trains, strict=True) if not training]
    quick = [("onnxruntime", False), ("openvino", False), ("onnxruntime", True), ("openvino", True)]  # as they are, then in integers
    assert [one for one in free if free.index(one) < len(quick)][:4] == quick
    slow = {"torch", "torch.compile"}
    assert {runtime for runtime, _ in free[-len([one for one in free if one[0] in slow]) :]} == slow
    trained = [recipe.steps[0].macs for recipe, training in zip(recipes, trains, strict=True) if training]
    assert trained == sorted(trained, reverse=True)  # the milder share everywhere first


def test_a_row_says_its_promise() -> None:
    """What a lever's row says moves its candidates; the least promising lever of a candidate counts."""

    def turn(runtime: str, *steps: Any) -> Any:
        return turn_of(lc.Recipe(steps, lc.Target(runtime)))

    static = lc.Quantize(mode="static", target="openvino")
    assert turn("openvino") < turn("openvino", static) < turn("torchscript") < turn("torch.compile") < turn("openvino", lc.Prune(macs=0.5))
    assert turn("torch", static)[1] == turn("torch.compile")[1] > turn("torchscript")[1]


def test_the_baseline_is_no_candidate() -> None:
    assert [r for r in propose(around(), lc.SearchSpace(threads=2)) if not r.steps and r.deploy == lc.Target("torch", "fp32", 2)] == []


def test_static_goes_to_every_runtime_with_integer_kernels() -> None:
    def rounded(*runtimes: str) -> set[tuple[str, str]]:
        recipes = propose(around(), lc.SearchSpace(runtimes or None, ("fp32",), levers=("quantize=static",)))
        return {(recipe.steps[0].target, recipe.deploy.runtime) for recipe in recipes if recipe.steps}

    assert rounded() == {(name, name) for name in ("onnxruntime", "openvino")}
    assert rounded("torch", "openvino") == {("openvino", "openvino")}


@pytest.mark.parametrize(
    ("program", "offered"), [(CONV, False), (LSTM, True), (MLP, True)], ids=["convolutions", "recurrent", "linear layers"]
)
def test_dynamic_is_for_recurrent_and_linear_layers(program: lc.Program, offered: bool) -> None:
    space = lc.SearchSpace(("onnxruntime",), ("fp32",), levers=("quantize=dynamic",))
    assert ("quantize dynamic" in steps(propose(around(program), space))) is offered


def test_four_bits_are_for_linear_layers() -> None:
    space = lc.SearchSpace(("onnxruntime",), ("fp32",), quantize=("weights", "weights4"), prune=())
    assert steps(propose(around(MLP), space)) == {"", "quantize weights", "quantize weights int4"}
    assert steps(propose(around(CONV), space)) == {"", "quantize weights"}


@pytest.mark.parametrize(
    ("budget", "space", "offered"),
    [({}, {}, False), ({"objective": "size"}, {}, True), ({"max_size_mb": 1}, {}, True), ({}, {"quantize": ("weights",)}, True),
     ({}, {"levers": ("quantize",)}, False), ({}, {"levers": ("quantize=weights",)}, True)],
    ids=["speed", "size", "a largest size", "named", "its lever named", "named among levers"],
)  # fmt: skip
def test_weights_alone_are_tried_where_the_size_counts(budget: dict[str, Any], space: dict[str, Any], offered: bool) -> None:
    assert ("quantize weights" in steps(propose(around(**budget), lc.SearchSpace(ALL_READY, ("fp32",), **space)))) is offered


@pytest.mark.parametrize(
    ("budget", "space", "where"),
    [
        ({"objective": "size"}, {}, {"onnxruntime"}), ({"objective": "macs", "max_size_mb": 1}, {}, {"onnxruntime"}),
        ({"objective": "size", "max_latency_ms": 1}, {}, set(ALL_READY)), ({"objective": "memory"}, {}, set(ALL_READY)),
        ({"objective": "size"}, {"runtimes": ("openvino", "torch")}, {"openvino", "torch"}), ({"objective": "size"}, {"levers": ("openvino",)}, {"openvino"}),
    ],
    ids=["size", "counts and size", "size and time", "memory", "runtimes asked for", "one asked for"],
)  # fmt: skip
def test_what_is_alike_everywhere_is_tried_once(budget: dict[str, Any], space: dict[str, Any], where: set[str]) -> None:
    """Of a budget about files and answers: in one runtime and one precision, each candidate once."""
    recipes = propose(around(**budget), lc.SearchSpace(**space))
    assert {recipe.deploy.runtime for recipe in recipes} & set(ALL_READY) == where
    if where == {"onnxruntime"}:
        assert {recipe.deploy for recipe in recipes} == {lc.Target("onnxruntime", "fp32")}


def test_pruning_is_for_tasks_that_can_recover() -> None:
    space = lc.SearchSpace(("onnxruntime", "torch"), ("fp32",), prune=(0.5,))
    pruned = [r for r in propose(around(), space) if r.steps and isinstance(r.steps[0], lc.Prune)]
    assert [[type(step) for step in recipe.steps] for recipe in pruned] == [[lc.Prune], [lc.Prune, lc.Quantize]]
    assert {recipe.deploy.runtime for recipe in pruned} == {"onnxruntime"}
    assert all(recipe.steps[0].macs == 0.5 for recipe in pruned)
    assert not any(isinstance(r.steps[0], lc.Prune) for r in propose(around(task=UNTRAINABLE), space) if r.steps)


def test_trained_models_are_tried_where_they_are_quick_and_else_anywhere() -> None:
    def where(*runtimes: str) -> list[tuple[str, str]]:
        recipes = propose(around(), lc.SearchSpace(runtimes, levers=("prune=0.5",)))
        return [(r.deploy.runtime, r.deploy.precision) for r in recipes if r.steps]

    assert where("openvino", "torch") == [("openvino", "fp32")]
    assert where("torch", "torchscript") == [("torchscript", "fp32"), ("torch", "fp32")]


def test_recovery_takes_as_many_steps_as_are_wanted_unless_the_task_says_it() -> None:
    space = lc.SearchSpace(("onnxruntime",), ("fp32",), levers=("prune=0.5",))
    step = propose(around(), space)[-1].steps[0]
    assert step.recovery == {"epochs": 20}  # little data: more epochs, for as many steps
    own = dataclasses.replace(TRAINABLE, recovery=lc.FitPlan(epochs=7, lr=1e-4, batch_size=8))
    step = propose(around(task=own), space)[-1].steps[0]
    assert step.recovery is None


def test_chains_follow_the_stages_and_have_one_setting_of_each() -> None:
    space = lc.SearchSpace(("openvino",), ("fp32",), levers=("quantize=static", "quantize=dynamic", "prune=0.7", "student=lenet5"))
    assert steps(propose(around(MLP), space)) == {
        "",
        "quantize static",
        "quantize dynamic",
        "prune to 70 % of MACs",
        "prune to 70 % of MACs · quantize static",
        "prune to 70 % of MACs · quantize dynamic",
        "student lenet5 · fit",
        "student lenet5 · fit · quantize static",
        "student lenet5 · fit · quantize dynamic",
        "student lenet5 · fit · prune to 70 % of MACs",
        "student lenet5 · fit · prune to 70 % of MACs · quantize static",
        "student lenet5 · fit · prune to 70 % of MACs · quantize dynamic",
    }


def test_two_trainings_are_only_for_who_asks_for_both() -> None:
    def both(**space: Any) -> bool:
        return "prune to 50 % of MACs · qat" in steps(propose(around(), lc.SearchSpace(("openvino",), ("fp32",), **space)))

    assert both(levers=("prune", "qat"))
    assert not both()
    assert not both(quantize=("qat",))  # pruning was not asked for


@pytest.mark.parametrize("name", ["fit", "drop_blocks", "student=lenet5"])
def test_what_is_not_tried_by_itself_is_reached_by_its_name(name: str) -> None:

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.relu(self.fc(x))

    program = lc.capture(nn.Sequential(*(Residual() for _ in range(3)), nn.Linear(8, 2)), torch.randn(2, 8))
    asked = propose(around(program), lc.SearchSpace(("onnxruntime",), ("fp32",), levers=(name,)))
    step = {"fit": lc.Fit, "drop_blocks": lc.DropBlocks, "student=lenet5": lc.Student}[name]
    assert {type(recipe.steps[0]) for recipe in asked if recipe.steps} == {step}
    assert not any(isinstance(s, step) for r in propose(around(program), lc.SearchSpace(("onnxruntime",), ("fp32",))) for s in r.steps[:1])


# What follows a loss -----------------------------------------------------------------------------------------------------------------


def judged(recipes: Sequence[lc.Recipe], drops: dict[str, tuple[str, float]]) -> list[Record]:
    """Records of recipes, with status and drop by the steps in words."""
    said = [drops.get(next(iter(steps([recipe]))), ("passed", 0.0)) for recipe in recipes]
    return [
        Record.of(recipe, status=status).with_measured(drop=Measurement(drop, "points"))
        for recipe, (status, drop) in zip(recipes, said, strict=True)
    ]


@pytest.mark.parametrize(
    ("drop", "status", "task", "proposed"),
    [
        (0.0, "passed", TRAINABLE, []),
        (0.4, "passed", TRAINABLE, ["quantize mixed", "qat"]),
        (3.0, "rejected", TRAINABLE, ["quantize mixed", "qat"]),
        (3.0, "rejected", UNTRAINABLE, ["quantize mixed"]),
        (3.0, "failed", TRAINABLE, []),
    ],
    ids=["nothing lost", "lost a little", "rejected", "no train data", "failed"],
)
def test_what_was_lost_is_to_be_won_back(drop: float, status: str, task: lc.Task, proposed: list[str]) -> None:
    space, here = lc.SearchSpace(("openvino",), ("fp32",), prune=()), around(task=task)
    records = judged(propose(here, space), {"quantize static": (status, drop)})
    followers = follow_up(here, space, [Record("base", "", {}), *records])
    assert [recipe.title.split(" · ")[0] for recipe in followers] == proposed
    assert all(recipe.steps[0].target == "openvino" for recipe in followers)


@pytest.mark.parametrize(
    ("pruned", "both", "follows"),
    [(0.2, 0.4, True), (0.2, 0.2, False), (0.9, 1.2, False)],
    ids=["rounding lost more", "pruning lost it all", "pruning lost too much"],
)
def test_behind_pruning_only_what_rounding_lost_is_won_back(pruned: float, both: float, follows: bool) -> None:
    space, prune = lc.SearchSpace(("openvino",), ("fp32",), prune=(0.5,)), "prune to 50 % of MACs"
    records = judged(propose(around(), space), {prune: ("passed", pruned), f"{prune} · quantize static": ("passed", both)})
    assert titles(follow_up(around(), space, records)) == [f"{prune} · quantize mixed · OpenVINO · int8"] * follows


@pytest.mark.parametrize(("rule", "follows"), [("metric", True), ("budget:max_packed_mb", False), ("budget:max_size_mb", False)])
def test_what_is_too_large_is_not_worth_winning_back(rule: str, follows: bool) -> None:
    space = lc.SearchSpace(("openvino",), ("fp32",), prune=())
    records = judged(propose(around(), space), {"quantize static": ("rejected", 3.0)})
    records = [
        record.replace(reasons=(Reason(rule, "it is more than that"),)) if record.status == "rejected" else record for record in records
    ]
    assert bool(follow_up(around(), space, records)) == follows


@pytest.mark.parametrize(
    ("space", "proposed"),
    [
        ({"quantize": ("static",)}, []),
        ({"quantize": ("static", "mixed")}, ["quantize mixed"]),
        ({"without": ("qat",)}, ["quantize mixed"]),
        ({"levers": ("quantize",)}, []),
        ({"levers": ("quantize", "qat")}, ["qat"]),
    ],
    ids=str,
)
def test_only_what_may_be_tried_follows(space: dict[str, Any], proposed: list[str]) -> None:
    chosen = lc.SearchSpace(("openvino",), ("fp32",), **space)
    records = judged(propose(around(), chosen), {"quantize static": ("rejected", 3.0)})
    assert [title.split(" · ")[0] for title in titles(follow_up(around(), chosen, records))] == proposed


def test_what_follows_is_tried_at_once_where_nothing_is_there_to_follow() -> None:
    asked = lc.SearchSpace(("openvino",), ("fp32",), levers=("qat",))
    assert steps(propose(around(), asked)) == {"", "qat"}
    left = lc.SearchSpace(("openvino",), ("fp32",), without=("quantize", "prune"))
    assert steps(propose(around(), left)) == {""}


def test_recipes_without_a_target_do_not_share_files_between_runtimes() -> None:
    def key(target: str | None, runtime: str) -> Any:
        return lc.Recipe((lc.Quantize(target=target),), lc.Target(runtime)).steps_key

    assert key(None, "openvino") != key(None, "onnxruntime")
    assert key("openvino", "openvino") == key("openvino", "onnxruntime")


class Evaluates:
    """Stands for the evaluator: keeps what it is given and answers with the same drop."""

    def __init__(self, drop: float) -> None:
        self.drop, self.titles = drop, list[str]()
        self.progress, self.ledger, self.task = silent, Ledger(), tiny.task()
        self.store = SimpleNamespace(has=lambda name: False, push=lambda: None)

    best = deadline = None

    def expect(self, recipes: Sequence[lc.Recipe]) -> None:
        """Build nothing ahead."""

    def compare(self, records: list[Record], keys: Sequence[str]) -> tuple[list[Record], dict[str, Any]]:
        """Find what was found before."""
        return records, {}

    def evaluate(self, recipe: lc.Recipe) -> Record:
        self.titles.append(recipe.title)
        return Record.of(recipe).with_measured(drop=Measurement(self.drop, "points"))


@pytest.mark.parametrize("drop", [0.0, 0.4], ids=["nothing lost", "lost a little"])
def test_what_follows_has_its_turn_by_its_cost_too(drop: float) -> None:
    space, evaluator = lc.SearchSpace(("openvino",), ("fp32",), prune=(0.5,), without=("threads",)), Evaluates(drop)
    chosen = propose(around(), space)
    walk = Walk(evaluator, lc.Budget(max_drop=0.5))  # type: ignore[arg-type]
    walk.records.append(Record("base", "", {}))
    walk.likeliest_first(chosen, around(), space)
    expected = ["OpenVINO · fp32", "quantize static · OpenVINO · int8", "quantize mixed · OpenVINO · int8", "prune to 50 % of MACs · OpenVINO · fp32",
                "prune to 50 % of MACs · quantize static · OpenVINO · int8", "qat · OpenVINO · int8"]  # fmt: skip
    assert evaluator.titles == [title for title in expected if drop or ("mixed" not in title and "qat" not in title)]
    assert [record.title for record in walk.records[1:]] == evaluator.titles
    assert walk.untried() == []


class Speeds(Evaluates):
    """Answers with the speed-up that its runtime has on so many threads."""

    def __init__(self, speeds: Mapping[tuple[str, int | None], float]) -> None:
        super().__init__(0.0)
        self.speeds = speeds

    def evaluate(self, recipe: lc.Recipe) -> Record:
        speed = self.speeds[recipe.deploy.runtime, recipe.deploy.threads]
        return super().evaluate(recipe).replace(baseline="torch-fp32").with_measured(speedup=Measurement(speed, "x", low=speed, high=speed))


@pytest.mark.parametrize("won", [True, False], ids=["one thread is faster", "one thread is slower"])
def test_what_is_fast_is_tried_on_fewer_threads_and_trained_models_keep_what_won(won: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("laconic.deploy.runtime.cores", lambda: 2)
    speeds = {("onnxruntime", None): 4.0, ("openvino", None): 3.0, ("torchscript", None): 1.5, ("torch", 1): 1.1, ("openvino", 1): 2.0}
    evaluator = Speeds({**speeds, ("onnxruntime", 1): 5.0 if won else 3.9})
    space = lc.SearchSpace(("onnxruntime", "openvino", "torchscript"), ("fp32",), quantize=(), prune=(0.5,))
    walk = Walk(evaluator, lc.Budget(max_drop=0.5))  # type: ignore[arg-type]
    walk.records.append(Record.of(baseline_recipe(None, "cpu"), status="baseline"))
    walk.likeliest_first(propose(around(), space), around(), space)
    fewer = [title for title in evaluator.titles if title.endswith("1 thread") and "prune" not in title]
    assert sorted(fewer) == ["ONNX Runtime · fp32 · 1 thread", "OpenVINO · fp32 · 1 thread", "PyTorch eager · fp32 · 1 thread"]
    pruned = [title for title in evaluator.titles if "prune" in title]
    assert pruned == [f"prune to 50 % of MACs · ONNX Runtime · fp32{' · 1 thread' * won}", "prune to 50 % of MACs · OpenVINO · fp32"]
    assert walk.around is not None
    assert walk.around.threads == ({"onnxruntime": 1} if won else {})


@pytest.mark.parametrize(("objective", "first"), [("latency", "OpenVINO"), ("size", "ONNX Runtime")])
def test_what_trains_is_tried_in_the_fastest_runtime_first_where_speed_is_the_aim(objective: str, first: str) -> None:
    speeds = {("onnxruntime", None): 3.0, ("openvino", None): 4.0, ("torch", 1): 1.0}
    space = lc.SearchSpace(("onnxruntime", "openvino"), ("fp32",), quantize=(), prune=(0.5, 0.3), without=("threads",))
    budget, evaluator = lc.Budget(max_drop=0.5, objective=objective), Speeds(speeds)
    walk = Walk(evaluator, budget)  # type: ignore[arg-type]
    walk.records.append(Record.of(baseline_recipe(None, "cpu"), status="baseline"))
    walk.likeliest_first(propose(around(), space), around(), space)
    runtimes = [title.rsplit(" · ")[-2] for title in evaluator.titles if "prune" in title]
    assert runtimes == [first] * 2 + [{"OpenVINO": "ONNX Runtime", "ONNX Runtime": "OpenVINO"}[first]] * 2


@pytest.mark.parametrize(
    ("space", "budget", "cores"),
    [({"threads": 2}, {}, 2), ({"without": ("threads",)}, {}, 2), ({}, {"objective": "size"}, 2), ({}, {}, 1), ({"device": "cuda"}, {}, 2)],
    ids=["threads are given", "left out", "the size is to be best", "one core", "on a GPU"],
)
def test_threads_are_as_they_are(space: dict[str, Any], budget: dict[str, Any], cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("laconic.deploy.runtime.cores", lambda: cores)
    records = [Record.of(baseline_recipe(None, "cpu")), Record.of(lc.Recipe(), baseline="torch-fp32").with_measured(speedup=2.0)]
    assert with_fewer_threads(around(**budget), lc.SearchSpace(**space), records) == []


def test_who_may_be_the_fastest_in_truth_is_the_fastest_of_each_runtime_and_number_of_threads() -> None:
    def one(runtime: str, speed: float, status: str = "passed", threads: int | None = None, steps: Sequence[Any] = ()) -> Record:
        recipe = lc.Recipe(tuple(steps), lc.Target(runtime, threads=threads))
        return Record.of(recipe, baseline="base", status=status).with_measured(speedup=Measurement(speed, "x"))

    rounded = (lc.Quantize(),)
    best, slower, single = one("openvino", 4.0, steps=rounded), one("openvino", 3.0), one("openvino", 2.1, threads=1)
    large, far = one("onnxruntime", 5.0, "rejected"), one("torchscript", 1.9)
    assert set(rivals(best.made_by, [best, slower, single, large, far])) == {best.key, single.key}
    assert set(rivals(large.made_by, [large, one("torchscript", 2.4, "rejected"), one("torch", 2.6, "rejected")])) == {
        large.key,
        "torch-fp32",
    }


@pytest.mark.parametrize(
    ("objective", "works", "best"),
    [("latency", True, "ONNX Runtime · fp32"), ("latency", False, "OpenVINO · fp32"), ("size", True, None)],
    ids=["together", "where they cannot be timed", "where time does not decide"],
)
def test_sizes_are_solved_for_who_is_fastest_when_all_are_timed_together(
    objective: str, works: bool, best: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In minutes of their own, OpenVINO looked faster; beside each other, ONNX Runtime is."""
    told: list[tuple[str, list[str]]] = []

    class Truly(Speeds):
        def compare(self, records: list[Record], keys: Sequence[str]) -> tuple[list[Record], dict[str, Any]]:
            truly = {"onnxruntime-fp32": 5.0, "openvino-fp32": 4.0}
            told.append(("compared", sorted(keys)))
            if not works:
                raise WorkerFailed("the baseline is gone")
            return [one.with_measured(speedup=Measurement(truly[one.key], "x")) if one.key in truly else one for one in records], {}

    monkeypatch.setattr(walk_room, "measured", lambda evaluator, program, best, *more: told.append(("sizes", [best.title])))
    evaluator = Truly({("onnxruntime", None): 3.0, ("openvino", None): 4.0, ("torch", 1): 1.0})
    space = lc.SearchSpace(("onnxruntime", "openvino"), ("fp32",), quantize=(), without=("threads",), prune=("solved-0.6",))
    walk = Walk(evaluator, lc.Budget(max_drop=0.5, objective=objective))  # type: ignore[arg-type]
    walk.records.append(Record.of(baseline_recipe(None, "cpu"), status="baseline"))
    walk.likeliest_first(propose(around(), space), around(), space)
    compared = [("compared", ["onnxruntime-fp32", "openvino-fp32"])]
    assert [one for one in told if one[0] == "compared"] == (compared if objective == "latency" else [])
    assert best is None or told[1:] == [("sizes", [best])]
    assert [record.value("speedup") for record in walk.records[1:]] == [3.0, 4.0]


def test_on_fewer_threads_is_tried_what_may_ship(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("laconic.deploy.runtime.cores", lambda: 2)
    target = lc.Target("onnxruntime")
    large, small, slow = (lc.Recipe(steps, target) for steps in ((lc.Quantize(),), (lc.Quantize(mode="dynamic"),), ()))
    found = ((large, "rejected", 5.0), (small, "passed", 4.0), (slow, "passed", 2.0))
    records = [
        Record.of(recipe, baseline="base", status=status).with_measured(speedup=Measurement(speed, "x")) for recipe, status, speed in found
    ]
    titles = [recipe.title for recipe in with_fewer_threads(around(), lc.SearchSpace(), records)]
    assert titles == ["PyTorch eager · fp32 · 1 thread", "quantize dynamic · ONNX Runtime · int8 · 1 thread"]
    titles = [recipe.title for recipe in with_fewer_threads(around(), lc.SearchSpace(), records[:1])]
    assert titles[1:] == ["quantize static · ONNX Runtime · int8 · 1 thread"]


def test_what_a_walk_did_not_reach_is_known_at_any_moment() -> None:
    class Stops(Evaluates):
        def evaluate(self, recipe: lc.Recipe) -> Record:
            if len(self.titles) == 1:
                raise KeyboardInterrupt
            return super().evaluate(recipe)

    space = lc.SearchSpace(("openvino",), ("fp32",), prune=())
    walk = Walk(Stops(0.0), lc.Budget(max_drop=0.5))  # type: ignore[arg-type]
    base = Record.of(baseline_recipe(None, "cpu"), status="baseline")
    walk.records.append(base)
    with pytest.raises(KeyboardInterrupt):
        walk.likeliest_first(propose(around(), space), around(), space)
    assert [record.title for record in walk.records[1:]] == ["OpenVINO · fp32"]
    (left,) = walk.untried()
    assert (left.title, left.status, left.baseline) == ("quantize static · OpenVINO · int8", "not_tried", base.key)


def test_what_promises_most_is_another_one_on_another_device() -> None:
    def turn(runtime: str, precision: str, device: str) -> Any:
        return turn_of(lc.Recipe((), lc.Target(runtime, precision, device=device)))

    assert turn("torch.compile", "fp32", "cpu") > turn("onnxruntime", "fp32", "cpu")
    assert turn("torch.compile", "bf16", "cuda") <= turn("onnxruntime", "fp32", "cuda")
    with pytest.raises(lc.BadInput, match="promise: 'great'"):
        lc.Lever("mine", "does nothing", stage="runtime", promises={"cuda": "great"})


def test_a_student_is_trained_as_the_task_says_how_nets_are() -> None:
    def plan(**given: Any) -> lc.FitPlan:
        row = levers()["student"]
        setting = row.setting("lenet5")
        assert setting is not None
        return row.steps(setting, around(task=dataclasses.replace(TRAINABLE, **given)))[1].plan  # type: ignore[attr-defined,no-any-return]

    own, recovery = lc.FitPlan(epochs=7, lr=0.3), lc.FitPlan(epochs=5, lr=0.2, distill=0.9)
    hinted = dataclasses.replace(recovery, hints=(lc.Hint("hidden", "encoder.layer.*"),))  # of paths that the student need not have
    assert plan(recovery=recovery) == plan(recovery=hinted) == recovery
    assert (plan(plan=own, recovery=recovery).epochs, plan().batch_size) == (7, TRAINABLE.batch_size)


class Drops(Evaluates):
    """Answers with the drop that pruning to so much has; what lost more than half a point is rejected."""

    def __init__(self, drops: Mapping[float, float]) -> None:
        super().__init__(0.0)
        self.drops = drops

    def evaluate(self, recipe: lc.Recipe) -> Record:
        (self.drop,) = [self.drops[step.macs] for step in recipe.steps if isinstance(step, lc.Prune) and step.macs]
        record = super().evaluate(recipe)
        return record.replace(status="rejected", reasons=(Reason("metric", "too much"),)) if self.drop > 0.5 else record


HALF, THIRD = ([f"prune to {share} % of MACs{then}" for then in ("", " · quantize static")] for share in (50, 30))


@pytest.mark.parametrize(
    ("drop", "order"),
    [
        (0.2, [HALF[0], THIRD[0], HALF[1], THIRD[1]]),  # it lost little: on to the harsher one
        (0.4, [*HALF, *THIRD]),  # in the order of the table
        (0.9, [*HALF, *THIRD]),
    ],
)
def test_the_next_harsher_setting_follows_what_lost_little(drop: float, order: list[str]) -> None:
    walk = Walk(Drops({0.5: drop, 0.3: 0.9}), lc.Budget(max_drop=0.5))  # type: ignore[arg-type]
    walk.records.append(Record.of(baseline_recipe(None, "cpu"), status="baseline"))
    space = lc.SearchSpace(("openvino",), ("fp32",), levers=("prune", "prune=0.2", "quantize=static"))
    walk._milder = milder(around(), space)
    trained = [recipe for recipe in propose(around(), space) if recipe.title.startswith((HALF[0], THIRD[0]))]
    walk._expect(trained)
    walk._evaluate_by_turns(trained, space)
    assert [record.title for record in walk.records[1:]] == [
        f"{title} · OpenVINO · {'int8' if 'quantize' in title else 'fp32'}" for title in order
    ]


def test_shares_of_as_many_blocks_are_one_recipe() -> None:
    row, setting = levers()["drop_blocks"], levers()["drop_blocks"].choices[0]
    here = around(lc.capture(models.build("resnet20", DataShape("image", (1, 16, 16), 10), 0), torch.randn(2, 1, 16, 16)))
    shares = [row.steps(setting.with_options(least=least), here)[0].least for least in (0.26, 0.3, 0.33, 0.5)]
    assert shares == [0.286, 0.286, 0.286, 0.571]  # two, and four, of seven
