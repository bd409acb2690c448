from __future__ import annotations

import pytest
import sklearn.metrics as sk
import torch
from torch import Tensor

from laconic.core.errors import BadInput
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
