"""What named metrics compute, in float64, with a weight for each example: a resample is how often it holds each.

Shapes: n examples, P positions of an example, K classes, labels or outputs; see `core.answers`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from laconic.core.answers import Answers

Weighted = Callable[[np.ndarray], float]


@dataclass(frozen=True)
class WeightedMetric:
    """A metric of some answers.

    Attributes:
        value: weights of the examples, shape (n,), to the metric; NaN where it is not defined.
        per_example: each example's share of it, shape (n,), where the metric is their mean.
    """

    value: Weighted
    per_example: np.ndarray | None = None


def accuracy(answers: Answers) -> WeightedMetric:
    """Compute the share of right answers among all that count."""
    return _mean(_by_example((answers.predicted == answers.target) & answers.known), _by_example(answers.known))


def balanced_accuracy(answers: Answers) -> WeightedMetric:
    """Compute the mean recall of the classes that occur; of labels, the mean over labels of the mean recall of yes and no."""
    if answers.form == "classes":
        tally = _tally(answers)

        def value(weights: np.ndarray) -> float:
            right, support, _ = tally(weights)
            return _mean_of(right, support)

        return WeightedMetric(value)
    right = answers.predicted == answers.target
    yes, no = (_by_label(part) for part in (answers.known & answers.target, answers.known & ~answers.target))
    yes_right, no_right = (_by_label(part & right) for part in (answers.known & answers.target, answers.known & ~answers.target))

    def value_of_labels(weights: np.ndarray) -> float:
        recalls = np.stack([_share(weights @ yes_right, weights @ yes), _share(weights @ no_right, weights @ no)])
        return _nanmean(np.array([_nanmean(label) for label in recalls.T]))

    return WeightedMetric(value_of_labels)


def f1(answers: Answers) -> WeightedMetric:
    """Compute the mean of F1 over the classes or labels that occur in the target or in the answers."""
    if answers.form == "classes":
        tally = _tally(answers)

        def value(weights: np.ndarray) -> float:
            right, support, predicted = tally(weights)
            return _mean_of(2 * right, support + predicted)

        return WeightedMetric(value)
    yes, said = (_by_label(answers.known & part) for part in (answers.target, answers.predicted))
    right = _by_label(answers.known & answers.target & answers.predicted)

    def value_of_labels(weights: np.ndarray) -> float:
        support = weights @ yes
        return _mean_of(2 * (weights @ right), support + weights @ said) if support.sum() > 0 else float("nan")

    return WeightedMetric(value_of_labels)


def auroc(answers: Answers) -> WeightedMetric:
    """Compute the mean area under the ROC curve over classes (one against the rest) or labels; those without both kinds of examples are left out."""
    n, positions, labels = answers.scores.shape
    example = np.repeat(np.arange(n), positions)
    known = answers.known.reshape(n * positions, -1).numpy()
    target = answers.target.reshape(n * positions, -1).numpy()
    scores = _numbers(answers.scores).reshape(n * positions, labels)
    if answers.form == "classes":
        kept = known[:, 0]
        example, target = example[kept], target[kept, 0]
        scores = _odds(scores[kept])
        curves = [_curve(scores[:, k], target == k, example) for k in np.unique(target)]
    else:
        curves = [_curve(scores[known[:, k], k], target[known[:, k], k], example[known[:, k]]) for k in range(labels)]
    return WeightedMetric(lambda weights: _nanmean(np.array([curve(weights) for curve in curves])))


def mse(answers: Answers) -> WeightedMetric:
    """Compute the mean squared error over all outputs."""
    error, known = _errors(answers)
    return _mean((error**2).sum(1), known.sum(1))


def mae(answers: Answers) -> WeightedMetric:
    """Compute the mean absolute error over all outputs."""
    error, known = _errors(answers)
    return _mean(np.abs(error).sum(1), known.sum(1))


def rmse(answers: Answers) -> WeightedMetric:
    """Compute the mean over outputs of the root of the mean squared error."""
    error, known = _errors(answers)
    squared = error**2
    return WeightedMetric(lambda weights: _nanmean(np.sqrt(_share(weights @ squared, weights @ known))))


def r2(answers: Answers) -> WeightedMetric:
    """Compute the mean over outputs of the share of the target's variance that is explained; not defined where an output's target is constant."""
    error, known = _errors(answers)
    target = np.where(known, _numbers(answers.target)[:, 0], 0.0)

    def value(weights: np.ndarray) -> float:
        counted = weights[:, None] * known
        mean = _share(weights @ target, counted.sum(0))
        least, most = np.where(counted > 0, target, np.inf).min(0), np.where(counted > 0, target, -np.inf).max(0)
        if not (most > least).all():
            return float("nan")
        return float(np.mean(1 - (weights @ error**2) / (counted * (target - mean) ** 2).sum(0)))

    return WeightedMetric(value)


def nothing_known(answers: Answers) -> str | None:
    """Return why no metric is defined of this target; None where one is."""
    return None if bool(answers.known.any()) else "every entry of the target is one that does not count"


def without_yes(answers: Answers) -> str | None:
    """Return why F1 is not defined of this target; None where it is."""
    if (why := nothing_known(answers)) or answers.form == "classes":
        return why
    return None if bool(answers.target.any()) else "no example is of class 1 (yes)"


def one_sided(answers: Answers) -> str | None:
    """Return why AUROC is not defined of this target; None where it is."""
    if why := nothing_known(answers):
        return why
    if answers.form == "classes":
        classes = answers.target[answers.known].unique()
        return None if len(classes) > 1 else f"every example is of class {int(classes[0])}; it needs examples of a second class"
    yes, no = ((answers.known & part).reshape(-1, answers.target.shape[-1]).any(0) for part in (answers.target, ~answers.target))
    if bool((yes & no).any()):
        return None
    if answers.target.shape[-1] == 1:
        return f"no example is of class {0 if bool(yes.any()) else 1}"
    return "no label has both examples of class 1 (yes) and of class 0 (no)"


def constant_output(answers: Answers) -> str | None:
    """Return why R² is not defined of this target; None where it is."""
    if why := nothing_known(answers):
        return why
    for output in range(answers.target.shape[-1]):
        counted = answers.target[:, 0, output][answers.known[:, 0, output]]
        if not len(counted) or bool((counted == counted[0]).all()):
            which = f"output {output} of the target" if answers.target.shape[-1] > 1 else "the target"
            return f"{which} is constant, there is no variance to explain"
    return None


def _numbers(values: Tensor) -> np.ndarray:
    return values.detach().double().numpy()


def _by_example(counted: Tensor) -> np.ndarray:
    return np.asarray(counted.reshape(len(counted), -1).sum(1).double().numpy())


def _by_label(counted: Tensor) -> np.ndarray:
    """Count entries (n, P, K) that are true by example and label, (n, K)."""
    return np.asarray(counted.sum(1).double().numpy())


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Divide; NaN where nothing is counted."""
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0)


def _nanmean(values: np.ndarray) -> float:
    """Return the mean of what is defined; NaN where nothing is."""
    counted = values[~np.isnan(values)]
    return float(counted.mean()) if len(counted) else float("nan")


def _mean_of(part: np.ndarray, whole: np.ndarray) -> float:
    return _nanmean(_share(part, whole))


def _mean(total: np.ndarray, counts: np.ndarray) -> WeightedMetric:
    """Return a mean over answers; it is one over examples too where each has as many."""
    even = counts[0] > 0 and bool((counts == counts[0]).all())

    def value(weights: np.ndarray) -> float:
        whole = float(weights @ counts)
        return float(weights @ total) / whole if whole > 0 else float("nan")

    return WeightedMetric(value, total / counts if even else None)


def _tally(answers: Answers) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return a function from weights to the counts of each class, shape (K,): right answers, examples, answers."""
    classes, known = answers.scores.shape[-1], answers.known.numpy()
    target, predicted = (values.numpy()[known] for values in (answers.target, answers.predicted))
    example = np.nonzero(known)[0]
    right = target == predicted

    def value(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        each = weights[example]
        return tuple(np.bincount(numbers, each * part, classes) for numbers, part in ((target, right), (target, 1), (predicted, 1)))  # type: ignore[return-value]

    return value


def _odds(scores: np.ndarray) -> np.ndarray:
    """Return scores (N, K) that rank examples as the probability of each class does, and that do not round to 1 where the model is sure.

    Rows that are probabilities stay as they are; of logits it is the logit less the logarithm of the summed exponentials of the others.
    """
    if len(scores) and (scores >= 0).all() and np.allclose(scores.sum(1), 1, atol=1e-2):
        return scores
    first = scores.argmax(1)
    every = np.arange(len(scores))
    largest = scores.max(1, keepdims=True)
    powers = np.exp(scores - largest)
    with np.errstate(divide="ignore"):
        others = np.log(np.clip(powers.sum(1, keepdims=True) - powers, 0, None)) + largest
        masked = scores.copy()
        masked[every, first] = -np.inf
        second = masked.max(1)
        others[every, first] = second + np.log(np.exp(masked - second[:, None]).sum(1))
    return np.asarray(scores - others)


def _curve(scores: np.ndarray, positive: np.ndarray, example: np.ndarray) -> Weighted:
    """Return the area under the ROC curve by weights: the chance that a positive has the higher score than a negative, equal scores counted half."""
    order = np.argsort(scores, kind="stable")
    ranked, positive, example = scores[order], positive[order].astype(float), example[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]]) if len(ranked) else np.zeros(0, int)

    def value(weights: np.ndarray) -> float:
        each = weights[example]
        yes, no = each @ positive, each @ (1 - positive)
        if not yes or not no:
            return float("nan")
        above, below = np.add.reduceat(each * positive, starts), np.add.reduceat(each * (1 - positive), starts)
        return float((above * (np.cumsum(below) - below / 2)).sum() / (yes * no))

    return value


def _errors(answers: Answers) -> tuple[np.ndarray, np.ndarray]:
    """Return output less target (n, K), 0 where nothing counts, and what counts as 0 and 1."""
    known = answers.known[:, 0].numpy()
    target = np.where(known, _numbers(answers.target)[:, 0], 0.0)
    return np.where(known, _numbers(answers.scores)[:, 0] - target, 0.0), known.astype(float)
