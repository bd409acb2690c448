"""Which classes the training data holds: what no example shows cannot be learned."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from laconic.core.answers import class_axis
from laconic.core.errors import BadInput
from laconic.core.task import default_logits

_NAMED = 10  # of the classes without an example


class Classes:
    """Counts the examples of each class over batches; whatever is no classification is not counted."""

    def __init__(self) -> None:
        self.counts: Tensor | None = None

    def add(self, outputs: Any, target: Any) -> None:
        """Count a batch.

        Args:
            outputs: as of the model, logits (B, K), (B, K, …) or (B, …, K).
            target: class numbers (B,) or (B, …), of which those that are no class are not counted; or labels of 0 and 1, (B, K).
        """
        if isinstance(target, dict) and "target" in target:  # with a teacher's answers beside it
            target = target["target"]
        if not isinstance(target, Tensor) or target.is_complex():
            return
        try:
            logits = default_logits(outputs)
            counted = _labels(logits, target) if logits.shape == target.shape else _classes(logits, target)
        except BadInput:
            return
        if counted is not None and (self.counts is None or len(self.counts) == len(counted)):
            self.counts = counted if self.counts is None else self.counts + counted

    def missing(self, accelerator: Any) -> str | None:
        """Return a sentence about the classes that no process has seen; None where all are there."""
        if self.counts is None:
            return None
        empty = (accelerator.reduce(self.counts.to(accelerator.device), "sum") == 0).nonzero().flatten().tolist()
        if not empty:
            return None
        named = ", ".join(str(index) for index in empty[:_NAMED]) + (", …" if len(empty) > _NAMED else "")
        return f"{len(empty)} of {len(self.counts)} classes have no example in the training data and cannot be learned: {named}"


def _classes(logits: Tensor, target: Tensor) -> Tensor | None:
    """Count the positions of each class, (K,)."""
    if target.is_floating_point() or (axis := class_axis(logits, target)) is None or logits.shape[axis] < 2:
        return None
    known = (target >= 0) & (target < logits.shape[axis])  # a loss of one's own may take other numbers
    return torch.bincount(target[known].long(), minlength=logits.shape[axis])


def _labels(logits: Tensor, target: Tensor) -> Tensor | None:
    """Count the examples of each label, (K,); None where the target holds other numbers than 0 and 1."""
    if target.dim() != 2 or target.shape[1] < 2 or not bool(((target == 0) | (target == 1)).all()):
        return None
    return target.sum(0).long()
