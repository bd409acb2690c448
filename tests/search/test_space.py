"""What is proposed, for which model, target and budget."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import laconic as lc
from laconic.core.errors import BadInput
from laconic.core.records import Measurement
from laconic.run.record import Record
from laconic.search import space
from tests.core.models import ConvNet, Recurrent
from tests.run import tiny

CONV = lc.capture(ConvNet(), torch.randn(2, 1, 8, 8))
LSTM = lc.capture(Recurrent(), torch.randn(2, 5, 6))
MLP = lc.capture(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(2, 4))


def rounded(program: lc.Program, *kinds: str, runtimes: tuple[str, ...] | None = None) -> set[tuple[str, str, str]]:
    found = space.candidates(program, runtimes, ("fp32",), quantizations=kinds)
    return {
        (r.title.split(" · ")[0], r.steps[0].target, r.deploy.runtime) for r in found if r.steps and isinstance(r.steps[0], lc.Quantize)
    }


def test_static_goes_to_every_runtime_with_integer_kernels() -> None:
    assert rounded(CONV, "static") == {("quantize static", name, name) for name in ("onnxruntime", "openvino")}
    assert rounded(CONV, "static", runtimes=("torch", "openvino")) == {("quantize static", "openvino", "openvino")}
    assert rounded(CONV) == set()


@pytest.mark.parametrize(
    ("program", "offered"), [(CONV, False), (LSTM, True), (MLP, True)], ids=["convolutions", "recurrent", "linear layers"]
)
def test_dynamic_is_for_recurrent_and_linear_layers(program: lc.Program, offered: bool) -> None:
    assert bool(rounded(program, "dynamic")) is offered


def test_four_bits_are_for_linear_layers() -> None:
    assert {title for title, _, _ in rounded(MLP, "weights")} == {"quantize weights", "quantize weights int4"}
    assert {title for title, _, _ in rounded(CONV, "weights")} == {"quantize weights"}


def test_weights_alone_are_tried_where_the_size_counts() -> None:
    assert "weights" not in space.kinds(None, lc.Budget())
    assert "weights" in space.kinds(None, lc.Budget(objective="size"))
    assert "weights" in space.kinds(None, lc.Budget(max_size_mb=1))
    assert space.kinds(("weights",), lc.Budget()) == ("weights",)


@pytest.mark.parametrize(
    ("drop", "status", "train", "proposed"),
    [
        (0.0, "passed", True, []),
        (0.4, "passed", True, ["quantize mixed", "qat"]),
        (3.0, "rejected", True, ["quantize mixed", "qat"]),
        (3.0, "rejected", False, ["quantize mixed"]),
        (3.0, "failed", True, []),
    ],
    ids=["nothing lost", "lost a little", "rejected", "no train data", "failed"],
)
def test_what_was_lost_is_to_be_won_back(drop: float, status: str, train: bool, proposed: list[str]) -> None:
    tried = space.candidates(CONV, ("openvino",), ("fp32",), quantizations=("static",))
    records = [Record.of(recipe, status="passed").with_measured(drop=Measurement(0.0, "points")) for recipe in tried]
    records[-1] = records[-1].replace(status=status).with_measured(drop=Measurement(drop, "points"))
    task = dataclasses.replace(tiny.task(), train=tiny.TRAIN if train else None, loss=F.cross_entropy)
    found = space.followups(task, tried, [Record("base", "", {}), *records], space.QUANTIZATIONS)
    assert [recipe.title.split(" · ")[0] for recipe in found] == proposed
    assert all(recipe.steps[0].target == "openvino" for recipe in found)


def test_recipes_without_a_target_do_not_share_files_between_runtimes() -> None:
    def key(target: str | None, runtime: str) -> Any:
        return lc.Recipe((lc.Quantize(target=target),), lc.Target(runtime)).steps_key

    assert key(None, "openvino") != key(None, "onnxruntime")
    assert key("openvino", "openvino") == key("openvino", "onnxruntime")


def test_an_unknown_kind_is_refused_with_the_nearest() -> None:
    with pytest.raises(BadInput, match="quantize: 'statik'. Did you mean 'static'"):
        lc.SearchSpace(quantize=("statik",))


def test_pruning_is_for_tasks_that_can_recover() -> None:
    task = tiny.task()
    found = space.prunings(task, (0.5,), ("onnxruntime", "torch"), ("static",), None)
    assert [[type(step) for step in recipe.steps] for recipe in found] == [[lc.Prune], [lc.Prune, lc.Quantize]]
    assert {recipe.deploy.runtime for recipe in found} == {"onnxruntime"}
    assert all(recipe.steps[0].macs == 0.5 for recipe in found)
    assert found[0].steps[0].recovery == {"epochs": 20}  # little data: more epochs, for as many steps
    assert len(space.prunings(task, (0.5, 0.3), None, (), None)) == 4
    own = dataclasses.replace(task, recovery=lc.FitPlan(epochs=7, lr=1e-4, batch_size=8))
    step = space.prunings(own, (0.5,), ("onnxruntime",), (), None)[0].steps[0]
    assert step.recovery is None  # the task says it
    task.train = None
    assert space.prunings(task, (0.5,), None, ("static",), None) == []
