"""Label smoothing of any loss over classes, and the losses that see to it themselves.

Shapes: B batch, C classes, … positions (tokens, pixels).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from laconic.core.errors import BadInput

Loss = Callable[[Any, Any], Tensor]
_SUM = 1e-3  # how far the sum of a target's probabilities may lie from 1


class PlanLoss(ABC):
    """A loss that applies the plan's label smoothing by itself, to the part that it is meant for; a training loop adds none."""

    @abstractmethod
    def __call__(self, outputs: Any, target: Any) -> Tensor:
        """Return the loss, a scalar."""


@dataclass(frozen=True)
class SmoothedLoss:
    """(1 − share) · loss + share · the mean cross-entropy to all classes alike (Szegedy et al. 2016, section 7).

    Of a mean cross-entropy it is PyTorch's `label_smoothing`. Targets that are no class (an ignored label) are left out, and those of `ignore`; `class_axis`
    says where the classes are if the shapes do not.
    """

    loss: Loss
    share: float
    logits: Callable[[Any], Tensor]
    ignore: float | None = None
    class_axis: int | None = None

    def __call__(self, outputs: Any, target: Any) -> Tensor:
        """Return the loss, a scalar.

        Raises:
            BadInput: the target tells no classes for these answers.
        """
        even = to_all_classes(self.logits(outputs), target, self.ignore, self.class_axis)
        return (1 - self.share) * self.loss(outputs, target) + self.share * even


def smoothed(loss: Loss, share: float, logits: Callable[[Any], Tensor]) -> Loss:
    """Return the loss with so much label smoothing; itself, where there is none or it sees to it itself."""
    return loss if not share or isinstance(loss, PlanLoss) else SmoothedLoss(loss, share, logits)


def to_all_classes(logits: Tensor, target: Any, ignore: float | None = None, class_axis: int | None = None) -> Tensor:
    """Return the mean cross-entropy of the answers to a target that is even over all classes, a scalar.

    Args:
        logits: (B, C), (B, C, …) or (B, …, C).
        target: class numbers (B, …), probabilities of the shape of the logits, or anything else beside logits (B, C).
        ignore: a class number that does not count, beside those that are none.
        class_axis: the dimension of the classes; None: the one that the shapes tell.
    """
    axis = _class_axis(logits, target) if class_axis is None else class_axis % logits.dim()
    each = -F.log_softmax(logits, axis).mean(axis)
    if not isinstance(target, Tensor) or target.is_floating_point():
        return each.mean()
    known = (target >= 0) & (target < logits.shape[axis])
    known = (known if ignore is None else known & (target != ignore)).reshape(each.shape)
    return torch.where(known, each, 0.0).sum() / known.sum()


def _class_axis(logits: Tensor, target: Any) -> int:
    """Return the dimension of the logits in which the classes lie: the second, as PyTorch's losses have it, or the last."""
    if not isinstance(target, Tensor) and logits.dim() == 2:
        return 1
    if isinstance(target, Tensor) and logits.dim() > 1:
        for axis in (1, logits.dim() - 1):
            if logits.shape[axis] > 1 and _tells(target, logits, axis):
                return axis
    shown = f"{tuple(target.shape)} of {target.dtype}" if isinstance(target, Tensor) else type(target).__name__
    raise BadInput(
        f"label_smoothing is for answers over classes, (B, C, …), with class numbers (B, …) or their probabilities as the target; the answers are "
        f"{tuple(logits.shape)} and the target is {shown}. Leave label_smoothing out."
    )


def _tells(target: Tensor, logits: Tensor, axis: int) -> bool:
    if target.is_floating_point():
        return target.shape == logits.shape and bool(((target.sum(axis) - 1).abs() < _SUM).all() and (target >= 0).all())
    positions = [size for index, size in enumerate(logits.shape) if index != axis and size != 1]
    return [size for size in target.shape if size != 1] == positions
