"""Which value of the logits answers which question of the target, and which questions count.

Shapes: n examples, P positions of an example (tokens, pixels; 1 where there are none), K classes, labels or outputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from laconic.core.errors import BadInput

IGNORED = -100  # what PyTorch's losses leave out by default
VOID = 255  # what segmentation data calls pixels without a class


class OutOfRange(BadInput):
    """A target names a class that the model does not know.

    Args:
        text: says so.
        value: the target.
    """

    def __init__(self, text: str, value: float = math.nan) -> None:
        super().__init__(text)
        self.value = value


class Ambiguous(BadInput):
    """Two dimensions of the logits could hold the classes."""


@dataclass(frozen=True)
class Answers:
    """Logits and target in one form.

    Attributes:
        form: ``classes`` (one class of K), ``labels`` (each of K is 0 or 1) or ``values`` (numbers).
        scores: (n, P, K).
        target: class numbers (n, P), or (n, P, K).
        known: which entries of the target count, of its shape.
        axis: of the logits, where the classes or labels lie; -1 for values.
    """

    form: Literal["classes", "labels", "values"]
    scores: Tensor
    target: Tensor
    known: Tensor
    axis: int

    @property
    def predicted(self) -> Tensor:
        """The class with the largest score, (n, P); of labels whether the logit is above 0, (n, P, K)."""
        return self.scores.argmax(-1) if self.form == "classes" else self.scores > 0


def read_answers(logits: Tensor, target: Tensor, ignore: float | None = None, axis: int | None = None) -> Answers:
    """Bring the logits and target of a classification into one form.

    - *Classes*: the logits have one dimension more than the target, of K classes: dimension 1 or the last, whichever leaves the target's shape. A target of
      the logits' shape whose entries along that dimension sum to 1 (one-hot, soft labels) means the largest of them.
    - *Labels*: target and logits have one shape, dimension 1 holds the labels; or one logit answers yes or no. Targets between 0 and 1 mean the nearer one.

    A dimension of 1 may be left out of either. Entries of -100 do not count, nor those of `ignore`. 255 does not where the target has positions, at least two
    classes occur beside it, and it is the only number that is no class.

    Args:
        logits: (n, …).
        target: (n, …).
        ignore: the entry of a target that does not count.
        axis: the dimension of the logits that holds the classes or labels; None: the shapes tell it.

    Raises:
        OutOfRange: a class that the model does not know.
        Ambiguous: shapes that fit in two ways.
        BadInput: shapes that do not fit, or targets that are neither classes nor labels.
    """
    axis = _told(axis, logits)
    if target.is_floating_point() and not bool(target.isfinite().all()) and not (ignore is not None and math.isnan(ignore)):
        raise BadInput("a target is not a finite number")
    for view in _views(target):
        if view.shape == logits.shape:
            soft = _soft(logits, view, axis)
            return _labels(logits, view, ignore, _label_axis(logits, axis)) if soft is None else soft
    for view in _views(target):
        axis_of_classes = class_axis(logits, view, axis)
        if axis_of_classes is None:
            continue
        if logits.shape[axis_of_classes] == 1:
            return _labels(logits, view.unsqueeze(axis_of_classes), ignore, axis_of_classes)
        return _classes(logits, view, ignore, axis_of_classes)
    raise BadInput(
        f"logits {tuple(logits.shape)} do not answer a target {tuple(target.shape)}: they need one dimension more, for the classes (1 or the last; another "
        "one by Task(class_axis=…)), or the same shape, for labels of 0 and 1"
    )


def read_values(logits: Tensor, target: Tensor, ignore: float | None = None) -> Answers:
    """Bring the outputs and target of a regression into one form: every entry of an example is an output of its own.

    Args:
        logits: (n, …).
        target: (n, …), of the same shape but for dimensions of 1.
        ignore: the entry of a target that does not count.

    Raises:
        BadInput: shapes that do not fit, or a target that is not finite.
    """
    if _squeezed(logits) != _squeezed(target):
        raise BadInput(f"outputs {tuple(logits.shape)} and target {tuple(target.shape)} must have the same shape, but for dimensions of 1")
    known = _known(target, ignore)
    if not bool(target[known].isfinite().all()):
        raise BadInput("a target is not a finite number")
    n = len(target)
    return Answers("values", logits.reshape(n, 1, -1), target.reshape(n, 1, -1), known.reshape(n, 1, -1), -1)


def class_axis(logits: Tensor, target: Tensor, told: int | None = None) -> int | None:
    """Find the dimension of the logits that holds the classes; None where none fits.

    Args:
        logits: (n, …), one dimension more than the target.
        target: (n, …).
        told: the only dimension to look at.

    Raises:
        Ambiguous: two dimensions fit.
    """
    if logits.dim() != target.dim() + 1 or logits.dim() < 2:
        return None
    shape = tuple(logits.shape)
    fits = [
        axis
        for axis in ([told] if told is not None else sorted({1, logits.dim() - 1}))
        if (*shape[:axis], *shape[axis + 1 :]) == tuple(target.shape)
    ]
    if len(fits) > 1 and shape[fits[0]] > 1:
        raise Ambiguous(
            f"logits {shape} hold the classes of a target {tuple(target.shape)} in dimension {fits[0]} or {fits[1]}: say which, Task(class_axis={fits[0]})"
        )
    return fits[0] if fits else None


def stand_in(answers: Answers, logits: Tensor, target: Tensor) -> Tensor:
    """Return zeros in the shape that the model's logits have for this target; they take no memory of their own.

    Args:
        answers: how a batch of them was read.
        logits: of that batch.
        target: (m, …), of other examples, perhaps of other lengths.
    """
    zero = torch.zeros((), dtype=logits.dtype)
    if answers.form == "values" or target.dim() > logits.dim() or logits.dim() < 2:
        return zero.expand(target.shape)
    axis, entries = answers.axis, logits.shape[answers.axis]
    if target.dim() == logits.dim() and (answers.form == "labels" or target.shape[axis] == entries):
        return zero.expand(target.shape)
    view = next((view for view in _views(target) if view.dim() == logits.dim() - 1), target)
    return zero.expand(*view.shape[:axis], entries, *view.shape[axis:])


def _told(axis: int | None, logits: Tensor) -> int | None:
    if axis is None:
        return None
    if not -logits.dim() <= axis < logits.dim() or axis % logits.dim() == 0:
        raise BadInput(f"class_axis: logits {tuple(logits.shape)} have no dimension {axis} beside the batch")
    return axis % logits.dim()


def _views(target: Tensor) -> Iterator[Tensor]:
    """Yield the target, and the target without its dimensions of 1."""
    yield target
    for axis in sorted({1, target.dim() - 1}):
        if 0 < axis < target.dim() and target.shape[axis] == 1:
            yield target.squeeze(axis)


def _squeezed(values: Tensor) -> tuple[int, ...]:
    return (len(values), *(size for size in values.shape[1:] if size != 1)) if values.dim() else ()


def _known(target: Tensor, *ignored: float | None) -> Tensor:
    known = torch.ones(target.shape, dtype=torch.bool)
    for value in ignored:
        if value is not None:
            known &= ~target.isnan() if math.isnan(value) else target != value
    return known


def _classes(logits: Tensor, target: Tensor, ignore: float | None, axis: int) -> Answers:
    classes = logits.shape[axis]
    known = _known(target, IGNORED, ignore)
    if target.is_floating_point() and not torch.equal(target[known], target[known].round()):
        raise BadInput(
            f"the targets of {classes} classes must be class numbers; one is {float(target[known][target[known] != target[known].round()][0]):g}"
        )
    wrong = known & ((target < 0) | (target >= classes))
    if bool(wrong.any()):
        known = _without_void(target, known, wrong, classes)
    n = len(target)
    numbers = torch.where(known, target, torch.zeros((), dtype=target.dtype)).long()
    return Answers("classes", logits.movedim(axis, -1).reshape(n, -1, classes), numbers.reshape(n, -1), known.reshape(n, -1), axis)


def _without_void(target: Tensor, known: Tensor, wrong: Tensor, classes: int) -> Tensor:
    """Return which entries of a target count whose numbers are not all classes: 255 may stand for positions without one."""
    others = target[wrong]
    void = target.dim() > 1 and bool((others == VOID).all())
    if void and len(target[known & ~wrong].unique()) > 1:
        return known & ~wrong
    low, high = target[known].min(), target[known].max()
    stray = float(high) if high >= classes else float(low)
    told = f" If {stray:g} marks what has no class, say Task(ignore={stray:g})." if void or stray < 0 else ""
    raise OutOfRange(f"a target is {stray:g}; the model knows the classes 0 to {classes - 1}.{told}".removesuffix("."), stray)


def _soft(logits: Tensor, target: Tensor, axis: int | None) -> Answers | None:
    """Return the classes of a target (n, …, K, …) that sums to 1 along one dimension; None where it does not."""
    if logits.dim() < 2 or target.is_complex() or not len(target):
        return None
    numbers = target.double()
    fits = [
        a
        for a in ([axis] if axis is not None else sorted({1, logits.dim() - 1}))
        if target.shape[a] > 1 and bool((numbers >= 0).all()) and bool(((numbers.sum(a) - 1).abs() < 1e-3).all())
    ]
    return _classes(logits, numbers.argmax(fits[0]), None, fits[0]) if len(fits) == 1 else None


def _label_axis(logits: Tensor, told: int | None) -> int:
    if told is not None:
        return told
    if logits.dim() != 3 or logits.shape[1] == 1:
        return 1
    if logits.shape[2] == 1:
        return 2
    raise Ambiguous(
        f"logits and target {tuple(logits.shape)} may hold their labels in dimension 1 or 2: say which, Task(class_axis=2). Where each entry is a yes or no "
        "about the same thing, give Task(logits=…) that adds a dimension of 1: outputs.unsqueeze(1)"
    )


def _labels(logits: Tensor, target: Tensor, ignore: float | None, axis: int) -> Answers:
    known = _known(target, IGNORED, ignore)
    counted = target[known]
    if len(counted) and not 0 <= float(counted.min()) <= float(counted.max()) <= 1:
        stray = float(counted.max()) if float(counted.max()) > 1 else float(counted.min())
        raise OutOfRange(
            f"a target is {stray:g}; where logits {tuple(logits.shape)} answer a target with yes or no, each entry is 0 or 1. "
            f"If {stray:g} marks what has no label, say Task(ignore={stray:g})",
            stray,
        )
    n, yes = len(target), known & (target > 0.5)
    if logits.dim() == 1:
        return Answers("labels", logits.reshape(n, 1, 1), yes.reshape(n, 1, 1), known.reshape(n, 1, 1), 1)
    labels = logits.shape[axis]
    scores, yes, known = (values.movedim(axis, -1).reshape(n, -1, labels) for values in (logits, yes, known))
    return Answers("labels", scores, yes, known, axis)
