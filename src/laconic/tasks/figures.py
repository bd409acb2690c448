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
class Figure:
    """A metric of some answers.

    Attributes:
        of: weights of the examples, shape (n,), to the metric; NaN where it is not defined.
        per_example: each example's share of it, shape (n,), where the metric is their mean.
    """

    of: Weighted
    per_example: np.ndarray | None = None


def accuracy(answers: Answers) -> Figure:
    """The share of right answers among all that count."""
    return _mean(_by_example((answers.predicted == answers.target) & answers.known), _by_example(answers.known))


def balanced_accuracy(answers: Answers) -> Figure:
    """The mean over the classes that occur of the share of their examples that are found; of labels, the mean over labels of that of yes and no."""
    if answers.form == "classes":
        tally = _tally(answers)

        def of(weights: np.ndarray) -> float:
            right, support, _ = tally(weights)
            return _mean_of(right, support)

        return Figure(of)
    right = answers.predicted == answers.target
    yes, no = (_by_label(part) for part in (answers.known & answers.target, answers.known & ~answers.target))
    yes_right, no_right = (_by_label(part & right) for part in (answers.known & answers.target, answers.known & ~answers.target))

    def of_labels(weights: np.ndarray) -> float:
        found = np.stack([_share(weights @ yes_right, weights @ yes), _share(weights @ no_right, weights @ no)])
        return _nanmean(np.array([_nanmean(label) for label in found.T]))

    return Figure(of_labels)


def f1(answers: Answers) -> Figure:
    """The mean of F1 over the classes or labels that occur in the target or in the answers."""
    if answers.form == "classes":
        tally = _tally(answers)

        def of(weights: np.ndarray) -> float:
            right, support, predicted = tally(weights)
            return _mean_of(2 * right, support + predicted)

        return Figure(of)
    yes, said = (_by_label(answers.known & part) for part in (answers.target, answers.predicted))
    right = _by_label(answers.known & answers.target & answers.predicted)

    def of_labels(weights: np.ndarray) -> float:
        support = weights @ yes
        return _mean_of(2 * (weights @ right), support + weights @ said) if support.sum() > 0 else float("nan")

    return Figure(of_labels)


def auroc(answers: Answers) -> Figure:
    """The mean over classes (one against the rest) or labels of the area under the ROC curve; those without both kinds of examples are left out."""
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
    return Figure(lambda weights: _nanmean(np.array([curve(weights) for curve in curves])))


def mse(answers: Answers) -> Figure:
    """The mean squared error over all outputs."""
    error, known = _errors(answers)
    return _mean((error**2).sum(1), known.sum(1))


def mae(answers: Answers) -> Figure:
    """The mean absolute error over all outputs."""
    error, known = _errors(answers)
    return _mean(np.abs(error).sum(1), known.sum(1))


def rmse(answers: Answers) -> Figure:
    """The mean over outputs of the root of the mean squared error."""
    error, known = _errors(answers)
    squared = error**2
    return Figure(lambda weights: _nanmean(np.sqrt(_share(weights @ squared, weights @ known))))


def r2(answers: Answers) -> Figure:
    """The mean over outputs of the share of the target's variance that is explained; not defined where an output's target is constant."""
    error, known = _errors(answers)
    target = np.where(known, _numbers(answers.target)[:, 0], 0.0)

    def of(weights: np.ndarray) -> float:
        counted = weights[:, None] * known
        mean = _share(weights @ target, counted.sum(0))
        least, most = np.where(counted > 0, target, np.inf).min(0), np.where(counted > 0, target, -np.inf).max(0)
        if not (most > least).all():
            return float("nan")
        return float(np.mean(1 - (weights @ error**2) / (counted * (target - mean) ** 2).sum(0)))

    return Figure(of)


def nothing_known(answers: Answers) -> str | None:
    """Why no metric is defined of this target; None where one is."""
    return None if bool(answers.known.any()) else "every entry of the target is one that does not count"


def without_yes(answers: Answers) -> str | None:
    """Why F1 is not defined of this target; None where it is."""
    if (why := nothing_known(answers)) or answers.form == "classes":
        return why
    return None if bool(answers.target.any()) else "no example is of class 1 (yes)"


def one_sided(answers: Answers) -> str | None:
    """Why AUROC is not defined of this target; None where it is."""
    if why := nothing_known(answers):
        return why
    if answers.form == "classes":
        found = answers.target[answers.known].unique()
        return None if len(found) > 1 else f"every example is of class {int(found[0])}; it needs examples of a second class"
    yes, no = ((answers.known & part).reshape(-1, answers.target.shape[-1]).any(0) for part in (answers.target, ~answers.target))
    if bool((yes & no).any()):
        return None
    if answers.target.shape[-1] == 1:
        return f"no example is of class {0 if bool(yes.any()) else 1}"
    return "no label has both examples of class 1 (yes) and of class 0 (no)"


def constant_output(answers: Answers) -> str | None:
    """Why R² is not defined of this target; None where it is."""
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
    """Counts (n, K) of (n, P, K)."""
    return np.asarray(counted.sum(1).double().numpy())


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """The quotient, NaN where nothing is counted."""
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0)


def _nanmean(values: np.ndarray) -> float:
    """The mean of what is defined; NaN where nothing is."""
    counted = values[~np.isnan(values)]
    return float(counted.mean()) if len(counted) else float("nan")


def _mean_of(part: np.ndarray, whole: np.ndarray) -> float:
    return _nanmean(_share(part, whole))


def _mean(total: np.ndarray, counts: np.ndarray) -> Figure:
    """A mean over answers: also one over examples where each has as many."""
    even = counts[0] > 0 and bool((counts == counts[0]).all())

    def of(weights: np.ndarray) -> float:
        whole = float(weights @ counts)
        return float(weights @ total) / whole if whole > 0 else float("nan")

    return Figure(of, total / counts if even else None)


def _tally(answers: Answers) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """From weights to the counts of each class, shape (K,): right answers, examples, answers."""
    classes, known = answers.scores.shape[-1], answers.known.numpy()
    target, predicted = (values.numpy()[known] for values in (answers.target, answers.predicted))
    example = np.nonzero(known)[0]
    right = target == predicted

    def of(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        each = weights[example]
        return tuple(np.bincount(numbers, each * part, classes) for numbers, part in ((target, right), (target, 1), (predicted, 1)))  # type: ignore[return-value]

    return of


def _odds(scores: np.ndarray) -> np.ndarray:
    """What ranks examples as the probability of each class does, (N, K), and does not round to 1 where the model is sure.

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
    """The area under the ROC curve by weights: the chance that a positive has the higher score than a negative, equal scores counted half."""
    order = np.argsort(scores, kind="stable")
    ranked, positive, example = scores[order], positive[order].astype(float), example[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]]) if len(ranked) else np.zeros(0, int)

    def of(weights: np.ndarray) -> float:
        each = weights[example]
        yes, no = each @ positive, each @ (1 - positive)
        if not yes or not no:
            return float("nan")
        above, below = np.add.reduceat(each * positive, starts), np.add.reduceat(each * (1 - positive), starts)
        return float((above * (np.cumsum(below) - below / 2)).sum() / (yes * no))

    return of


def _errors(answers: Answers) -> tuple[np.ndarray, np.ndarray]:
    """Output less target (n, K), 0 where nothing counts, and what counts as 0 and 1."""
    known = answers.known[:, 0].numpy()
    target = np.where(known, _numbers(answers.target)[:, 0], 0.0)
    return np.where(known, _numbers(answers.scores)[:, 0] - target, 0.0), known.astype(float)
