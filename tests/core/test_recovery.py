"""How the rest recovers: which options come from where, and the rate that a range test finds."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import laconic as lc
from laconic.core.errors import BadInput
from laconic.core.plan import FitPlan, Scaled, completed
from laconic.core.rate import range_test
from laconic.core.recovery import recovery
from laconic.tasks.data import ArrayDataset

RNG = np.random.default_rng(0)
X = RNG.standard_normal((160, 2, 16)).astype(np.float32)
DATA = ArrayDataset(X, (X[:, 0].mean(1) > 0).astype(np.int64))
OWN = FitPlan(
    epochs=9, optimizer="sgd", lr=0.7, momentum=0.8, weight_decay=0.02, batch_size=20, augment=(Scaled("jitter"),), patience=3, distill=0.9
)
GIVEN = FitPlan(epochs=4, optimizer="rmsprop", lr=2e-4, batch_size=10, schedule="linear", grad_clip=1.0)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv1d(2, 8, 3), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 2)
    ).eval()


def task(**more: Any) -> lc.Task:
    return lc.Task(net(), DATA, DATA, loss=F.cross_entropy, batch_size=40, **more)


PLANS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    # of the task, of the step, what comes out
    "nothing said": ({}, {}, {"optimizer": "adamw", "batch_size": 40, "epochs": 1, "distill": 0.5, "augment": ()}),
    "from fit": (
        {"plan": OWN},
        {},
        {
            "optimizer": "sgd",
            "momentum": 0.8,
            "weight_decay": 0.02,
            "batch_size": 20,
            "augment": OWN.augment,
            "epochs": 1,
            "patience": None,
            "distill": 0.5,
        },
    ),
    "from recovery": ({"plan": OWN, "recovery": GIVEN}, {}, {**dataclasses.asdict(GIVEN), "distill": 0.5}),
    "recovery with a teacher's weight": ({"recovery": FitPlan(distill=0.9)}, {}, {"distill": 0.9}),
    "the step wins over recovery": (
        {"recovery": GIVEN},
        {"optimizer": "sgd", "lr": 0.5, "epochs": 2, "distill": 0.0, "augment": (Scaled("scaling"),)},
        {
            "optimizer": "sgd",
            "lr": 0.5,
            "epochs": 2,
            "distill": 0.0,
            "augment": (Scaled("scaling"),),
            "batch_size": 10,
            "schedule": "linear",
        },
    ),
    "the step wins over fit": ({"plan": OWN}, {"augment": (), "batch_size": 64}, {"augment": (), "batch_size": 64, "optimizer": "sgd"}),
}


@pytest.mark.parametrize(("of_task", "of_step", "plan"), PLANS.values(), ids=PLANS)
def test_the_step_goes_before_the_task(of_task: dict[str, Any], of_step: dict[str, Any], plan: dict[str, Any]) -> None:
    found = recovery(of_step, task(**of_task)).plan
    assert {name: getattr(found, name) for name in plan} == plan
    assert type(found) is FitPlan


@pytest.mark.parametrize(
    ("of_task", "of_step", "searched"),
    [
        ({}, {}, True),
        ({"plan": OWN}, {}, True),
        ({"plan": OWN}, {"lr": 0.1}, False),
        ({"recovery": GIVEN}, {}, False),
        ({}, {"lr": 1e-3}, False),
    ],
)
def test_a_rate_that_nobody_says_is_searched(of_task: dict[str, Any], of_step: dict[str, Any], searched: bool) -> None:
    assert recovery(of_step, task(**of_task)).searched is searched


def test_a_whole_plan_leaves_nothing_to_the_task() -> None:
    found = recovery(FitPlan(epochs=2), task(plan=OWN, recovery=GIVEN))
    assert (found.plan, found.source, found.searched) == (FitPlan(epochs=2), "step", False)
    assert found.note() == "recovery: adamw at a rate of 0.001 (as given)"


@pytest.mark.parametrize("base", [OWN, GIVEN], ids=["own", "given"])
def test_changes_are_completed_by_the_rest_of_a_plan(base: FitPlan) -> None:
    assert completed({"epochs": 8, "augment": ()}, base) == dataclasses.replace(base, epochs=8, augment=())
    assert completed(None, base) == base
    assert completed(GIVEN, base) == GIVEN


def test_changes_are_values() -> None:
    first, again = (lc.Prune(recovery={"epochs": 2, "augment": [Scaled("jitter")]}) for _ in range(2))
    assert first == again
    assert hash(first) == hash(again)
    assert first != lc.Prune(recovery={"epochs": 2})
    assert lc.Prune(recovery=dataclasses.asdict(FitPlan())) == lc.Prune(recovery=FitPlan())
    with pytest.raises(TypeError):
        first.recovery["epochs"] = 3  # type: ignore[index]


def test_nonsense_of_the_task_is_told_before_anything_is_done() -> None:
    with pytest.raises(BadInput, match="Task.recovery makes no sense:\n  lr: -1 must be more than 0"):
        recovery(None, task(recovery=FitPlan(lr=-1)))


class Seen:
    """`laconic.fit` that notes its plans."""

    def __init__(self) -> None:
        self.plans: list[FitPlan] = []

    def __call__(self, model: nn.Module, plan: FitPlan, *given: Any, **more: Any) -> Any:
        self.plans.append(plan)
        return lc.fit(model, plan, *given, **more)


def pruned(of_task: lc.Task, rounds: int = 1, **changes: Any) -> tuple[lc.Program, lc.Outcome, list[FitPlan]]:
    seen = Seen()
    program = lc.capture(of_task.build(), torch.from_numpy(X[:4]))
    config = lc.Prune(macs=0.6, examples=40, rounds=rounds, recovery=changes)
    found, outcome = lc.prune(program, config, lc.Context(of_task, seen))  # type: ignore[operator]
    return found, outcome, seen.plans


def test_pruning_trains_as_the_tasks_recovery_says() -> None:
    _, outcome, plans = pruned(task(plan=OWN, recovery=GIVEN))
    assert plans == [dataclasses.replace(GIVEN, distill=0.5)]
    told = outcome.changed["recovery"]
    assert (told["from"], told["lr"], told["optimizer"], told["range_test"]) == ("task.recovery", 2e-4, "rmsprop", None)
    assert len(outcome.changed["epochs"]) == 4
    assert outcome.notes == ("recovery: rmsprop at a rate of 0.0002 (of task.recovery); the rest is of task.recovery",)


def test_pruning_searches_its_rate_once_and_says_so() -> None:
    _, outcome, plans = pruned(task(plan=OWN), epochs=4, rounds=2)
    told = outcome.changed["recovery"]
    assert len(plans) == 3  # the range test, and two rounds
    assert [plan.lr for plan in plans[1:]] == [told["lr"]] * 2
    assert all((plan.optimizer, plan.augment, plan.batch_size) == ("sgd", OWN.augment, 20) for plan in plans)
    test = told["range_test"]
    assert test["chosen"] == told["lr"]
    assert test["steps"] >= 20
    assert test["losses"][1] <= min(test["losses"])
    assert f"sgd at a rate of {told['lr']:.2g} (from a range test), augmented by jitter" in outcome.notes[0]


def test_a_given_rate_is_not_searched() -> None:
    _, outcome, plans = pruned(task(), lr=0.01)
    assert [plan.lr for plan in plans] == [0.01]
    assert outcome.changed["recovery"]["given"] == ["lr"]


def test_without_recovery_nothing_is_searched_or_said() -> None:
    _, outcome, plans = pruned(task(), epochs=0)
    assert plans == []
    assert outcome.changed["recovery"] is None
    assert outcome.notes == ()


def test_the_search_is_the_same_every_time() -> None:
    first, again = (pruned(task(plan=OWN)) for _ in range(2))
    assert first[0].fingerprint() == again[0].fingerprint()
    assert first[1].changed["recovery"] == again[1].changed["recovery"]


def test_the_safe_rate_is_known_where_theory_knows_it() -> None:
    """Gradient descent on ½ c w² shrinks below a rate of 2 / c and grows beyond it, whatever c is: so the rate found goes with 1 / c."""
    safe = {}
    for curvature in (1.0, 10.0, 100.0):

        class Bowl(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.w = nn.Parameter(torch.ones(20))

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.w.square().sum() + 0 * x.sum()

        def fit(model: nn.Module, plan: FitPlan, factor: float = curvature, **more: Any) -> None:
            lc.fit(model, plan, train=DATA, loss=lambda out, y: 0.5 * factor * out, **more)

        plan = FitPlan(optimizer="sgd", momentum=0.0, batch_size=40)
        found = range_test(Bowl(), plan, fit, examples=160, low=1e-5 / curvature, high=1e2 / curvature, steps=100)
        safe[curvature] = found.safe * curvature
        assert 0.02 < safe[curvature] < 1
    assert max(safe.values()) < 1.5 * min(safe.values())


def test_a_range_test_rises_whatever_the_plans_schedule_is() -> None:
    """A plateau lowers the rate between epochs, and warm-up at the start: not here."""
    rates: list[float] = []
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    handle = register_optimizer_step_pre_hook(lambda optimizer, args, kwargs: rates.append(optimizer.param_groups[0]["lr"]))
    try:
        plan = FitPlan(optimizer="sgd", batch_size=80, schedule="plateau", warmup=0.3, accumulate=2)

        def train(model: nn.Module, plain: FitPlan, **more: Any) -> None:
            lc.fit(model, plain, train=DATA, loss=F.cross_entropy, **more)

        found = range_test(net(), plan, train, examples=160, high=1e-3, steps=30)
    finally:
        handle.remove()
    assert rates == pytest.approx(list(found.rates))
