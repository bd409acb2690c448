"""The step: what it removes, how it recovers, and what it refuses."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import laconic as lc
from laconic.core.errors import BadInput, LaconicError
from laconic.pruning import structured
from laconic.pruning.surgery import remove
from tests.run import tiny


def task() -> lc.Task:
    """Three groups of channels, of 8, 12 and 16."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in ((1, 8), (8, 12), (12, 16)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
    return tiny.task(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)).eval())


@pytest.fixture(scope="module")
def program() -> lc.Program:
    return lc.capture(task().build(), torch.randn(2, 1, 8, 8))


@pytest.fixture
def context() -> lc.Context:
    return lc.Context(task(), lc.fit)


BASE = {"epochs": 0, "examples": 32, "batch_size": 16}


PLAN = {option.name for option in dataclasses.fields(lc.FitPlan)}


def prune_config(**options: Any) -> lc.Prune:
    """The options of `FitPlan` among these are those of its recovery."""
    options = {**BASE, **options}
    recovery = {name: value for name, value in options.items() if name in PLAN}
    return lc.Prune(**{name: value for name, value in options.items() if name not in PLAN}, recovery=recovery)


def pruned(program: lc.Program, context: lc.Context, **options: Any) -> tuple[lc.Program, lc.Outcome]:
    return lc.prune(program, prune_config(**options), context)  # type: ignore[operator, no-any-return]


@pytest.mark.parametrize(("goal", "share"), [("macs", 0.5), ("macs", 0.3), ("params", 0.4)])
@pytest.mark.parametrize("how", ["uniform", "global"])
def test_the_budget_is_kept_and_the_outcome_tells_it(program: lc.Program, context: lc.Context, goal: str, share: float, how: str) -> None:
    found, outcome = pruned(program, context, **{goal: share}, allocation=how)
    counts = {"macs": lc.count(found).macs, "params": lc.count(found).params}
    before = {"macs": lc.count(program).macs, "params": lc.count(program).params}
    assert outcome.changed[goal] == [before[goal], counts[goal]]
    assert 0.6 * share < counts[goal] / before[goal] <= share
    assert all(0 < group["after"] <= group["before"] for group in outcome.changed["groups"])
    assert outcome.changed["difference"] <= 1e-4


def test_to_keep_all_is_identity(program: lc.Program, context: lc.Context) -> None:
    found, outcome = pruned(program, context, macs=1.0)
    assert found.fingerprint() == program.fingerprint()
    assert found is not program
    assert all(group["after"] == group["before"] for group in outcome.changed["groups"])


def test_a_weight_norm_over_all_numbers_is_pruned_without_its_one_scale() -> None:
    net = nn.Sequential(weight_norm(nn.Linear(6, 16), dim=None), nn.ReLU(), nn.Linear(16, 2)).eval()
    _, outcome = lc.prune(lc.capture(net, torch.randn(4, 6)), prune_config(macs=0.5))
    assert outcome.changed["difference"] <= 1e-4
    assert outcome.changed["macs"] == [128, 64]


def test_latency_asks_for_the_price_of_layers(program: lc.Program, context: lc.Context) -> None:
    asked = []

    def price(layer: Any) -> float:
        asked.append(layer)
        return float(torch.tensor(layer.output).prod())

    context = dataclasses.replace(context, price=price)
    found, outcome = pruned(program, context, latency=0.6, allocation="latency", multiple=1)
    assert asked
    assert lc.count(found).macs < lc.count(program).macs
    assert outcome.changed["goal"] == "latency"
    with pytest.raises(BadInput, match="needs the time of layers"):
        pruned(program, lc.Context(task(), lc.fit), latency=0.6, allocation="latency")


@pytest.mark.parametrize("rounds", [1, 3])
def test_groups_that_are_named_keep_so_many_and_the_others_all(program: lc.Program, context: lc.Context, rounds: int) -> None:
    config = lc.Prune(keep={"0": 5, "6": 3}, rounds=rounds, examples=32, recovery={"epochs": 0})
    found, outcome = lc.prune(program, config, context)  # type: ignore[operator]
    assert [(group["name"], group["after"]) for group in outcome.changed["groups"]] == [("0", 5), ("3", 12), ("6", 3)]
    assert [tuple(found.get_parameter(f"{name}.weight").shape[:2]) for name in (0, 3, 6)] == [(5, 1), (12, 5), (3, 12)]
    assert (outcome.changed["keep"], outcome.changed["allocation"], outcome.title) == (
        config.keep,
        "given",
        "prune 2 groups to 8 components",
    )


def test_counts_that_no_group_can_keep_are_told_at_once(program: lc.Program, context: lc.Context) -> None:
    with pytest.raises(BadInput) as raised:
        pruned(program, context, keep={"0": 9, "33": 2, "6": 16})
    assert [line.strip() for line in str(raised.value).splitlines()[1:]] == [
        "'33' is no group of coupled channels. Did you mean '3'?",
        "0: 9 is not between 1 and 8, the number of its components",
    ]


def test_the_loss_before_recovery_is_that_of_the_same_examples(program: lc.Program, context: lc.Context) -> None:
    found, outcome = pruned(program, context, macs=0.4, examples=64)
    x, y = (torch.stack([torch.as_tensor(tiny.TRAIN[i][k]) for i in range(64)]) for k in (0, 1))
    expected = [float(F.cross_entropy(one(x).detach(), y)) for one in (program, found)]
    assert outcome.changed["loss"] == pytest.approx(expected, rel=1e-4)
    assert pruned(program, lc.Context(), macs=0.4)[1].changed["loss"] == []


def test_recovery_trains_in_rounds_and_lowers_the_loss(program: lc.Program, context: lc.Context) -> None:
    found, outcome = pruned(program, context, macs=0.4, rounds=2, epochs=5, lr=0.01, distill=0.0)
    epochs = outcome.changed["epochs"]
    assert [epoch["round"] for epoch in epochs] == [1, 1, 2, 2, 2]
    assert epochs[-1]["loss"] < epochs[0]["loss"]
    assert lc.count(found).macs <= 0.4 * lc.count(program).macs


def test_the_teacher_is_the_unpruned_program(program: lc.Program, context: lc.Context) -> None:
    """With soft targets alone, training brings the answers nearer to the teacher's."""
    x = torch.stack([tiny.TRAIN[i][0] for i in range(64)])
    teacher = program(x).softmax(-1).detach()

    def distance(epochs: int) -> float:
        found, _ = pruned(program, context, macs=0.5, epochs=epochs, lr=0.01, distill=1.0, temperature=1.0)
        return float(F.kl_div(found(x).log_softmax(-1), teacher, reduction="batchmean").detach())

    assert distance(8) < 0.5 * distance(0)


@pytest.mark.parametrize(
    "options",
    [
        {"criterion": "taylor"},
        {"allocation": "uniform"},
        {"floor": 0.75},
        {"multiple": 4},
        {"freeze": ("3",)},
        {"seed": 5, "criterion": "random"},
        {"rounds": 2, "epochs": 2},
        {"epochs": 1},
        {"epochs": 1, "distill": 1.0},
        {"epochs": 1, "distill": 1.0, "temperature": 9.0},
        {"params": 0.6, "macs": None},
    ],
    ids=str,
)
def test_every_option_changes_something(program: lc.Program, options: dict[str, Any]) -> None:
    def made(more: dict[str, Any]) -> str:
        config = prune_config(**{"macs": 0.6, "lr": 0.01, **more})
        return lc.prune(program, config, lc.Context(task(), lc.fit, seed=more.get("seed", 0)))[0].fingerprint()  # type: ignore[operator, no-any-return]

    plain = {key: value for key, value in {"criterion": "random", "epochs": 1}.items() if key in options and options[key] != value}
    plain |= {"epochs": 1} if "distill" in options else {}
    plain |= {"epochs": 1, "distill": 1.0} if "temperature" in options else {}
    assert made(options) != made(plain)


def test_hooks_reach_the_training(program: lc.Program, context: lc.Context) -> None:
    seen: list[float] = []
    config = prune_config(epochs=1)
    lc.prune(program, config, context, hooks=(lambda model, progress: seen.append(progress),))  # type: ignore[operator]
    assert seen[-1] == pytest.approx(1.0)


def test_recovery_can_regularize_the_groups_that_are_left(program: lc.Program, context: lc.Context) -> None:
    plain, lasso = (
        pruned(program, context, macs=0.6, epochs=1, lr=0.01, regularize=choice)[0] for choice in ((), (lc.Scaled("group_lasso", 0.1),))
    )
    assert plain.fingerprint() != lasso.fingerprint()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"macs": 0.0}, "macs: 0.0 is the share"),
        ({"macs": 1.5}, "1 at most"),
        ({"macs": 0.5, "params": 0.5}, "one of macs, params and latency"),
        ({"latency": 0.5}, "allocation 'latency'"),
        ({"macs": 0.5, "allocation": "latency"}, "allocation 'latency'"),
        ({"macs": 0.5, "criterion": "taylr"}, "taylor"),
        ({"macs": 0.5, "floor": 0.0}, "floor"),
        ({"macs": 0.5, "rounds": 0}, "rounds"),
        ({"keep": {"0": 4}, "macs": 0.5}, "keep: says how many components of each group stay, so macs has nothing to decide"),
        ({"keep": {"0": 4}, "allocation": "uniform"}, "so allocation has nothing to decide"),
        ({"keep": {}}, "keep: names no group"),
        ({"keep": {"0": 0}}, "keep.0: 0 must be 1 or more"),
        ({"keep": {"0": "4"}}, "keep: .* must be a mapping of a text to a whole number, or None"),
        ({"macs": 0.5, "recovery": {"temperature": 0.0}}, "recovery.temperature: 0.0 must be more than 0"),
        ({"macs": 0.5, "recovery": {"epoch": 1}}, "recovery.epoch: is no option of FitPlan. Did you mean 'epochs'"),
        ({"macs": 0.5, "recovery": {"lr": None}}, "recovery.lr: None is no value of it; leave it out"),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        lc.Prune(**options)


def test_what_cannot_be_done_is_said(program: lc.Program, context: lc.Context) -> None:
    with pytest.raises(BadInput, match="budget cannot be kept"):
        pruned(program, context, macs=0.01)
    with pytest.raises(BadInput, match=r"'33' is no module.*'3'"):
        pruned(program, context, freeze=("33",))
    with pytest.raises(BadInput, match="the step 'prune' trains"):
        lc.prune(program, lc.Prune(macs=0.5), lc.Task(task().model, None, tiny.VALID))  # type: ignore[operator]
    head = lc.capture(nn.Linear(4, 2).eval(), torch.randn(2, 4))
    with pytest.raises(BadInput, match=r"nothing can be removed: an output of the model"):
        lc.prune(head, lc.Prune(macs=0.5, recovery={"epochs": 0}))  # type: ignore[operator]


def test_a_program_that_differs_from_the_masked_one_stops_the_step(
    program: lc.Program, context: lc.Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = program.fingerprint()

    def wrong(coupling: Any, keep: Any) -> lc.Program:
        found = remove(coupling, keep)
        with torch.no_grad():
            found.get_parameter("0.weight").mul_(1.01)
        return found

    monkeypatch.setattr(structured, "remove", wrong)
    with pytest.raises(LaconicError, match="does not compute what the masked one does"):
        pruned(program, context, macs=0.5)
    assert program.fingerprint() == before
