"""Regularizers by name: penalties that join the loss, and proximal steps that follow the optimizer's and leave real zeros.

A proximal step is the minimizer of ½‖x − v‖² + t·r(x) at the weights v that the optimizer left, t the learning rate times the strength (Parikh & Boyd 2014,
section 6.5). Behind an optimizer that scales each weight's step (Adam), it is still this one, with one learning rate for all.

Shapes: n components of a group, C indices of a dimension, F filters, K numbers in one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from laconic.core.errors import BadInput, nearest
from laconic.core.graph import get_tensor
from laconic.core.operators import family_of
from laconic.core.plan import Scaled
from laconic.core.program import Program


class Slot(Protocol):
    """A dimension of a tensor in which components have slices: `index[i]` is the component of index `i`, or −1."""

    @property
    def tensor(self) -> str:
        """Name of the parameter or buffer."""

    @property
    def dim(self) -> int:
        """Of the tensor."""

    @property
    def index(self) -> np.ndarray[Any, Any]:
        """(C,) integers."""


class Group(Protocol):
    """Components that are removed together, as `pruning.coupling` finds them."""

    @property
    def slots(self) -> Sequence[Slot]:
        """Where their slices lie."""


@dataclass(frozen=True, eq=False)
class Slices:
    """Of one parameter, in one dimension: the indices `at` belong to the components `of`, one by one."""

    parameter: nn.Parameter
    dim: int
    at: Tensor
    of: Tensor


@dataclass(frozen=True, eq=False)
class Block:
    """The trainable slices of a group; `numbers` (n,) says how many numbers each component has, as often as it meets them."""

    slices: tuple[Slices, ...]
    numbers: Tensor


@dataclass(frozen=True, eq=False)
class Parts:
    """What regularizers act on, looked up once; all of it trainable.

    Attributes:
        weights: matrices and kernels (more than one dimension).
        filters: those of them with two rows or more.
        scales: of batch-norms.
        components: of coupled groups.
    """

    weights: tuple[nn.Parameter, ...]
    filters: tuple[nn.Parameter, ...]
    scales: tuple[nn.Parameter, ...]
    components: tuple[Block, ...]


def parts_of(model: nn.Module, groups: Sequence[Group] = ()) -> Parts:
    """Find what regularizers act on.

    Raises:
        BadInput: the groups name a tensor that the model does not have, or has in another shape.
    """
    weights = tuple(p for p in model.parameters() if _trainable(p) and p.dim() > 1)
    scales = dict.fromkeys(p for p in _scales(model) if isinstance(p, nn.Parameter) and _trainable(p))
    known: dict[str, Tensor] = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}
    blocks = tuple(block for group in groups if (block := _block(known, group)) is not None)
    return Parts(weights, tuple(p for p in weights if len(p) > 1), tuple(scales), blocks)


def _trainable(parameter: Tensor) -> bool:
    return parameter.requires_grad and parameter.is_floating_point()


def _scales(model: nn.Module) -> Iterator[Tensor | None]:
    """Yield the scales (gamma) of batch-norms: those that the graph reads in a program, those of modules elsewhere."""
    for module in model.modules():
        if isinstance(module, Program):
            for node in module.graph.nodes:
                if family_of(node) == "batch norm" and isinstance(node.args[1], fx.Node) and node.args[1].op == "get_attr":
                    yield get_tensor(module, node.args[1])
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            yield module.weight


def _block(known: Mapping[str, Tensor], group: Group) -> Block | None:
    """Return all slices of a group that are trainable, whatever their role; None where there are none."""
    slices = []
    for slot in group.slots:
        if slot.tensor not in known:
            raise BadInput(f"the groups name the tensor '{slot.tensor}', which the model does not have.{nearest(slot.tensor, known)}")
        tensor, shape = known[slot.tensor], tuple(known[slot.tensor].shape)
        if shape[slot.dim : slot.dim + 1] != (len(slot.index),):
            raise BadInput(
                f"the groups take '{slot.tensor}' to have {len(slot.index)} indices in dimension {slot.dim}; its shape is {shape}. "
                "Couple the model anew after it was pruned."
            )
        at = np.flatnonzero(slot.index >= 0)
        if isinstance(tensor, nn.Parameter) and _trainable(tensor) and len(at):
            slices.append(Slices(tensor, slot.dim, torch.from_numpy(at), torch.from_numpy(slot.index[at].astype(np.int64))))
    if not slices:
        return None
    counts = torch.zeros(1 + max(int(item.of.max()) for item in slices))
    for item in slices:
        counts.index_add_(0, item.of, torch.full((len(item.of),), item.parameter.numel() / item.parameter.shape[item.dim]))
    return Block(tuple(slices), counts)


# Penalties --------------------------------------------------------------------------------------------------------------------------------


def _l2(parts: Parts, strength: float) -> Tensor:
    return 0.5 * strength * torch.stack([p.square().sum() for p in parts.weights]).sum()


def _orthogonality(parts: Parts, strength: float) -> Tensor:
    return strength * torch.stack([_from_identity(p.flatten(1)) for p in parts.filters]).sum()


def _from_identity(matrix: Tensor) -> Tensor:
    """Compute ‖G − I‖² / n of the smaller Gram matrix G (n, n) of a matrix (F, K), so that layers of all widths weigh alike."""
    tall = matrix.shape[0] > matrix.shape[1]
    gram = matrix.T @ matrix if tall else matrix @ matrix.T
    return (gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device)).square().sum() / len(gram)


# Proximal steps ---------------------------------------------------------------------------------------------------------------------------


def _soft_threshold(parameters: Sequence[Tensor], by: float) -> None:
    for p in parameters:
        p.copy_(F.softshrink(p, by))


def _l1(parts: Parts, strength: float, lr: float) -> None:
    _soft_threshold(parts.weights, lr * strength)


def _elastic_net(parts: Parts, strength: float, lr: float) -> None:
    half = 0.5 * lr * strength
    _soft_threshold(parts.weights, half)
    for p in parts.weights:
        p.div_(1 + half)


def _slimming(parts: Parts, strength: float, lr: float) -> None:
    _soft_threshold(parts.scales, lr * strength)


def _group_lasso(parts: Parts, strength: float, lr: float) -> None:
    """Set w_k ← w_k · max(0, 1 − t √n_k / ‖w_k‖), one group after the other.

    A number that lies in slices of two components (each weight between two coupled layers does, and each one of a square layer around which a residual
    leads) is shrunk by both. So it is the exact minimizer only where components do not overlap.
    """
    for block in parts.components:
        norms = _norms(block)
        limits = lr * strength * block.numbers.to(norms).sqrt()
        kept = torch.where(norms > limits, 1 - limits / norms, 0.0)
        for item in block.slices:
            factor = torch.ones(item.parameter.shape[item.dim], dtype=kept.dtype, device=kept.device)
            factor[item.at.to(kept.device)] = kept[item.of.to(kept.device)]
            item.parameter.mul_(factor.to(item.parameter).view([-1 if i == item.dim else 1 for i in range(item.parameter.dim())]))


def _norms(block: Block) -> Tensor:
    """Return the Euclidean norm (n,) of each component; float32 or more precise."""
    first = block.slices[0].parameter
    power = torch.zeros(len(block.numbers), device=first.device, dtype=torch.promote_types(first.dtype, torch.float32))
    for item in block.slices:
        squares = item.parameter.detach().to(power).square().movedim(item.dim, 0)
        sums = squares.reshape(len(squares), -1).sum(1)
        power.index_add_(0, item.of.to(power.device), sums[item.at.to(power.device)])
    return power.sqrt()


# The table --------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Regularization:
    """A regularizer.

    Attributes:
        on: the field of `Parts` that it acts on.
        strength: what a strength λ means.
        source: paper and section.
        penalty: `(parts, strength) -> scalar`, added to the loss.
        proximal: `(parts, strength, learning rate)`, in place and without gradient, after each optimizer step.
    """

    on: str
    strength: str
    source: str
    penalty: Callable[[Parts, float], Tensor] | None = None
    proximal: Callable[[Parts, float, float], None] | None = None


# Proximal steps are taken in this order: group lasso behind l1 is the exact step of both together (Simon et al. 2013, section 3.1).
REGULARIZERS: dict[str, Regularization] = {
    "l1": Regularization("weights", "λ Σ |w|", "Tibshirani 1996; Parikh & Boyd 2014, section 6.5.2", proximal=_l1),
    "l2": Regularization("weights", "½ λ Σ w², whose gradient is λ w", "Krogh & Hertz 1991, equation 2", penalty=_l2),
    "elastic_net": Regularization(
        "weights",
        "λ (½ Σ |w| + ¼ Σ w²): scikit-learn's alpha at its l1_ratio of 0.5",
        "Zou & Hastie 2005, section 2; Parikh & Boyd 2014, section 6.5.3",
        proximal=_elastic_net,
    ),
    "orthogonality": Regularization(
        "filters",
        "λ Σ ‖G − I‖² / n over matrices and kernels, a filter a row, G the smaller Gram matrix, n its size",
        "Bansal et al. 2018, section 3.1 (without the division by n)",
        penalty=_orthogonality,
    ),
    "slimming": Regularization(
        "scales", "λ Σ |γ| over the scales of batch-norms", "Liu et al. 2017, section 3 (a subgradient there)", proximal=_slimming
    ),
    "group_lasso": Regularization(
        "components",
        "λ Σ √n ‖w‖ over the coupled components, w all n numbers in slices of one",
        "Yuan & Lin 2006, equation 2.1; Parikh & Boyd 2014, section 6.5.4",
        proximal=_group_lasso,
    ),
}
_MISSING = {
    "weights": "the model has no trainable matrix or kernel",
    "filters": "the model has no trainable matrix or kernel with two rows or more",
    "scales": "the model has no batch-norm with a trainable scale. Insert some first (insert_batch_norm)",
    "components": "it needs the coupled groups of structured pruning, with trainable slices, and none were given",
}


class Regularizer:
    """The chosen regularizers on one model. Its parameters are looked up once: after surgery, make a new one.

    Args:
        choices: names in `REGULARIZERS` with their strengths.
        model: a module or a program.
        groups: of `pruning.coupling.couple(…).groups`, for group lasso. As the criterion `group_l2` does, it takes all slices of a component, those that only
            read its channels too.

    Raises:
        BadInput: an unknown name, one given twice, a strength that is negative or not finite, or nothing to act on; all mistakes at once.
    """

    def __init__(self, choices: Sequence[Scaled], model: nn.Module, groups: Sequence[Group] = ()) -> None:
        self._parts = parts_of(model, groups)
        mistakes = list(_mistakes(choices, self._parts))
        if mistakes:
            raise BadInput("regularize makes no sense:\n" + "\n".join(f"  {m}" for m in mistakes))
        strengths = {choice.name: choice.strength for choice in choices}
        self._chosen = {name: (kind, strengths[name]) for name, kind in REGULARIZERS.items() if name in strengths}

    def penalty(self) -> Tensor | None:
        """Return the sum of all penalties on the weights as they are, a scalar with gradient; None if no choice has one."""
        penalties = [kind.penalty(self._parts, strength) for kind, strength in self._chosen.values() if kind.penalty is not None]
        return torch.stack(penalties).sum() if penalties else None

    @torch.no_grad()
    def proximal(self, lr: float) -> None:
        """Take all proximal steps in place.

        Args:
            lr: the learning rate of the optimizer step before.
        """
        for kind, strength in self._chosen.values():
            if kind.proximal is not None:
                kind.proximal(self._parts, strength, lr)

    @torch.no_grad()
    def report(self) -> dict[str, float]:
        """Return figures of each choice, by name.

        Returns:
            Of a choice with a proximal step `NAME_zeros`, the share of exact zeros in what it acts on (of group lasso: of components that are all zero); of
            one with a penalty `NAME_penalty`, its value.
        """
        figures: dict[str, float] = {}
        for name, (kind, strength) in self._chosen.items():
            if kind.proximal is not None:
                figures[f"{name}_zeros"] = _zeros(getattr(self._parts, kind.on))
            if kind.penalty is not None:
                figures[f"{name}_penalty"] = float(kind.penalty(self._parts, strength))
        return figures


def _zeros(parts: Sequence[Tensor | Block]) -> float:
    """Return the share of exact zeros."""
    values = [_norms(item) if isinstance(item, Block) else item for item in parts]
    return sum(int((value == 0).sum()) for value in values) / sum(value.numel() for value in values)


def _mistakes(choices: Sequence[Scaled], parts: Parts) -> Iterator[str]:
    for name, times in Counter(choice.name for choice in choices).items():
        if name not in REGULARIZERS:
            yield f"'{name}' is no regularizer.{nearest(name, REGULARIZERS)}"
        elif not getattr(parts, REGULARIZERS[name].on):
            yield f"{name}: {_MISSING[REGULARIZERS[name].on]}"
        if times > 1:
            yield f"{name}: given {times} times; give it once, with the sum of the strengths"
    for choice in choices:
        if not (math.isfinite(choice.strength) and choice.strength >= 0):
            yield f"{choice.name}: a strength is 0 or more, not {choice.strength}"
