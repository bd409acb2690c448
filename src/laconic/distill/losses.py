"""Losses between a student and its teacher: two tables, one for what they answer, one for what goes on inside them.

Shapes: B batch, K classes, C channels, L tokens, D features, N heads, d head size. Every loss is a mean over the batch, so that a weight means the same for
any batch size; where a paper sums, that is the difference from it. The teacher's side carries no gradient.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from laconic.core.errors import BadInput
from laconic.core.extensions import extended

TapKind = Literal["output", "attention", "values"]
GROUP = "laconic.losses"  # of entry points: each names a `Soft` or a `HintLoss`
_EPSILON = 1e-12


@dataclass(frozen=True)
class Soft:
    """A loss between answers.

    Args:
        loss: `(student's logits (B, K), teacher's logits (B, K), target (B,) or None, temperature) -> scalar`.
        source: paper, section and equation.
        needs_target: whether it looks at the class that is right.
        classes: the least number of classes with which it says anything.
    """

    loss: Callable[[Tensor, Tensor, Tensor | None, float], Tensor]
    source: str
    needs_target: bool = False
    classes: int = 2


@dataclass(frozen=True)
class HintLoss:
    """A loss between inner values.

    Args:
        loss: `(student's value, teacher's value) -> scalar`.
        source: paper, section and equation.
        value: what is tapped: the module's ``output``, the ``attention`` maps computed in it (B, N, L, L), or the ``values`` that they weigh (B, N, L, d).
        dims: numbers of dimensions that it takes; empty: any.
        same: dimensions in which both must agree.
        space: pool the larger of two maps (B, C, …) to the size of the smaller.
        project: learn a linear map of the student's channels or features, where the teacher has another number of them.
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    source: str
    value: TapKind = "output"
    dims: tuple[int, ...] = ()
    same: tuple[int, ...] = (0,)
    space: bool = False
    project: bool = False


def soft_targets(student: Tensor, teacher: Tensor, target: Tensor | None, temperature: float) -> Tensor:
    """Compute T² · KL(teacher ‖ student) of the softened answers (Hinton et al. 2015, section 2)."""
    ours, theirs = (F.log_softmax(logits.flatten(0, -2) / temperature, -1) for logits in (student, teacher))
    return F.kl_div(ours, theirs, log_target=True, reduction="batchmean") * temperature**2


def dkd(student: Tensor, teacher: Tensor, target: Tensor | None, temperature: float, alpha: float = 1.0, beta: float = 8.0) -> Tensor:
    """Compute decoupled distillation: T² · (alpha · TCKD + beta · NCKD) (Zhao et al. 2022, section 3.3, eq. 7).

    TCKD is the divergence of "the right class or not", NCKD that among the wrong ones. With alpha 1 and beta 1 − p, p being the teacher's softened
    probability of the right class, it is the loss of `soft_targets`.

    Raises:
        BadInput: the target does not hold one class number for each example.
    """
    if target is None or target.is_floating_point() or target.shape != student.shape[:-1]:
        shown = "missing" if target is None else f"{tuple(target.shape)} of {target.dtype}"
        raise BadInput(
            f"dkd needs the right class of each example, integers of shape {tuple(student.shape[:-1])}; the target is {shown}. Use soft_targets."
        )
    wrong = torch.ones_like(student, dtype=torch.bool).scatter_(-1, target.unsqueeze(-1), False)
    ours, theirs = (_decoupled(logits / temperature, wrong) for logits in (student, teacher))
    tckd = F.kl_div(ours[0], theirs[0], log_target=True, reduction="none").sum(-1)
    nckd = F.kl_div(ours[1], theirs[1], log_target=True, reduction="none").sum(-1)
    return (alpha * tckd + beta * nckd).mean() * temperature**2


def _decoupled(logits: Tensor, wrong: Tensor) -> tuple[Tensor, Tensor]:
    """Return log-probabilities of (right, wrong), shape (…, 2), and those among the wrong classes, (…, K − 1)."""
    shape = (*logits.shape[:-1], logits.shape[-1] - 1)
    others = logits[wrong].view(shape)
    right = logits[~wrong].view(shape[:-1])
    both = torch.stack([right, others.logsumexp(-1)], -1)
    return F.log_softmax(both, -1), F.log_softmax(others, -1)


def mse_logits(student: Tensor, teacher: Tensor, target: Tensor | None, temperature: float) -> Tensor:
    """Compute the mean squared difference of the logits (Ba & Caruana 2014, eq. 1); the temperature does not matter. Also for regression."""
    return F.mse_loss(student, teacher)


SOFT: dict[str, Soft] = {
    "soft_targets": Soft(soft_targets, "Hinton et al. 2015, section 2"),
    "dkd": Soft(dkd, "Zhao et al. 2022, eq. 7", needs_target=True),
    "mse_logits": Soft(mse_logits, "Ba & Caruana 2014, eq. 1", classes=1),
}


def channel_axis(student: tuple[int, ...], teacher: tuple[int, ...]) -> int:
    """Return the dimension of channels or features in two shapes.

    The last of (B, D) and (B, L, D), the second of (B, C, H, W) and (B, C, D, H, W). But where only the last of four differs it is that one, as of
    (B, H, W, C), and where only the middle of three differs it is that one, as of (B, C, L).
    """
    n = len(student)
    if n > 3:
        return n - 1 if student != teacher and student[1:-1] == teacher[1:-1] else 1
    return 1 if n == 3 and student != teacher and student[2] == teacher[2] else n - 1


def features(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute the mean squared difference of values of one shape (Romero et al. 2015, eq. 3, where it is half the sum)."""
    return F.mse_loss(student, teacher)


def cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute 1 − cosine of the angle between feature vectors, mean over all positions (Sanh et al. 2019, section 2, "cosine embedding loss")."""
    return 1 - F.cosine_similarity(student, teacher, dim=channel_axis(tuple(student.shape), tuple(teacher.shape))).mean()


def attention_transfer(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute half the distance between normalized maps of the sums of squares over channels.

    Zagoruyko & Komodakis 2017, eq. 2, p = 2, the term behind β.
    """
    axis = channel_axis(tuple(student.shape), tuple(teacher.shape))
    ours, theirs = (F.normalize(value.square().sum(axis).flatten(1), dim=1) for value in (student, teacher))
    return torch.linalg.vector_norm(ours - theirs, dim=1).mean() / 2


def similarity(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute the squared difference of the normalized matrices of inner products between examples, over B² (Tung & Mori 2019, eq. 1 to 4)."""
    ours, theirs = (F.normalize(flat @ flat.T, dim=1) for flat in (student.reshape(len(student), -1), teacher.reshape(len(teacher), -1)))
    return F.mse_loss(ours, theirs)


def rkd_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute the Huber loss between distances of pairs, each in units of the mean distance; 0 for one example.

    Park et al. 2019, section 3.2.1, where it is a sum.
    """
    if len(student) < 2:
        return student.sum() * 0
    ours, theirs = (_distances(value) for value in (student, teacher))
    return F.smooth_l1_loss(ours, theirs)


def _distances(value: Tensor) -> Tensor:
    """Return the distances of all pairs over their mean, shape (B(B − 1)/2,)."""
    distances = F.pdist(value.flatten(1))
    return distances / distances.mean().clamp(min=_EPSILON)


def rkd_angle(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute the Huber loss between the cosines of the angles of all triples; 0 for fewer than three examples (Park et al. 2019, section 3.2.2: a sum there).

    Memory grows with B³, not with B² · D: inner products of differences come from those of the centered values.
    """
    n = len(student)
    if n < 3:
        return student.sum() * 0
    i, j, k = (torch.arange(n, device=student.device).view(shape) for shape in ((n, 1, 1), (1, n, 1), (1, 1, n)))
    distinct = (i != j) & (j != k) & (i != k)
    ours, theirs = (_angles(value)[distinct] for value in (student, teacher))
    return F.smooth_l1_loss(ours, theirs)


def _angles(value: Tensor) -> Tensor:
    """Return the cosines at j of the angle i-j-k, shape (B, B, B) in the order i, j, k."""
    flat = value.flatten(1)
    flat = flat - flat.mean(0)
    gram = flat @ flat.T
    squares = gram.diagonal()
    lengths = (squares[:, None] + squares[None] - 2 * gram).clamp(min=_EPSILON).sqrt()
    products = gram[:, None, :] - gram[:, :, None] - gram[None] + squares[None, :, None]
    return products / (lengths[:, :, None] * lengths[None])


def attention_maps(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute the mean squared difference of attention maps (B, N, L, L), of their means over heads where these differ in number (Jiao et al. 2020, eq. 7).

    TinyBERT compares scores before softmax; here they are probabilities, which masks do not make infinite.
    """
    if student.shape != teacher.shape:
        student, teacher = (value.mean(1) if value.dim() == 4 else value for value in (student, teacher))
    return F.mse_loss(student, teacher)


def value_relations(student: Tensor, teacher: Tensor, heads: int | None = None) -> Tensor:
    """Compute KL(teacher ‖ student) of softmax(V Vᵀ/√d), mean over heads and tokens (Wang et al. 2020, section 3.2). Padded tokens count too.

    Args:
        student: values (B, N, L, d), or (B, L, D), which are split into `heads`.
        teacher: the same, of any size of head.
        heads: None: as many as both are divided into; one relation over all D features where neither says.
    """
    known = [value.shape[1] for value in (student, teacher) if value.dim() == 4]
    heads = heads or (math.gcd(*known) if known else 1)
    ours, theirs = (_relations(value, heads) for value in (student, teacher))
    return F.kl_div(ours, theirs, log_target=True, reduction="none").sum(-1).mean()


def _relations(value: Tensor, heads: int) -> Tensor:
    """Return the relations of a value as log-probabilities (B, heads, L, L)."""
    if value.dim() == 4:
        value = value.transpose(1, 2).flatten(2)
    value = value.unflatten(2, (heads, -1)).transpose(1, 2)
    return F.log_softmax(value @ value.transpose(-1, -2) / math.sqrt(value.shape[-1]), -1)


HINTS: dict[str, HintLoss] = {
    "features": HintLoss(features, "Romero et al. 2015, eq. 3", space=True, project=True),
    "cosine": HintLoss(cosine, "Sanh et al. 2019, section 2", space=True, project=True),
    "attention_transfer": HintLoss(attention_transfer, "Zagoruyko & Komodakis 2017, eq. 2", dims=(3, 4, 5), space=True),
    "similarity": HintLoss(similarity, "Tung & Mori 2019, eq. 1 to 4"),
    "rkd_distance": HintLoss(rkd_distance, "Park et al. 2019, section 3.2.1"),
    "rkd_angle": HintLoss(rkd_angle, "Park et al. 2019, section 3.2.2"),
    "hidden": HintLoss(features, "Jiao et al. 2020, eq. 8", dims=(3,), same=(0, 1), project=True),
    "attention_maps": HintLoss(attention_maps, "Jiao et al. 2020, eq. 7", "attention", dims=(3, 4), same=(0, -2, -1)),
    "value_relations": HintLoss(value_relations, "Wang et al. 2020, section 3.2", "values", dims=(3, 4), same=(0, -2)),
}


def soft_losses() -> dict[str, Soft]:
    """Return the losses between answers by name: `SOFT` and those of other packages.

    Raises:
        BadInput: an entry point takes a name that is there, or is no loss.
    """
    return {**SOFT, **{name: row for name, row in _from_outside().items() if isinstance(row, Soft)}}


def hint_losses() -> dict[str, HintLoss]:
    """Return the losses between inner values by name: `HINTS` and those of other packages.

    Raises:
        BadInput: an entry point takes a name that is there, or is no loss.
    """
    return {**HINTS, **{name: row for name, row in _from_outside().items() if isinstance(row, HintLoss)}}


@functools.cache
def _from_outside() -> dict[str, Soft | HintLoss]:
    own: dict[str, Soft | HintLoss] = {**SOFT, **HINTS}
    rows = {name: row for name, row in extended(own, GROUP).items() if name not in own}
    for name, row in rows.items():
        if not isinstance(row, (Soft, HintLoss)):
            raise BadInput(f"'{name}' in the group {GROUP} is a {type(row).__name__}; it must be a distill.losses.Soft or a HintLoss")
    return rows
