"""Training beside a teacher: a program before it was changed tells the changed one what to answer."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from laconic.core.program import Program
from laconic.core.task import Task, default_logits

Distill = Callable[[Any, Any], Tensor]  # (student's outputs, teacher's outputs) -> scalar


def soft_targets(temperature: float) -> Distill:
    """Cross entropy to the teacher's softened answers, times T² (Hinton et al. 2015, section 2)."""

    def loss(student: Any, teacher: Any) -> Tensor:
        ours, theirs = default_logits(student) / temperature, default_logits(teacher) / temperature
        return F.kl_div(F.log_softmax(ours, -1), F.log_softmax(theirs, -1), log_target=True, reduction="batchmean") * temperature**2

    return loss


def with_teacher(program: Program, task: Task, share: float, distill: Distill) -> tuple[Any, Any]:
    """The task's split and loss, with the teacher's answers travelling beside the target.

    Args:
        program: the teacher; a copy of it answers in eval mode.
        share: weight of `distill`; the task's loss has the rest.
    """
    teacher = copy.deepcopy(program).eval()
    assert task.loss is not None
    hard = task.loss

    def split(batch: Any) -> tuple[Any, Any]:
        inputs, target = task.split(batch)
        with torch.no_grad():
            return inputs, (target, teacher.call(inputs))

    def loss(outputs: Any, target: Any) -> Tensor:
        return (1 - share) * hard(outputs, target[0]) + share * distill(outputs, target[1])

    return split, loss
