"""A table of sizes that must be whole when its time is over: fewer examples first, then fewer choices."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import laconic as lc
from laconic.core.choices import Cost, Part, Table
from laconic.core.errors import TIME_LIMIT, WorkerFailed
from laconic.core.macs import LayerShape
from laconic.core.progress import silent
from laconic.pruning.tables import LayerPart, Making
from laconic.run import sizing
from laconic.run.layer_parts import applied
from tests.run import tiny


def part(name: str, kind: str) -> LayerPart:
    return LayerPart(Part(name, (1, 0), (0.0, 0.1), kind), (lambda layers: layers,) * 2, ())  # type: ignore[arg-type]


def measured(*names: str, then: WorkerFailed | None = None) -> Iterator[LayerPart]:
    yield from (part(name, "block") for name in names)
    if then is not None:
        raise then


@pytest.mark.parametrize(("left_s", "examples"), [(math.inf, 256), (1e6, 256), (30.0, 64)])
def test_losses_are_on_as_many_examples_as_there_is_time_for(left_s: float, examples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    task = tiny.task()
    program = lc.capture(task.build(), torch.randn(2, 1, 8, 8))
    made = Making(kinds=("channels", "block"))
    monkeypatch.setattr(sizing, "_OF_LOSSES", 1e-9 if left_s < 1e6 else 0.5)
    found = sizing.fitted(made, program, lc.Context(task), left_s, {"fp32": lambda shape: 1.0})
    assert (found.examples, found.kinds, found.criterion) == (examples, made.kinds, made.criterion)


@pytest.mark.parametrize(("guessed", "found"), [(0.1, {"fp32": 5.0, "int8": 0.0}), (9.0, {})], ids=["timed", "mostly guessed"])
def test_what_the_model_takes_beside_its_layers_is_told_apart(guessed: float, found: dict[str, float]) -> None:
    """Its layers take 10 ms in floats, and in integers more than the whole; where they are mostly guesses nothing is told."""

    class Price:
        inputs: tuple[int, ...] = ()

        def __call__(self, layer: object) -> float:
            return guessed

        def is_timed(self, layer: LayerShape) -> bool:
            return layer.family != "linear"  # one of them

        def whole_ms(self, file: Path, inputs: list[np.ndarray]) -> float:
            self.inputs = inputs[0].shape
            return {"a.onnx": 15.0, "b.onnx": 8.0}[str(file)]

        def call_cost(self, precisions: list[str]) -> Cost:
            return Cost(("the call",), (), {name: np.array(1.0) for name in precisions})

    program, price = lc.capture(tiny.task().build(), torch.randn(2, 1, 8, 8)), Price()
    ms = {"fp32": np.array([9.0, 4.0]), "int8": np.array([9.0, 3.0]), sizing.MOVED: np.array([80.0, 20.0])}
    table = Table((Part("g", (8, 2), (0.0, 0.1)),), (Cost(("all",), (0,), ms),))
    made = sizing.with_beside(table, program, price, {"fp32": "a.onnx", "int8": "b.onnx", "bf16": "c.onnx"})  # type: ignore[arg-type]
    assert {name: made.beside_ms((0,), name) for cost in made.beside for name in cost.ms} == found
    assert made.beside_ms((1,), "fp32") == found.get("fp32", 0.0) / 4  # a quarter is read and written
    assert (made.precisions, made.ms((1,), "fp32")) == (("fp32", "int8"), 5.0)
    assert price.inputs == ((1, 1, 8, 8) if found else ())


def test_what_a_layer_moves_is_what_it_reads_and_writes_without_its_weights() -> None:
    layer = LayerShape("linear", ((1, 4, 6), (3, 6), (3,)), (1, 4, 3), 72, weights=(1, 2))
    assert sizing.moves(layer) == 24 + 12


@pytest.mark.parametrize("slow", ["losses", "layers"])
def test_a_table_that_would_be_late_is_not_begun(slow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few of its measurements tell, of losses and of layers; each of a minute, by a clock that says so."""
    now = [0.0]

    def a_minute(*given: object) -> float:
        now[0] += 60.0
        return 1.0

    task, priced = tiny.task(), []
    program = lc.capture(task.build(), torch.randn(2, 1, 8, 8))
    monkeypatch.setattr(sizing.time, "perf_counter", lambda: now[0])
    if slow == "losses":
        monkeypatch.setattr(sizing, "mean_loss", a_minute)
    prices = {"fp32": (lambda shape: priced.append(shape) or 1.0) if slow == "losses" else a_minute}
    with pytest.raises(WorkerFailed, match=r"would take \d+ s at the least, and 60 s of the time limit") as caught:
        sizing.fitted(Making(), program, lc.Context(task), 60.0, prices)  # type: ignore[arg-type]
    assert caught.value.kind == TIME_LIMIT
    assert len(priced) <= 6


def test_what_was_measured_in_time_is_kept_and_other_faults_are_faults() -> None:
    late, other = WorkerFailed("the time limit was reached", TIME_LIMIT), WorkerFailed("it ended", "crash")
    assert [one.part.name for one in sizing.in_time(measured("a", "b", then=late), silent)] == ["a", "b"]
    with pytest.raises(WorkerFailed, match="it ended"):
        list(sizing.in_time(measured("a", then=other), silent))


@pytest.mark.parametrize(("late", "parts"), [(False, ["c", "b", "a"]), (True, ["b", "a"])])
def test_a_table_without_chains_is_kept_where_they_take_too_long(late: bool, parts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    class Beside:
        def __init__(self, *given: object) -> None:
            """Nothing is measured."""

        def every(self, kinds: tuple[str, ...]) -> Iterator[LayerPart]:
            yield from (part(name, kind) for name, kind in (("a", "block"), ("b", "bits"), ("c", "rank")) if kind in kinds)

    def table(*given: Any) -> list[str]:
        names = [one.part.name for one in given[-1]]
        if late and "c" in names:
            raise WorkerFailed("the time limit was reached", TIME_LIMIT)
        return names

    monkeypatch.setattr(sizing, "LayerParts", Beside)
    monkeypatch.setattr(sizing, "size_table", table)
    context = lc.Context(None, target=lc.Target("openvino"))
    made = Making(kinds=("channels", "block", "bits", "rank"))
    assert sizing.with_choices(None, context, silent, {}, made, {}, lambda found: None) == parts  # type: ignore[arg-type, comparison-overlap]


def test_a_chain_is_made_before_its_layers_are_left_in_floats_and_before_their_block_goes() -> None:
    parts = applied([part("a", "block"), part("b", "bits"), part("c", "rank"), part("d", "bits")])
    assert [one.part.name for one in parts] == ["c", "b", "d", "a"]
