"""Named metrics against scikit-learn, in every shape in which logits and targets come."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Context, Decimal, localcontext
from typing import Any

import numpy as np
import pytest
import sklearn.metrics as sk
import torch
from torch import Tensor

from laconic.core.errors import BadInput
from laconic.core.task import Task
from laconic.tasks.metrics import METRICS, MetricSpec, Undefined, of

N, C = 120, 5
G = torch.Generator().manual_seed(7)


def logits(*shape: int) -> Tensor:
    return torch.randn(shape, generator=G)


def guided(values: Tensor, axis: int, classes: int | None = None) -> Tensor:
    """Class numbers that the logits get right in about two of three."""
    best = values.argmax(axis)
    drawn = torch.randint(0, classes or values.shape[axis], best.shape, generator=G)
    return torch.where(torch.rand(best.shape, generator=G) < 0.6, best, drawn)


def spec(name: str, **told: Any) -> MetricSpec:
    return of(Task(torch.nn.Identity(), None, [], metric=name, **told))  # type: ignore[arg-type]


# Single label ---------------------------------------------------------------------------------------------------------------------

CLASSES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": lambda y, s: sk.accuracy_score(y, s.argmax(1)),
    "balanced_accuracy": lambda y, s: sk.balanced_accuracy_score(y, s.argmax(1)),
    "f1": lambda y, s: sk.f1_score(y, s.argmax(1), average="macro"),
    "auroc": lambda y, s: np.mean([sk.roc_auc_score(y == k, torch.from_numpy(s).double().softmax(1)[:, k]) for k in np.unique(y)]),
}
FORMS: dict[str, tuple[Tensor, int]] = {
    "rows": (logits(N, C), 1),
    "tokens last": (logits(N, 7, C), 2),
    "tokens first": (logits(N, C, 7), 1),
    "pixels": (logits(N, C, 4, 3), 1),
    "pixels last": (logits(N, 4, 3, C), 3),
    "two classes": (logits(N, 2), 1),
}


@pytest.mark.parametrize("ignored", [None, -100, 255, -1], ids=lambda v: f"ignored {v}")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CLASSES)
def test_classes(name: str, form: str, ignored: int | None) -> None:
    values, axis = FORMS[form]
    target = guided(values, axis)
    if ignored is not None:
        target.view(-1)[::3] = ignored
    flat, kept = (
        values.movedim(axis, -1).reshape(-1, values.shape[axis]).numpy(),
        target.flatten() != (1000 if ignored is None else ignored),
    )
    expected = CLASSES[name](target.flatten()[kept].numpy(), flat[kept])
    for dtype in (torch.float32, torch.float64):
        assert spec(name, ignore=ignored).score(values.to(dtype), target) == pytest.approx(100 * expected, rel=1e-9)


@pytest.mark.parametrize("name", CLASSES)
def test_classes_that_do_not_occur_are_left_out(name: str) -> None:
    values = logits(N, 8)
    values[:, [2, 6]] -= 20.0  # neither in the target nor among the answers
    target = guided(values, 1)
    target[(target == 2) | (target == 6)] = 0
    assert spec(name).score(values, target) == pytest.approx(100 * CLASSES[name](target.numpy(), values.numpy()), rel=1e-9)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.int32, torch.float32], ids=str)
def test_two_classes_take_targets_of_any_type(name: str, kind: torch.dtype) -> None:
    values = logits(N, 2)
    target = guided(values, 1)
    assert spec(name).score(values, target.to(kind)) == pytest.approx(100 * CLASSES[name](target.numpy(), values.numpy()), rel=1e-9)
    assert spec(name).score(values, target.to(kind)[:, None]) == spec(name).score(values, target)


@pytest.mark.parametrize("name", CLASSES)
def test_one_hot_and_soft_targets_are_classes(name: str) -> None:
    values = logits(N, C)
    target = guided(values, 1)
    hard = torch.nn.functional.one_hot(target, C)
    for soft in (hard, hard.float(), hard.bool(), hard * 0.9 + 0.02):
        assert spec(name).score(values, soft) == spec(name).score(values, target)


def test_auroc_ranks_where_probabilities_are_rounded_to_one() -> None:
    values = torch.tensor([[50.0, 0.0], [60.0, 0.0], [70.0, 0.0], [80.0, 0.0]])
    assert spec("auroc").score(values, torch.tensor([1, 1, 0, 0])) == 100
    assert spec("auroc").score(values[:, 0], torch.tensor([0, 0, 1, 1])) == 100
    sure = torch.randint(-90, 90, (30, 3), generator=torch.Generator().manual_seed(0)).double()
    target = torch.arange(30) % 3
    with localcontext() as exact:
        exact.prec = 120
        powers = [[Decimal(float(v)).exp() for v in row] for row in sure]
        order = [[row[k] / (sum(row) - row[k]) for row in powers] for k in range(3)]
    # odds that a double cannot tell apart, since one of the other classes is far above the rest, are equal
    order = [[Context(prec=12).plus(p) for p in column] for column in order]
    expected = np.mean([sk.roc_auc_score(target == k, [sorted(order[k]).index(p) for p in order[k]]) for k in range(3)])
    assert spec("auroc").score(sure, target) == pytest.approx(100 * expected, rel=1e-12)


def test_auroc_takes_probabilities_and_counts_ties_half() -> None:
    values = logits(N, C).softmax(1)
    target = guided(values, 1)
    expected = sk.roc_auc_score(target, values.double() / values.double().sum(1, keepdim=True), multi_class="ovr", average="macro")
    assert spec("auroc").score(values, target) == pytest.approx(100 * expected, abs=1e-3)
    tied = logits(N).round()
    yes = (tied + logits(N) > 0).long()
    assert spec("auroc").score(tied, yes) == pytest.approx(100 * sk.roc_auc_score(yes, tied), rel=1e-12)


# Labels and one logit -------------------------------------------------------------------------------------------------------------

LABELS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": lambda y, s: np.mean((s > 0) == y),
    "balanced_accuracy": lambda y, s: np.mean([sk.balanced_accuracy_score(y[:, k], s[:, k] > 0) for k in range(y.shape[1])]),
    "f1": lambda y, s: (
        sk.f1_score(y, s > 0, average="macro", zero_division=np.nan) if y.shape[1] > 1 else sk.f1_score(y[:, 0], s[:, 0] > 0)
    ),
    "auroc": lambda y, s: np.mean([sk.roc_auc_score(y[:, k], s[:, k]) for k in range(y.shape[1]) if 0 < y[:, k].mean() < 1]),
}


@pytest.mark.parametrize("kind", [torch.float32, torch.int64, torch.bool, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("shape", "other"), [((N, 6), (N, 6)), ((N,), (N,)), ((N, 1), (N,)), ((N,), (N, 1)), ((N, 1), (N, 1)), ((N, 1, 3, 4), (N, 3, 4))]
)
@pytest.mark.parametrize("name", LABELS)
def test_labels(name: str, shape: tuple[int, ...], other: tuple[int, ...], kind: torch.dtype) -> None:
    values = logits(*shape)
    target = (values + logits(*shape) > 0.3).reshape(other)
    columns = shape[1] if len(shape) == 2 else 1
    expected = LABELS[name](target.reshape(-1, columns).numpy(), values.reshape(-1, columns).numpy())
    assert spec(name).score(values, target.to(kind)) == pytest.approx(100 * expected, rel=1e-9)


@pytest.mark.parametrize("name", LABELS)
def test_labels_that_never_occur_are_left_out(name: str) -> None:
    values = logits(N, 4)
    target = values + logits(N, 4) > 0.3
    values[:, 2], target[:, 2] = -9.0, False
    expected = (
        LABELS[name](target.numpy(), values.numpy())
        if name == "accuracy"
        else LABELS[name](target[:, [0, 1, 3]].numpy(), values[:, [0, 1, 3]].numpy())
    )
    if name == "balanced_accuracy":  # of that label, every no is found
        expected = (3 * expected + 1) / 4
    assert spec(name).score(values, target) == pytest.approx(100 * expected, rel=1e-9)


def test_labels_that_nobody_knows_do_not_count() -> None:
    values = logits(N, 3)
    target = (values + logits(N, 3) > 0).float()
    target[::4, 1] = -1.0
    kept = target[:, 1] >= 0
    expected = np.mean([sk.f1_score(target[k, i], values[k, i] > 0) for i, k in ((0, slice(None)), (1, kept), (2, slice(None)))])
    assert spec("f1", ignore=-1).score(values, target) == pytest.approx(100 * expected, rel=1e-9)


def test_balanced_accuracy_tells_a_good_model_from_a_constant_one() -> None:
    target = (logits(N, 6) > 0.9).float()
    good = 2 * target - 1 + 0.5 * logits(N, 6)
    constants = [spec("balanced_accuracy").score(torch.full((N, 6), value), target) for value in (-9.0, 9.0)]
    assert constants == [50.0, 50.0]
    assert spec("balanced_accuracy").score(good, target) > 90


# Regression -----------------------------------------------------------------------------------------------------------------------

VALUES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "mse": sk.mean_squared_error,
    "mae": sk.mean_absolute_error,
    "rmse": sk.root_mean_squared_error,
    "r2": sk.r2_score,
}


@pytest.mark.parametrize(
    ("shape", "other"), [((N,), (N,)), ((N, 1), (N,)), ((N,), (N, 1)), ((N, 3), (N, 3)), ((N, 1, 3), (N, 3)), ((N, 4, 3), (N, 4, 3))]
)
@pytest.mark.parametrize("name", VALUES)
def test_values(name: str, shape: tuple[int, ...], other: tuple[int, ...]) -> None:
    target = (logits(*shape) * 3 + 1).reshape(other)
    values = target.reshape(shape) + 0.7 * logits(*shape)
    expected = VALUES[name](target.reshape(N, -1).double(), values.reshape(N, -1).double())
    assert spec(name).score(values, target) == pytest.approx(expected, rel=1e-9)
    assert spec(name).score(values.half(), target.half()) == pytest.approx(
        VALUES[name](target.half().reshape(N, -1).double(), values.half().reshape(N, -1).double()), rel=1e-9
    )


def test_sums_are_in_float64() -> None:
    target = torch.full((4000, 1), 1000.0) + logits(4000, 1) * 0.01
    values = target + 0.01 * logits(4000, 1)
    for name in VALUES:
        expected = VALUES[name](target.double(), values.double())
        assert spec(name).score(values, target) == pytest.approx(expected, rel=1e-9)


def test_whole_numbers_and_ignored_ones_are_values_too() -> None:
    target = torch.randint(-200, 200, (N,), generator=G)
    values = target + logits(N)
    assert spec("mae").score(values, target) == pytest.approx(sk.mean_absolute_error(target, values.double()), rel=1e-9)
    target[:20] = -999
    assert spec("mae", ignore=-999).score(values, target) == pytest.approx(
        sk.mean_absolute_error(target[20:], values[20:].double()), rel=1e-9
    )


# What has no value ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "values", "target", "said"),
    [
        ("auroc", logits(9, 2), torch.zeros(9, dtype=torch.long), "every example is of class 0"),
        ("auroc", logits(9, 4), torch.full((9,), 2), "every example is of class 2"),
        ("auroc", logits(9), torch.zeros(9), "no example is of class 1"),
        ("auroc", logits(9), torch.ones(9), "no example is of class 0"),
        ("auroc", logits(9, 2), torch.tensor([[0, 1]] * 9) * 0 + 1, "no label has both"),
        ("f1", logits(9, 1), torch.zeros(9), "no example is of class 1"),
        ("f1", logits(9, 3), torch.zeros(9, 3), "no example is of class 1"),
        ("accuracy", logits(9, 3), torch.full((9,), -100), "every entry of the target is one that does not count"),
        ("r2", logits(9), torch.full((9,), 0.1), "the target is constant"),
        ("r2", logits(9, 2), torch.stack([torch.arange(9.0), torch.ones(9)], 1), "output 1 of the target is constant"),
    ],
)
def test_what_is_not_defined_is_an_error(name: str, values: Tensor, target: Tensor, said: str) -> None:
    with pytest.raises(Undefined, match=f"'{name}' is not defined here: {said}"):
        spec(name).score(values, target)


def test_ignored_entries_are_no_yes() -> None:
    with pytest.raises(Undefined, match="no example is of class 1"):
        spec("f1", ignore=9).score(logits(4, 2), torch.tensor([[0, 9], [0, 0], [9, 0], [0, 0]]))


@pytest.mark.parametrize("name", METRICS)
def test_a_resample_scores_as_the_examples_that_it_holds(name: str) -> None:
    values, target = (logits(N, C), guided(logits(N, C), 1)) if METRICS[name].unit else (logits(N, 2), logits(N, 2))
    score = METRICS[name].resampler(values, target)
    for seed in range(3):
        index = np.random.default_rng(seed).integers(0, N, N)
        assert score(index) == pytest.approx(METRICS[name].score(values[index], target[index]), rel=1e-9)


def test_a_resample_without_a_class_has_no_score() -> None:
    values, target = logits(6, 2), torch.tensor([0, 0, 0, 0, 1, 1])
    score = METRICS["auroc"].resampler(values, target)
    assert np.isnan(score(np.array([0, 1, 2, 2, 3, 0])))
    assert np.isfinite(score(np.array([0, 1, 4])))
    constant = METRICS["r2"].resampler(torch.tensor([1.0, 2, 3]), torch.tensor([0.1, 0.1, 0.2]))
    assert np.isnan(constant(np.array([0, 1, 1])))
    yes = METRICS["f1"].resampler(torch.tensor([1.0, -1, 1]), torch.tensor([1, 0, 0]))
    assert np.isnan(yes(np.array([1, 2, 2])))


def test_scores_by_example_are_left_out_where_their_mean_is_not_the_metric() -> None:
    values, target = logits(6, 4, 3), torch.randint(0, 3, (6, 4), generator=G)
    accuracy = METRICS["accuracy"]
    assert accuracy.per_example is not None
    assert accuracy.per_example(values, target) is not None
    target[0, 1:] = -100
    assert accuracy.per_example(values, target) is None


def test_what_others_need_to_know() -> None:
    assert {name: s.difference_unit for name, s in METRICS.items()} == dict.fromkeys(
        ("accuracy", "balanced_accuracy", "f1", "auroc"), "points"
    ) | dict.fromkeys(("mse", "mae", "rmse", "r2"), "")
    assert {name: s.bounds for name, s in METRICS.items()} == dict.fromkeys(
        ("accuracy", "balanced_accuracy", "f1", "auroc"), (0.0, 100.0)
    ) | dict.fromkeys(("mse", "mae", "rmse"), (0.0, None)) | {"r2": (None, 1.0)}
    assert [name for name, s in METRICS.items() if s.zero_one] == ["accuracy"]


def test_a_tree_of_targets_needs_a_part_or_a_function() -> None:
    with pytest.raises(BadInput, match=r"'accuracy' looks at one tensor of targets; .* Task\(target='y'\), or give a function"):
        METRICS["accuracy"].score(logits(3, 2), {"y": torch.zeros(3), "z": torch.zeros(3)})  # type: ignore[arg-type]
