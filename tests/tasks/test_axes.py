from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from laconic.core.task import Task
from laconic.tasks.axes import dynamic_of
from tests.core.test_capture import State


class Rows(torch.utils.data.Dataset[Any]):
    def __init__(self, *shapes: tuple[int, ...]) -> None:
        self.shapes = shapes

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Any:
        return (*(torch.zeros(shape) for shape in self.shapes), torch.tensor(index % 2))


def stacked(*axes: int | None) -> Any:
    """Collate that puts the examples of each input on its own dimension; None: the first example's alone."""

    def collate(rows: list[Any]) -> Any:
        *inputs, target = zip(*rows, strict=True)
        return tuple(x[0] if axis is None else torch.stack(x, axis) for x, axis in zip(inputs, axes, strict=True)), torch.stack(target)

    return collate


class Two(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize(
    ("shapes", "axes", "declared", "found"),
    [
        ([(5, 6), (2, 8)], (0, 0), {}, {}),
        ([(5, 6), (2, 8)], (0, 1), {}, {"y": {1: "batch"}}),
        ([(5, 6), (2, 8)], (1, 1), {"x": {0: "length"}}, {"x": {0: "length", 1: "batch"}, "y": {1: "batch"}}),
        ([(5, 6), (2, 8)], (0, 1), {"y": {1: "batch"}}, {"y": {1: "batch"}}),
        ([(5, 6), (2, 8)], (0, None), {"x": {1: "length"}}, {"x": {1: "length"}, "y": {}}),
        ([(2, 3), (3, 2)], (0, 1), {"x": {-1: "width"}}, {"x": {-1: "width"}, "y": {1: "batch"}}),
    ],
    ids=["first", "a state", "length first", "declared", "no batch", "sizes of two and three"],
)
def test_the_dimension_that_grows_is_the_batch(shapes: Any, axes: Any, declared: Any, found: Any) -> None:
    task = Task(Two(), None, Rows(*shapes), collate=stacked(*axes), dynamic=declared)
    assert dynamic_of(task) == found
    assert task.dynamic == declared


def test_what_cannot_be_collated_twice_is_as_it_was_declared() -> None:
    def once(rows: list[Any]) -> Any:
        if len(rows) == 2:
            raise ValueError("no")
        return stacked(0, 0)(rows)

    assert dynamic_of(Task(Two(), None, Rows((5,), (2,)), collate=once, dynamic={"x": {1: "length"}})) == {"x": {1: "length"}}
    assert dynamic_of(Task(State(), None, Rows((5, 6), (2, 8)), collate=stacked(0, 1), dynamic_batch=False)) == {}


def test_batches_hold_one_example_where_the_model_takes_a_fixed_number_and_nothing_is_said() -> None:
    sizes = [
        Task(Two(), None, Rows((5,)), **more).batch_size
        for more in ({}, {"dynamic_batch": False}, {"dynamic_batch": False, "batch_size": 8})
    ]  # type: ignore[arg-type]
    assert sizes == [64, 1, 8]
