"""Between a value of the student and one of the teacher: pooled to one size and projected to one number of channels where a loss needs it."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laconic.core.errors import BadInput
from laconic.core.plan import Hint
from laconic.distill.losses import HintLoss, channel_axis

Shape = tuple[int, ...]
_POOLS: dict[int, Callable[..., Tensor]] = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}


class Bridge(nn.Module):
    """Makes two values comparable. Its parameters, if it has any, are the student's to learn.

    Args:
        row: what the loss needs.
        hint: for errors: both paths.
        student: an example of the student's value.
        teacher: an example of the teacher's value.

    Raises:
        BadInput: the loss does not take such values, or shapes that nothing brings together; names both paths and shapes.
    """

    def __init__(self, row: HintLoss, hint: Hint, student: Tensor, teacher: Tensor) -> None:
        super().__init__()
        ours, theirs = tuple(student.shape), tuple(teacher.shape)
        place = f"the hint '{hint.loss}' between '{hint.student}' {ours} of the student and '{hint.teacher or hint.student}' {theirs} of the teacher"
        self.pooled: Shape = ()
        self.axis = -1
        self.project: nn.Module = nn.Identity()
        _check(row, place, ours, theirs)
        if not (row.space or row.project):
            return
        self.axis = channel_axis(ours, theirs) if row.space else len(ours) - 1
        sizes, wanted = ([n for i, n in enumerate(shape) if i not in (0, self.axis)] for shape in (ours, theirs))
        if sizes != wanted:
            multiples = all(max(pair) % min(pair) == 0 for pair in zip(sizes, wanted, strict=True))
            if not (row.space and self.axis == 1 and multiples):
                raise BadInput(
                    f"{place}: positions {tuple(sizes)} and {tuple(wanted)} are no maps of which one pools to the other. Tap other modules."
                )
            self.pooled = tuple(map(min, sizes, wanted))
        if row.project and ours[self.axis] != theirs[self.axis]:
            self.project = _projector(len(ours), self.axis, ours[self.axis], theirs[self.axis]).to(student.device, student.dtype)

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Return the two values, of one shape where the loss needs it."""
        if self.pooled:
            student, teacher = (_POOLS[len(self.pooled)](value, self.pooled) for value in (student, teacher))
        return self.project(student), teacher


def _check(row: HintLoss, place: str, ours: Shape, theirs: Shape) -> None:
    if row.dims and not {len(ours), len(theirs)} <= set(row.dims):
        raise BadInput(f"{place} needs values of {' or '.join(map(str, row.dims))} dimensions.")
    if (row.space or row.project) and len(ours) != len(theirs):
        raise BadInput(f"{place} needs values of equally many dimensions. Tap other modules.")
    for axis in row.same:
        if ours[axis] != theirs[axis]:
            raise BadInput(f"{place} needs the same size of dimension {axis}. Tap other modules, or choose another loss.")


def _projector(dims: int, axis: int, inputs: int, outputs: int) -> nn.Module:
    """Build a linear map of one dimension: a 1×1 convolution where positions follow, else a linear layer."""
    if axis == dims - 1:
        return nn.Linear(inputs, outputs)
    return {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}[dims](inputs, outputs, 1)


def build(row: HintLoss, hint: Hint, student: Tensor, teacher: Tensor, seed: int) -> Bridge:
    """Build a bridge whose weights depend on the seed alone; see `Bridge`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Bridge(row, hint, student, teacher)
