from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from laconic.core.progress import silent
from laconic.pruning import coupling
from laconic.pruning.sensitivity import sensitivity
from laconic.run import inspect as module
from laconic.run.inspect import inspect
from tests.run import tiny


class Layers(nn.Module):
    """Two groups, an operator on the first."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(64, 12), nn.Linear(12, 8), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(self.first(x.flatten(1)).tanh()).relu())


def test_groups_are_those_of_the_coupling_with_the_sensitivity_of_each() -> None:
    found = inspect(tiny.task())
    assert found["groups"] == [
        {"name": "stem", "components": 8, "slices": 15, "removed": 4, "sqnr_db": pytest.approx(found["groups"][0]["sqnr_db"])}
    ]
    assert found["frozen"] == [{"name": "head.weight[0]", "reason": "an output of the model"}]
    assert found["prunable"] == {"channels": 3 * 8, "of": 3 * 8 + 10}
    assert (found["no_rule"], found["unused_params"]) == ({}, 12)
    assert found["notes"] == ["12 parameters reach no output in evaluation (unused): they are left out of files and sizes"]
    json.dumps(found, allow_nan=False)


def test_the_first_valid_batch_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def listen(program: Any, inputs: Any, share: float, progress: Any) -> list[dict[str, Any]]:
        seen.update(inputs=inputs, share=share, progress=progress)
        return sensitivity(program, inputs, share, progress=progress)

    monkeypatch.setattr(module, "sensitivity_of", listen)
    found = inspect(tiny.task())
    (leaf,) = seen["inputs"]
    assert torch.equal(leaf, torch.stack([torch.as_tensor(tiny.VALID[i][0]) for i in range(32)]))
    assert found["sensitivity"] == {"share": seen["share"], "examples": 32} == {"share": 0.5, "examples": 32}
    assert seen["progress"] is silent


@pytest.mark.parametrize(
    ("task", "wanted", "note"),
    [(tiny.task, False, "was not measured, as asked"), (tiny.untrained, True, "that of an untrained model means nothing")],
    ids=["left out", "untrained"],
)
def test_why_the_sensitivity_was_not_measured(task: Any, wanted: bool, note: str) -> None:
    found = inspect(task(), wanted)
    assert found["sensitivity"] is None
    assert [(row["removed"], row["sqnr_db"]) for row in found["groups"]] == [(None, None)]
    assert [note in text for text in found["notes"]] == [False, True]  # behind that of the net's unused layer


def test_an_operator_without_a_rule_is_counted_and_freezes_what_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [row["name"] for row in inspect(tiny.task(Layers()))["groups"]] == ["first", "second"]
    known = coupling.rule_of
    monkeypatch.setattr(coupling, "rule_of", lambda target: None if target is torch.ops.aten.tanh.default else known(target))
    found = inspect(tiny.task(Layers()))
    assert found["no_rule"] == {"aten.tanh.default": 1}
    assert [row["name"] for row in found["groups"]] == ["second"]
    assert {row["name"]: row["reason"] for row in found["frozen"]}["first.weight[0]"] == "operator tanh has no rule"


@pytest.mark.parametrize(
    ("broken", "note", "groups"),
    [("couple", "what can be pruned was not found: KeyError: 'x'", None), ("sensitivity_of", "the sensitivity of groups was not measured: KeyError: 'x'", 1)],
)  # fmt: skip
def test_whatever_breaks_the_layers_are_shown(broken: str, note: str, groups: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise KeyError("x")

    monkeypatch.setattr(module, broken, fail)
    found = inspect(tiny.task())
    assert len(found["layers"]) == 7
    assert found["notes"][1:] == [note]  # behind that of the unused layer
    assert (None if found["groups"] is None else len(found["groups"])) == groups
    assert (found["prunable"] is None) is (groups is None)


def test_a_model_without_groups_needs_no_run() -> None:
    found = inspect(tiny.task(nn.Sequential(nn.Flatten(), nn.Linear(64, 10))))
    assert (found["groups"], found["sensitivity"], found["notes"]) == ([], None, [])
    assert found["prunable"] == {"channels": 0, "of": 10}
