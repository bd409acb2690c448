from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from laconic.run.changed import changed
from laconic.tasks import metrics
from tests.run import tiny


def spec(metric: Any) -> metrics.MetricSpec:
    task = tiny.task()
    task.metric, task.direction = metric, "max" if callable(metric) else None
    return metrics.of(task)


def logits(*answers: int, classes: int = 3) -> Tensor:
    return torch.eye(classes)[list(answers)]


def test_answers_are_counted_by_class_for_better_and_worse() -> None:
    target = torch.tensor([0, 0, 1, 1, 2, 2])
    told = changed(spec("accuracy"), logits(0, 0, 2, 1, 2, 1), logits(0, 1, 1, 2, 2, 0), target)
    assert told == {
        "n": 6, "changed": 4, "worse": 2, "better": 1, "form": "classes",
        "classes": [
            {"class": 1, "n": 2, "changed": 2, "worse": 1, "better": 1},
            {"class": 0, "n": 2, "changed": 1, "worse": 1, "better": 0},
            {"class": 2, "n": 2, "changed": 1, "worse": 0, "better": 0},
        ],
        "flows": [{"from": 0, "to": 1, "n": 1}, {"from": 2, "to": 1, "n": 1}, {"from": 1, "to": 2, "n": 1}, {"from": 1, "to": 0, "n": 1}],
    }  # fmt: skip


def test_it_agrees_with_counting_one_by_one_and_leaves_out_what_does_not_count() -> None:
    rng = np.random.default_rng(0)
    before, after = (torch.from_numpy(rng.standard_normal((40, 4, 6)).astype(np.float32)) for _ in range(2))  # 6 positions of 4 classes
    target = torch.from_numpy(rng.integers(0, 4, (40, 6)))
    target[rng.random((40, 6)) < 0.2] = -100
    told = changed(spec("accuracy"), before, after, target)
    assert told is not None
    counted = [
        (int(t), int(b), int(a))
        for t, b, a in zip(target.flatten(), before.argmax(1).flatten(), after.argmax(1).flatten(), strict=True)
        if t >= 0
    ]
    assert told["n"] == len(counted)
    assert told["changed"] == sum(b != a for _, b, a in counted) == sum(row["changed"] for row in told["classes"])
    assert told["worse"] == sum(b == t != a for t, b, a in counted)
    assert told["better"] == sum(a == t != b for t, b, a in counted)


def test_labels_are_counted_by_label() -> None:
    target = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    told = changed(spec("f1"), torch.tensor([[1.0, -1.0], [1.0, -1.0]]), torch.tensor([[1.0, 1.0], [-1.0, -1.0]]), target)
    assert told is not None
    assert (told["n"], told["changed"], told["worse"], told["better"], told["form"]) == (4, 2, 1, 1, "labels")
    assert [(row["class"], row["worse"], row["better"]) for row in told["classes"]] == [(0, 0, 1), (1, 1, 0)]
    assert told["flows"] == []


def test_numbers_and_own_metrics_have_no_answers() -> None:
    x = torch.randn(5, 1)
    assert changed(spec("mse"), x, x + 1, x) is None
    assert changed(spec(lambda outputs, target: 1.0), x, x, x) is None


def test_nothing_changed() -> None:
    told = changed(spec("accuracy"), logits(0, 1), logits(0, 1), torch.tensor([0, 0]))
    assert told is not None
    assert (told["changed"], told["classes"], told["flows"]) == (0, [], [])


def test_of_a_target_with_parts_the_one_that_is_scored_is_looked_at() -> None:
    task = tiny.task()
    task.target = "kind"
    target = torch.tensor([0, 1, 2, 2])
    told = changed(metrics.of(task), logits(0, 1, 2, 2), logits(0, 1, 2, 0), {"kind": target, "box": torch.zeros(4, 2)})
    assert told == changed(spec("accuracy"), logits(0, 1, 2, 2), logits(0, 1, 2, 0), target)
    assert told is not None
    assert told["worse"] == 1
