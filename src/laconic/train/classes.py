"""Which classes the training data holds: what no example shows cannot be learned."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from laconic.core.errors import BadInput
from laconic.core.task import default_logits

_NAMED = 10  # of the classes without an example


class Classes:
    """Counts the examples of each class over batches; whatever is no classification by class numbers is not counted."""

    def __init__(self) -> None:
        self.counts: Tensor | None = None

    def add(self, outputs: Any, target: Any) -> None:
        """Count a batch: outputs as of the model, logits (B, K); target (B,) of class numbers."""
        if isinstance(target, dict) and "target" in target:  # with a teacher's answers beside it
            target = target["target"]
        if not isinstance(target, Tensor) or target.dim() != 1 or target.is_floating_point() or target.is_complex():
            return
        try:
            logits = default_logits(outputs)
        except BadInput:
            return
        if logits.dim() != 2 or logits.shape[1] < 2 or len(logits) != len(target):
            return
        known = (target >= 0) & (target < logits.shape[1])  # a loss of one's own may take other numbers
        counted = torch.bincount(target[known].long(), minlength=logits.shape[1])
        self.counts = counted if self.counts is None else self.counts + counted

    def missing(self, accelerator: Any) -> str | None:
        """A sentence about the classes that no process has seen; None where all are there."""
        if self.counts is None:
            return None
        empty = (accelerator.reduce(self.counts.to(accelerator.device), "sum") == 0).nonzero().flatten().tolist()
        if not empty:
            return None
        named = ", ".join(str(index) for index in empty[:_NAMED]) + (", …" if len(empty) > _NAMED else "")
        return f"{len(empty)} of {len(self.counts)} classes have no example in the training data and cannot be learned: {named}"
