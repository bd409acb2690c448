from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from laconic.core.errors import BadInput
from laconic.core.task import FitPlan, Task
from laconic.tasks.check import check_task
from laconic.tasks.data import ArrayDataset


def data(n: int = 20, width: int = 4, classes: int = 3) -> ArrayDataset:
    return ArrayDataset(np.random.default_rng(0).standard_normal((n, width)).astype(np.float32), np.arange(n) % classes)


def task(**changes: Any) -> Task:
    whole = Task(model=nn.Linear(4, 3), train=data(), valid=data(), test=data(), loss=F.cross_entropy, name="t")
    return dataclasses.replace(whole, **changes)


class Unsized(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
    def __iter__(self) -> Any:
        yield torch.zeros(4), 0


def test_a_sound_task_passes_and_nothing_is_changed() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).train()
    sound = task(model=model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    check_task(sound)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"metric": "acuracy"}, "metric: 'acuracy' is not a metric. Did you mean 'accuracy'"),
        ({"train": None, "fit": FitPlan()}, "fit: a plan of training is given, but the task has no train data"),
        ({"loss": None, "fit": FitPlan()}, "has no a loss|has no loss"),
        ({"valid": None}, "valid: NoneType has no length"),
        ({"valid": Unsized()}, "valid: Unsized has no length; give a map-style dataset"),
        ({"test": data(0)}, "test: the dataset is empty"),
        ({"train": data(width=5)}, r"train: one example has shape \(5,\) float32; one of the valid data has shape \(4,\) float32"),
        (
            {"valid": data(width=7), "train": None, "test": None},
            r"model: it cannot answer the first batch of the valid data \(shape \(7,\) float32\): RuntimeError",
        ),
        ({"valid": data(classes=5)}, "valid: a target is 4; the model knows the classes 0 to 2"),
        ({"test": data(classes=4)}, "test: a target is 3; the model knows the classes 0 to 2"),
        ({"test": data(classes=5)}, "test: a target is 4; the model knows the classes 0 to 2"),
        ({"split": lambda batch: batch[2]}, "valid: no batch can be made of it: IndexError"),
        ({"model": lambda: nn.Linear("x", 3)}, "model: it cannot be made: TypeError"),  # type: ignore[arg-type]
        ({"model": nn.Sequential(nn.Linear(4, 3), nn.Flatten(0))}, "60 answers to 20 targets"),
        ({"metric": "mse"}, "metric: 'mse' cannot be computed from logits"),
        ({"loss": lambda out, target: out}, r"loss: it must return a scalar tensor; it returns \(20, 3\)"),
        ({"loss": lambda out, target: out @ out}, "loss: it cannot be computed: RuntimeError"),
    ],
)
def test_a_mistake_is_told(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        check_task(task(**changes))


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(BadInput, match="the task 't' has 3 mistakes:") as caught:
        check_task(task(metric="acuracy", train=data(width=5), test=data(0)))
    assert [line.split(":")[0].strip() for line in str(caught.value).splitlines()[1:]] == ["metric", "test", "train"]
