"""Values of wrong types are told where they are given: by every config, of every field, whatever it is called."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, get_type_hints

import numpy as np
import pytest
from torch import nn

import laconic as lc
from laconic.core.fields import hints_of, wrong_type
from laconic.run.runner import STEPS
from laconic.studies.compare import Comparing

CONFIGS: list[type[Any]] = [
    *(STEPS.config(name) for name in STEPS.names()),
    lc.Scaled,
    lc.Hint,
    lc.Options,
    lc.Target,
    Comparing,
    lc.Task,
]
NEEDED: dict[Any, dict[str, Any]] = {
    lc.Scaled: {"name": "flip"},
    lc.Hint: {"loss": "mse", "student": "0"},
    Comparing: {"kind": "lr"},
    lc.Task: {"model": nn.Linear(1, 1), "train": None, "valid": []},
}


class Thing:
    """Of no type that an option has."""

    def __repr__(self) -> str:  # in the names of tests, which must not change from process to process
        return "Thing()"


@pytest.mark.parametrize("kind", CONFIGS, ids=lambda kind: kind.__name__)
def test_every_field_tells_what_it_must_be(kind: type[Any]) -> None:
    hints = get_type_hints(kind)
    fields = [field.name for field in dataclasses.fields(kind) if wrong_type(hints[field.name], Thing()) is not None]
    assert fields or not dataclasses.fields(kind)
    for name in fields:
        with pytest.raises(lc.BadInput, match=rf"(?s){name}: an object of the class Thing must be "):
            kind(**{**NEEDED.get(kind, {}), name: Thing()})


@pytest.mark.parametrize(
    ("hint", "good", "bad"),
    [
        (float, (0.5, 3, np.float32(0.5), -1, math.inf), ("0.5", True, math.nan, None)),
        (int, (3, np.int64(3), -1), (3.0, "3", True, None)),
        (bool, (True, False), (1, 0, "yes", None)),
        (str | None, ("x", None), (1, b"x", ["x"])),
        (tuple[str, ...], ((), ("a",), ["a"]), ("a", (1,), {"a": 1})),
        (dict[str, dict[int, str]], ({}, {"x": {1: "length"}}), ({"x": 1}, {1: {}}, {"x": {"1": "length"}}, [])),
        (lc.FitPlan | None, (lc.FitPlan(), None), (3, "plan", [1], {"lr": 0.1})),
        (Any, (3, None, Thing()), ()),
    ],
    ids=str,
)
def test_what_fits_a_type_and_what_does_not(hint: Any, good: tuple[Any, ...], bad: tuple[Any, ...]) -> None:
    assert [value for value in good if wrong_type(hint, value) is not None] == []
    assert [value for value in bad if wrong_type(hint, value) is None] == []


def test_a_list_for_a_tuple_becomes_one() -> None:
    config = lc.Prune(freeze=["stem"])  # type: ignore[arg-type]
    assert config == lc.Prune(freeze=("stem",))
    assert hash(config) == hash(lc.Prune(freeze=("stem",)))


def test_options_of_a_plan_make_one() -> None:
    task = lc.Task(nn.Linear(1, 1), None, [], plan={"epochs": 3}, recovery={"lr": 0.1})  # type: ignore[arg-type]
    assert (task.plan, task.recovery) == (lc.FitPlan(epochs=3), lc.FitPlan(lr=0.1))


def test_one_name_stands_for_itself_in_a_search_space() -> None:
    assert lc.SearchSpace("openvino", prune=0.5) == lc.SearchSpace(("openvino",), prune=(0.5,))  # type: ignore[arg-type]
    with pytest.raises(lc.BadInput, match="runtimes: must be a tuple of names"):
        lc.SearchSpace(3.0 > 2)  # type: ignore[arg-type]


def test_the_types_of_a_class_are_read_once_and_cannot_be_changed() -> None:
    known = hints_of(lc.Prune)
    assert hints_of(lc.Prune) is known
    with pytest.raises(TypeError, match="item assignment"):
        known["macs"] = str  # type: ignore[index]
