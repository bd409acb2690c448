from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sklearn.metrics as sk
import torch
from torch import Tensor

from laconic.core.errors import BadInput
from laconic.core.task import Task
from laconic.tasks import metrics
from laconic.tasks.metrics import METRICS, resolve

LOGITS = torch.randn(200, 4, generator=torch.Generator().manual_seed(1))
TARGET = torch.where(torch.rand(200, generator=torch.Generator().manual_seed(2)) < 0.6, LOGITS.argmax(1), torch.arange(200) % 4)
TWO = (LOGITS[:, 0], (TARGET == 0).long())
NUMBERS = (LOGITS[:, :1], LOGITS[:, 0] + 0.3 * LOGITS[:, 1])
PREDICTED, PROBABILITY = LOGITS.argmax(1), LOGITS.softmax(1)

# metric, logits, target, the same by scikit-learn
CASES = {
    "accuracy": (LOGITS, TARGET, 100 * sk.accuracy_score(TARGET, PREDICTED)),
    "accuracy-binary": (*TWO, 100 * sk.accuracy_score(TWO[1], TWO[0] > 0)),
    "accuracy-binary-column": (TWO[0][:, None], TWO[1], 100 * sk.accuracy_score(TWO[1], TWO[0] > 0)),
    "balanced_accuracy": (LOGITS, TARGET, 100 * sk.balanced_accuracy_score(TARGET, PREDICTED)),
    "f1": (LOGITS, TARGET, 100 * sk.f1_score(TARGET, PREDICTED, average="macro")),
    "f1-binary": (*TWO, 100 * sk.f1_score(TWO[1], TWO[0] > 0)),
    "auroc": (LOGITS, TARGET, 100 * sk.roc_auc_score(TARGET, PROBABILITY, multi_class="ovr", average="macro")),
    "mse": (*NUMBERS, sk.mean_squared_error(NUMBERS[1], NUMBERS[0][:, 0])),
    "rmse": (*NUMBERS, sk.root_mean_squared_error(NUMBERS[1], NUMBERS[0][:, 0])),
    "mae": (*NUMBERS, sk.mean_absolute_error(NUMBERS[1], NUMBERS[0][:, 0])),
    "r2": (*NUMBERS, sk.r2_score(NUMBERS[1], NUMBERS[0][:, 0])),
}


@pytest.mark.parametrize("case", CASES)
def test_a_metric_agrees_with_scikit_learn(case: str) -> None:
    logits, target, expected = CASES[case]
    assert METRICS[case.split("-")[0]].score(logits, target) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("case", [case for case in CASES if METRICS[case.split("-")[0]].per_example is not None])
def test_the_mean_over_examples_is_the_metric(case: str) -> None:
    logits, target, expected = CASES[case]
    spec = METRICS[case.split("-")[0]]
    assert spec.per_example is not None
    found = spec.per_example(logits, target)
    assert found.shape == (200,)
    assert spec.scale * float(found.mean()) == pytest.approx(expected, rel=1e-5)


def test_accuracy_over_positions_counts_each_position() -> None:
    logits = torch.zeros(2, 3, 4)
    logits[:, 1] = 1
    target = torch.tensor([[1, 1, 1, 0], [1, 1, 2, 0]])
    spec = METRICS["accuracy"]
    assert spec.score(logits, target) == pytest.approx(62.5)
    assert spec.per_example is not None
    assert spec.per_example(logits, target).tolist() == [0.75, 0.5]


def test_a_users_function_needs_a_direction() -> None:
    def gap(logits: Tensor, target: Tensor) -> Tensor:
        return (logits[:, 0] - target).abs().max()

    found = resolve(gap, "min")
    assert (found.name, found.direction, found.scale) == ("gap", "min", 1.0)
    assert found.score(torch.tensor([[1.0]]), torch.tensor([3.0])) == 2.0
    with pytest.raises(BadInput, match="gap is a function: say with direction"):
        resolve(gap)


@pytest.mark.parametrize(
    ("metric", "direction", "said"),
    [
        ("acuracy", None, "not a metric. Did you mean 'accuracy'"),
        ("mse", "max", "contradicts"),
        ("accuracy", "up", "write 'max'"),
        (3, None, "must be a name or a function"),
    ],
)
def test_what_is_no_metric_is_refused(metric: object, direction: object, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        resolve(metric, direction)  # type: ignore[arg-type]


def test_a_metric_of_torchmetrics_is_a_users_function() -> None:
    from torchmetrics.classification import MulticlassAccuracy

    spec = resolve(MulticlassAccuracy(num_classes=4, average="micro"), "max")
    assert 100 * spec.score(LOGITS, TARGET) == pytest.approx(CASES["accuracy"][2])


TREE = {"kind": torch.tensor([0, 1, 2, 1]), "box": torch.zeros(4, 2)}
SURE = torch.eye(3)[[0, 1, 2, 2]]


@pytest.mark.parametrize(
    ("target", "chosen"),
    [
        (TREE, "kind"),
        (TREE, lambda target: target["kind"]),
        (tuple(TREE.values()), 0),
        ([*TREE.values()], 0),
        ((TREE["kind"],), None),
        (TREE["kind"], "kind"),
    ],
    ids=["key", "function", "position", "position of a list", "the only one", "a tensor"],
)
def test_a_named_metric_looks_at_one_part_of_a_target(target: Any, chosen: Any) -> None:
    data = torch.utils.data.TensorDataset(SURE, TREE["kind"])
    spec = metrics.of(Task(torch.nn.Identity(), None, data, target=chosen))
    assert spec.score(SURE, target) == 75.0
    assert spec.per_example is not None
    assert spec.per_example(SURE, target).tolist() == [1, 1, 1, 0]  # type: ignore[union-attr]
    assert spec.resampler(SURE, target)(np.array([3, 3, 0, 1])) == 50.0


@pytest.mark.parametrize("chosen", [None, "label", "words"])
def test_which_part_is_asked_for(chosen: Any) -> None:
    data = torch.utils.data.TensorDataset(SURE, TREE["kind"])
    spec = metrics.of(Task(torch.nn.Identity(), None, data, target=chosen))
    with pytest.raises(
        BadInput, match=r"this target has 'kind' \(4,\), 'box' \(4, 2\).*Say which, e\.g\. Task\(target='kind'\), or give a function"
    ):
        spec.score(SURE, {**TREE, "words": ["a", "b", "c", "d"]})


@pytest.mark.parametrize(
    ("value", "score"),
    [(0.5, 0.5), (1, 1.0), (True, 1.0), (torch.tensor(0.5), 0.5), (torch.tensor([0.5]), 0.5), (LOGITS.numpy().dtype.type(0.5), 0.5)],
    ids=repr,
)
def test_a_metric_of_ones_own_returns_one_number(value: object, score: float) -> None:
    assert resolve(lambda logits, target: value, "max").score(LOGITS, TARGET) == score  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "None"),
        ("0.5", "'0.5'"),
        ({"f1": 1}, "{'f1': 1}"),
        (1j, "1j"),
        (torch.ones(3), r"Tensor of shape \(3,\)"),
        ([0.5], r"\[0.5\]"),
    ],
    ids=repr,
)
def test_what_is_no_number_is_told(value: object, said: str) -> None:
    with pytest.raises(BadInput, match=f"the metric 'own' must return one number for 200 examples; it returned {said}"):
        resolve(named(lambda logits, target: value), "max").score(LOGITS, TARGET)


def test_a_metric_that_raises_is_told_by_its_name() -> None:
    with pytest.raises(
        BadInput, match=r"the metric 'own' failed on 200 examples: ZeroDivisionError: division by zero, test_metrics.py line \d+"
    ):
        resolve(named(lambda logits, target: 1 / 0), "max").score(LOGITS, TARGET)


def named(function: Any) -> Any:
    function.__name__ = "own"
    return function
