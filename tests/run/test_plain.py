"""Configs as plain values and back: plans of training whole and in part, and each mistake with its place."""

from __future__ import annotations

from typing import Any

import pytest

import laconic as lc
from laconic.run.plain import from_plain, to_plain

CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "nothing said": (lc.Prune(), {}),
    "some options": (lc.Prune(macs=0.5, recovery={"epochs": 3, "lr": 1e-3}), {"macs": 0.5, "recovery": {"epochs": 3, "lr": 1e-3}}),
    "an option that equals the default": (lc.Prune(recovery={"epochs": 1}), {"recovery": {"epochs": 1}}),
    "an option without a value": (lc.Qat(recovery={"grad_clip": None}), {"recovery": {"grad_clip": None}}),
    "rows of tables": (
        lc.Prune(recovery={"augment": (lc.Scaled("jitter", 0.5),)}),
        {"recovery": {"augment": [{"name": "jitter", "strength": 0.5}]}},
    ),
    "a plan that is always there": (lc.Fit(lc.FitPlan(epochs=2)), {"plan": {"epochs": 2}}),
    "the default plan": (lc.Fit(), {}),
}


@pytest.mark.parametrize(("config", "plain"), CASES.values(), ids=CASES)
def test_a_config_goes_and_comes_back(config: Any, plain: dict[str, Any]) -> None:
    assert to_plain(config) == plain
    mistakes: list[str] = []
    assert from_plain(type(config), plain, "here", mistakes) == config
    assert mistakes == []


@pytest.mark.parametrize("kind", [lc.Prune, lc.Qat])
def test_a_whole_plan_stays_whole(kind: Any) -> None:
    config = kind(recovery=lc.FitPlan(epochs=2))
    plain = to_plain(config)
    assert plain["recovery"]["distill"] == 0.0  # which only a whole plan says
    assert from_plain(kind, plain, "here", []) == config


MISTAKES: dict[str, tuple[Any, dict[str, Any], str]] = {
    "the old place of an option": (
        lc.Prune,
        {"epochs": 3},
        "here.epochs: is an option of the training, which has a place of its own: write recovery: {epochs: 3}",
    ),
    "of a plan that is always there": (lc.Fit, {"lr": 0.1}, "write plan: {lr: 0.1}"),
    "an unknown option of the plan": (lc.Prune, {"recovery": {"epoch": 1}}, "here.recovery.epoch: unknown option. Did you mean 'epochs'?"),
    "a wrong type": (lc.Qat, {"recovery": {"epochs": "many"}}, "here.recovery.epochs: 'many'"),
    "a number out of range": (lc.Qat, {"recovery": {"lr": -1}}, "recovery.lr: -1.0 must be more than 0"),
    "no mapping": (lc.Fit, {"plan": 3}, "here.plan: must be a mapping of options; it is 3"),
    "an option of no plan": (lc.Quantize, {"epochs": 3}, "here.epochs: unknown option."),
}


@pytest.mark.parametrize(("kind", "plain", "said"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_with_its_place(kind: Any, plain: dict[str, Any], said: str) -> None:
    mistakes: list[str] = []
    from_plain(kind, plain, "here", mistakes)
    assert len(mistakes) == 1
    assert said in mistakes[0]


@pytest.mark.parametrize(
    ("short", "long"),
    [
        (lambda: lc.Prune(macs=0.5, epochs=3, lr=1e-3), lambda: lc.Prune(macs=0.5, recovery={"epochs": 3, "lr": 1e-3})),
        (lambda: lc.Prune(epochs=3, recovery={"lr": 0.1}), lambda: lc.Prune(recovery={"epochs": 3, "lr": 0.1})),
        (lambda: lc.Qat(target="openvino", batch_size=8), lambda: lc.Qat(target="openvino", recovery={"batch_size": 8})),
        (lambda: lc.Fit(epochs=2, optimizer="sgd"), lambda: lc.Fit(lc.FitPlan(epochs=2, optimizer="sgd"))),
    ],
    ids=["prune", "both", "qat", "fit"],
)
def test_options_of_the_training_may_stand_beside_a_steps_own(short: Any, long: Any) -> None:
    assert short() == long()
    assert to_plain(short()) == to_plain(long())


@pytest.mark.parametrize(
    "make",
    [
        lambda: lc.Prune(epochs=1, recovery=lc.FitPlan()),
        lambda: lc.Prune(epochs=1, recovery={"epochs": 2}),
        lambda: lc.Fit(lr=0.1, plan=lc.FitPlan()),
    ],
    ids=["a whole plan", "twice", "of fit"],
)
def test_an_option_in_two_places_is_refused(make: Any) -> None:
    with pytest.raises(lc.BadInput, match="is given in (recovery|plan); give (epochs|lr) there too"):
        make()
    with pytest.raises(TypeError, match="epoch"):
        lc.Prune(epoch=1)
