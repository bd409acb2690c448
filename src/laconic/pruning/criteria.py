"""How much a component matters: one number for each channel, head or neuron of a group, larger = keep.

A criterion is a function of the evidence (weights, and what `collect` saw of gradients and activations) and a group. Where a group has nothing that a criterion
looks at (no batch norm, no weight that reads its channels), the criterion scores by `l1` there, and `score` says so.

Shapes: n components of the group, F numbers in the producing slices of one, E examples, C indices of the dimension that a weight consumes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from laconic.core.errors import BadInput, nearest
from laconic.core.extensions import extended
from laconic.core.operators import family_of
from laconic.pruning.coupling import Coupling, Group, Slot


@dataclass(frozen=True, eq=False)
class Evidence:
    """What criteria look at. Weights are read from the coupling's program; the rest is empty unless it was collected.

    Attributes:
        gradients: of the loss, by canonical tensor name, mean over batches.
        squares: squared gradients of batches, by canonical tensor name, mean over batches.
        pooled: by position in `coupling.consumers`, (E, C): mean over all positions of an example.
        magnitude: by position in `coupling.consumers`, (C,): mean of \\|x\\|.
        power: by position in `coupling.consumers`, (C,): sum of x².
        seed: of random scores.
    """

    coupling: Coupling
    gradients: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    squares: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    pooled: Mapping[int, Tensor] = field(default_factory=dict, repr=False)
    magnitude: Mapping[int, Tensor] = field(default_factory=dict, repr=False)
    power: Mapping[int, Tensor] = field(default_factory=dict, repr=False)
    seed: int = 0

    @cached_property
    def scales(self) -> frozenset[str]:
        """Names of the scales (gamma) of batch norms."""
        return frozenset(name for norm in _batch_norms(self.coupling) for name in _attributes(self.coupling, norm.args[1:2]))

    @cached_property
    def gates(self) -> tuple[frozenset[str], frozenset[str]]:
        """Scales and shifts of batch norms that only a layer feeds, and the weights of these layers, which they stand for."""
        norms, layers = set[str](), set[str]()
        for norm in _batch_norms(self.coupling):
            affine = _attributes(self.coupling, norm.args[1:3])
            layer = norm.args[0]
            weights = _attributes(self.coupling, layer.args) if isinstance(layer, fx.Node) and len(layer.users) == 1 else []
            if affine and weights:
                norms.update(affine)
                layers.update(weights)
        return frozenset(norms), frozenset(layers)


Score = Callable[[Evidence, Group], Tensor]


@dataclass(frozen=True)
class Criterion:
    """A row of the table; called, it scores the n components of a group: (n,), float64, larger = keep.

    Attributes:
        score: the function.
        needs: what `collect` must have seen: ``gradients``, ``activations``.
        comparable: whether scores of different groups rank by what the loss loses, so that a common threshold needs no normalization.
        sees: whether it finds what it looks at in a group; where it says no, `l1` answers.
    """

    score: Score
    needs: frozenset[str] = frozenset()
    comparable: bool = False
    sees: Callable[[Evidence, Group], bool] | None = None

    def __call__(self, evidence: Evidence, group: Group) -> Tensor:
        """Score a group."""
        return (self.score if self.sees is None or self.sees(evidence, group) else l1)(evidence, group)


CRITERIA: dict[str, Criterion] = {}

Piece = tuple[Slot, Tensor]
PRODUCING = ("out", "bias")
BINS = 32


def criterion(
    name: str, *needs: str, comparable: bool = False, sees: Callable[[Evidence, Group], bool] | None = None
) -> Callable[[Score], Score]:
    """Put a function into the table; see `Criterion`."""

    def enter(function: Score) -> Score:
        assert name not in CRITERIA, name
        CRITERIA[name] = Criterion(function, frozenset(needs), comparable, sees)
        return function

    return enter


@cache
def criteria() -> Mapping[str, Criterion]:
    """Return the criteria by name, with those that other packages add: an entry point of the group `laconic.criteria` names a `Criterion`, or a function."""
    rows: dict[str, Any] = extended(CRITERIA, "laconic.criteria")
    return {name: row if isinstance(row, Criterion) else Criterion(row) for name, row in rows.items()}


def named(name: str) -> Criterion:
    """Return the criterion of this name.

    Raises:
        BadInput: there is none.
    """
    if name not in criteria():
        raise BadInput(f"there is no criterion '{name}' for the importance of channels.{nearest(name, criteria())}")
    return criteria()[name]


# Slices of weights ------------------------------------------------------------------------------------------------------------------------


def pieces(coupling: Coupling, group: Group, roles: Sequence[str] | None = None) -> list[Piece]:
    """Return the floating parameters in which a group has slices of these roles (None: of any), one entry for each slot."""
    result = [(slot, coupling.tensor(slot.tensor)) for slot in group.slots if roles is None or slot.role in roles]
    return [(slot, tensor.detach()) for slot, tensor in result if isinstance(tensor, nn.Parameter) and tensor.is_floating_point()]


def producing(coupling: Coupling, group: Group, roles: Sequence[str] = PRODUCING) -> list[Piece]:
    """Return what makes the group's channels; where nothing of these roles does (a table that is only read), all that it has slices in."""
    return pieces(coupling, group, roles) or pieces(coupling, group)


def component_sums(pieces: Sequence[Piece], n: int, measure: Callable[[str, Tensor], Tensor]) -> Tensor:
    """Sum an elementwise map over all slices of each component.

    A number at which two slots of a component cross (the diagonal of a square weight that a residual couples with itself) counts for both.

    Args:
        pieces: where the slices lie.
        n: number of components.
        measure: `(name, values) -> values` of the same shape, float64.

    Returns:
        (n,), float64.
    """
    total = torch.zeros(n, dtype=torch.float64)
    for slot, tensor in pieces:
        values = measure(slot.tensor, tensor.double()).movedim(slot.dim, 0).reshape(tensor.shape[slot.dim], -1).sum(1)
        total += _gathered(values, slot.index, n)
    return total


def component_rows(pieces: Sequence[Piece], n: int) -> Tensor:
    """Return all slices of each component one after the other: (n, F), float64.

    A component with several indices in a slot (gates of a recurrent unit, the channels of a head) has the slices of all of them, in order.
    """
    rows = []
    for slot, tensor in pieces:
        kept = np.flatnonzero(slot.index >= 0)
        order = torch.from_numpy(kept[np.argsort(slot.index[kept], kind="stable")]).to(tensor.device)
        rows.append(tensor.double().movedim(slot.dim, 0)[order].reshape(n, -1).cpu())
    return torch.cat(rows, 1)


def _gathered(values: Tensor, index: np.ndarray[Any, Any], n: int) -> Tensor:
    """Sum of values (C,) of each component: (n,), float64."""
    kept = np.flatnonzero(index >= 0)
    chosen = values.double().cpu()[torch.from_numpy(kept)]
    return torch.zeros(n, dtype=torch.float64).index_add_(0, torch.from_numpy(index[kept]), chosen)


def _batch_norms(coupling: Coupling) -> Iterator[fx.Node]:
    for node in coupling.program.graph.nodes:
        if family_of(node) in ("batch norm", "instance norm"):
            yield node


def _attributes(coupling: Coupling, arguments: Sequence[Any]) -> list[str]:
    return [coupling.name(node) for node in arguments if isinstance(node, fx.Node) and node.op == "get_attr"]


# Where channels are consumed --------------------------------------------------------------------------------------------------------------


def reads(coupling: Coupling, group: Group) -> list[tuple[int, np.ndarray[Any, Any]]]:
    """Yield consumers of a group's channels: position in `coupling.consumers`, and for each index that it consumes the component, or −1."""
    index = {(slot.tensor, slot.dim): slot.index for slot in group.slots}
    keys = [(consumer.tensor, consumer.dim) for consumer in coupling.consumers]
    return [(i, index[key]) for i, key in enumerate(keys) if key in index]


def _seen(what: str) -> Callable[[Evidence, Group], bool]:
    def sees(evidence: Evidence, group: Group) -> bool:
        return any(i in getattr(evidence, what) for i, _ in reads(evidence.coupling, group))

    return sees


def _mean_of_columns(evidence: Evidence, group: Group, values: Mapping[int, Tensor], of: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the mean over all columns at which a component is consumed, of a number for each column.

    Args:
        values: by position in `coupling.consumers`, (…, C).
        of: `(…, C) -> (C,)`.
    """
    total, count = torch.zeros(2, len(group), dtype=torch.float64)
    for i, index in reads(evidence.coupling, group):
        if i in values:
            total += _gathered(of(values[i]), index, len(group))
            count += _gathered(torch.ones(len(index)), index, len(group))
    return total / count


# Without data -----------------------------------------------------------------------------------------------------------------------------


@criterion("random")
def random(evidence: Evidence, group: Group) -> Tensor:
    """Score uniformly in [0, 1): by the seed (and the group), by nothing else. The yardstick for all others."""
    generator = np.random.default_rng([evidence.seed % 2**63, int(group.components[0])])
    return torch.from_numpy(generator.random(len(group)))


@criterion("l1")
def l1(evidence: Evidence, group: Group) -> Tensor:
    """Sum of \\|w\\| over the producing slices (Li et al. 2017, section 3.1; they count one filter without its bias, we all coupled filters with)."""
    return component_sums(producing(evidence.coupling, group), len(group), lambda _, w: w.abs())


@criterion("l2", comparable=True)
def l2(evidence: Evidence, group: Group) -> Tensor:
    """Score by the Euclidean norm of the producing slices, biases included."""
    return component_sums(producing(evidence.coupling, group), len(group), lambda _, w: w.square()).sqrt()


@criterion("group_l2")
def group_l2(evidence: Evidence, group: Group) -> Tensor:
    """Score by the Euclidean norm of all coupled slices, relative to the group's mean (Fang et al. 2023, DepGraph, section 3.3).

    They divide by the mean of the largest scores only; the order within the group is the same.
    """
    result = _group_power(evidence, group).sqrt()
    mean = result.mean()
    return result / mean if mean > 0 else result


@criterion("lamp", comparable=True)
def lamp(evidence: Evidence, group: Group) -> Tensor:
    """w² / Σ v² over all v that do not come before w in ascending order (Lee et al. 2021, section 2.1), equal ones in the order of the channels.

    The paper scores single weights of a layer; here w² is the squared norm of all coupled slices of a component.
    """
    power = _group_power(evidence, group)
    order = power.argsort(stable=True)
    rest = power[order].flip(0).cumsum(0).flip(0)
    result = torch.empty_like(power)
    result[order] = torch.where(power[order] > 0, power[order] / rest, 0.0)
    return result


def _group_power(evidence: Evidence, group: Group) -> Tensor:
    return component_sums(pieces(evidence.coupling, group), len(group), lambda _, w: w.square())


def _has_scale(evidence: Evidence, group: Group) -> bool:
    return any(slot.tensor in evidence.scales for slot in group.slots)


@criterion("bn_scale", comparable=True, sees=_has_scale)
def bn_scale(evidence: Evidence, group: Group) -> Tensor:
    """Sum of \\|gamma\\| over the batch norms (instance norms too) of the group (Liu et al. 2017, section 3; they have one, without coupling).

    The scale of a layer or group norm does not count: these do not give each channel the same variance. A group without batch norm is scored by `l1`.
    """
    result = [piece for piece in pieces(evidence.coupling, group) if piece[0].tensor in evidence.scales]
    return component_sums(result, len(group), lambda _, w: w.abs())


@criterion("fpgm")
def fpgm(evidence: Evidence, group: Group) -> Tensor:
    """Sum of the Euclidean distances to all other components' producing weights (He et al. 2019, FPGM).

    What lies next to the geometric median can be replaced by others. Weights of all coupled layers are one vector; biases are left out, as in the paper.
    """
    rows = component_rows(producing(evidence.coupling, group, ("out",)), len(group))
    # cdist squares the norms where there are many rows: without their common part they are small
    rows = rows - rows.mean(0)
    return torch.cdist(rows, rows).sum(1)


@criterion("gini_weight", comparable=True)
def gini_weight(evidence: Evidence, group: Group) -> Tensor:
    """Gini index of \\|w\\| over the producing weights (Hurley & Rickard 2009): 0 where all are equal, near 1 where few are large.

    Larger = keep: weights that are spread like the noise they started from have a low index (0.41 for a normal distribution), filters that learned to look at
    something in particular a high one. Zero weights score 0. Blind to scale; biases are left out.
    """
    return gini(component_rows(producing(evidence.coupling, group, ("out",)), len(group)).abs())


def gini(values: Tensor) -> Tensor:
    """Return the Gini index of each row of values ≥ 0: Σ (2i − m − 1) x₍ᵢ₎ / (m Σ x), 0 where all are zero.

    >>> gini(torch.tensor([[0.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]]))
    tensor([0.7500, 0.0000])
    """
    m = values.shape[1]
    weights = torch.arange(1 - m, m, 2, dtype=values.dtype)
    total = values.sum(1)
    result = (values.sort(1).values * weights).sum(1) / (m * total)
    return torch.where(total > 0, result.clamp(min=0), 0.0)


# With gradients ---------------------------------------------------------------------------------------------------------------------------


@criterion("taylor", "gradients", comparable=True)
def taylor(evidence: Evidence, group: Group) -> Tensor:
    """(Σ g·w)² over the parameters at the component's gates: the squared first-order change of the loss when they go to zero
    (Molchanov et al. 2019, section 3: the joint form, with gates behind batch norms).

    At a layer, its weights and bias add up to the gradient of a gate behind it; at a batch norm behind a layer, scale and shift do, and stand for both.
    Weights that read the channels would count the same effect again and are left out. We differ: the sum is over all gates that coupling ties together,
    and the square is taken once, of the mean gradient; the paper averages squares of minibatches.
    """
    norms, layers = evidence.gates
    result = [
        piece
        for piece in pieces(evidence.coupling, group)
        if piece[0].tensor in norms or (piece[0].role in PRODUCING and piece[0].tensor not in layers)
    ]
    result = result or pieces(evidence.coupling, group)
    return component_sums(result, len(group), lambda name, w: w * evidence.gradients[name].to(w)).square()


@criterion("obd", "gradients", comparable=True)
def obd(evidence: Evidence, group: Group) -> Tensor:
    """Score by Σ ½ h w² over all coupled slices (LeCun et al. 1990, Optimal Brain Damage, section 2.1), h the diagonal of the Hessian.

    We differ: h is the empirical Fisher information, the mean squared gradient of a batch, in place of the back-propagated second derivative.
    """
    return component_sums(pieces(evidence.coupling, group), len(group), lambda name, w: 0.5 * evidence.squares[name].to(w) * w.square())


# With activations -------------------------------------------------------------------------------------------------------------------------


@criterion("activation", "activations", comparable=True, sees=_seen("magnitude"))
def activation(evidence: Evidence, group: Group) -> Tensor:
    """Mean \\|x\\| of the channels where they are consumed, over all consumers. A group that no weight reads is scored by `l1`."""
    return _mean_of_columns(evidence, group, evidence.magnitude, lambda x: x)


@criterion("entropy", "activations", comparable=True, sees=_seen("pooled"))
def entropy(evidence: Evidence, group: Group) -> Tensor:
    """Score by the entropy in nats of the pooled activation over examples (Luo & Wu 2017, section 3): low where a channel says the same of all.

    The histogram has `BINS` equal bins between the channel's own extremes; constant is 0. Few, because calibration sees hundreds of examples. A component with
    several channels has their mean. A group that no weight reads is scored by `l1`.
    """
    return _mean_of_columns(evidence, group, evidence.pooled, histogram_entropy)


def histogram_entropy(values: Tensor, bins: int = BINS) -> Tensor:
    """Return the entropy in nats of the histogram of each column: (E, C) to (C,).

    >>> histogram_entropy(torch.tensor([[0.0, 1.0], [0.0, 2.0]]))
    tensor([0.0000, 0.6931])
    """
    low, high = values.aminmax(dim=0)
    width = torch.where(high > low, high - low, 1.0)
    place = ((values - low) / width * bins).long().clamp(max=bins - 1)
    count = torch.zeros(values.shape[1], bins, dtype=values.dtype)
    count.scatter_add_(1, place.T, torch.ones_like(values.T))
    return torch.special.entr(count / len(values)).sum(1)


@criterion("gini_activation", "activations", sees=_seen("pooled"))
def gini_activation(evidence: Evidence, group: Group) -> Tensor:
    """Gini index over examples of \\|pooled activation\\|: 0 where all examples excite the channel alike, near 1 where few do.

    Larger = keep: a channel that tells examples apart cannot be replaced by a constant. Silent channels score 0. A component with several channels has their
    mean. A group that no weight reads is scored by `l1`.
    """
    return _mean_of_columns(evidence, group, evidence.pooled, lambda x: gini(x.abs().T))


@criterion("wanda", "activations", comparable=True, sees=_seen("power"))
def wanda(evidence: Evidence, group: Group) -> Tensor:
    """Σ \\|W\\| · ‖X_j‖₂ over the weights that consume the component (Sun et al. 2024, Wanda, section 3), ‖X_j‖ over all examples and positions.

    The paper scores single weights and compares them within an output; here the scores of a component are added up. A group that no weight reads is scored
    by `l1`.
    """
    total = torch.zeros(len(group), dtype=torch.float64)
    for i, index in reads(evidence.coupling, group):
        if i in evidence.power:
            consumer = evidence.coupling.consumers[i]
            weight = evidence.coupling.tensor(consumer.tensor).detach().double().movedim(consumer.dim, 0)
            columns = weight.abs().reshape(len(index), -1).sum(1)
            total += _gathered(columns * evidence.power[i].to(columns).sqrt(), index, len(group))
    return total
