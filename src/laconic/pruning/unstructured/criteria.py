"""How much a single weight matters: one number for each, larger = keep. A criterion is a row; what it looks at, it says.

Shapes: O output channels, C = K · I columns, see `weights.Weight.matrix`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from laconic.core.errors import BadInput, nearest
from laconic.core.extensions import extended
from laconic.core.gram import inverse_factor
from laconic.pruning.unstructured.obs import solve

Need = Literal["", "slope", "bend", "power", "gram"]


@dataclass(frozen=True, eq=False)
class Seen:
    """What is known of one weight. All but the weight is None unless the criterion needs it.

    Attributes:
        weight: (O, C).
        slope: (O, C), gradient of the loss times weight; mean over batches, or their sum over the steps of a training.
        bend: (O, C), mean squared gradient of the loss (the diagonal of the empirical Fisher information): how sharply it bends along each weight.
        power: (C,), sum of squares of the inputs that a column is multiplied with.
        gram: (C, C), mean of the inputs' outer products.
        generator: of random scores.
    """

    weight: Tensor
    slope: Tensor | None = None
    bend: Tensor | None = None
    power: Tensor | None = None
    gram: Tensor | None = None
    generator: torch.Generator | None = None


Score = Callable[[Seen], Tensor]


@dataclass(frozen=True)
class WeightCriterion:
    """A row of the table.

    Attributes:
        score: (O, C), larger = keep.
        needs: what it looks at beside the weight: ``slope`` or ``bend`` (gradients), ``power`` or ``gram`` (inputs).
        comparable: whether scores of different layers rank together; where they do not, layers are not ranked together.
        by_output: each output loses the same share of its weights.
        sums: its slope is summed over a training, from the beginning; else it is that since masks were last made.
        solve: `(weight, gram, density, pattern) -> weight` with its zeros, the other weights changed so that they make up for them.
    """

    score: Score
    needs: Need = ""
    comparable: bool = True
    by_output: bool = False
    sums: bool = False
    solve: Callable[..., Tensor] | None = None

    @property
    def trains(self) -> bool:
        """Whether it can be asked again and again while a model trains: inputs are looked at once."""
        return self.needs in ("", "slope", "bend")


def magnitude(seen: Seen) -> Tensor:
    """Score by \\|w\\| (Han et al. 2015, section 3.1)."""
    return seen.weight.abs()


def random(seen: Seen) -> Tensor:
    """Score uniformly in [0, 1): the yardstick for all others."""
    return torch.rand(seen.weight.shape, generator=seen.generator).to(seen.weight.device)


def first_order(seen: Seen) -> Tensor:
    """Score by \\|w · g\\|, the change of the loss to first order where w goes (Molchanov et al. 2019, eq. 8, without the square; by weight)."""
    assert seen.slope is not None
    return seen.slope.abs()


def movement(seen: Seen) -> Tensor:
    """Score by −Σ w · g: weights that training moves away from zero stay (Sanh et al. 2020, eq. 4, without the learning rate).

    There, masked weights go on moving and may come back; here, a zero has no movement.
    """
    assert seen.slope is not None
    return -seen.slope


def curvature(seen: Seen) -> Tensor:
    """Score by √(w² · h), h the curvature of the loss along w: the change of the loss to second order where w goes (LeCun et al. 1989, eq. 5).

    There, h is the Hessian's diagonal; here that of the empirical Fisher information, as by Theis et al. 2018 (eq. 7). The root ranks alike and keeps scores of
    blocks, which are sums, from being those of their largest weight.
    """
    assert seen.bend is not None
    return seen.weight.abs() * seen.bend.sqrt()


def wanda(seen: Seen) -> Tensor:
    """Score by \\|w\\| · ‖x‖₂, compared within each output (Sun et al. 2023, eq. 1)."""
    assert seen.power is not None
    return seen.weight.abs() * seen.power.sqrt()


def obs(seen: Seen) -> Tensor:
    """Score by w² / 2 [H⁻¹]ⱼⱼ, the error of the layer's output that removing w costs when the weights right of it make up for it (Frantar & Alistarh 2023)."""
    assert seen.gram is not None
    return seen.weight.double().square() / (2 * inverse_factor(seen.gram).diagonal().square())


WEIGHT_CRITERIA: dict[str, WeightCriterion] = {
    "magnitude": WeightCriterion(magnitude),
    "first_order": WeightCriterion(first_order, "slope"),
    "curvature": WeightCriterion(curvature, "bend"),
    "movement": WeightCriterion(movement, "slope", sums=True),
    "wanda": WeightCriterion(wanda, "power", comparable=False, by_output=True),
    "obs": WeightCriterion(obs, "gram", comparable=False, solve=solve),
    "random": WeightCriterion(random),
}


@cache
def weight_criteria() -> Mapping[str, WeightCriterion]:
    """Return the criteria by name, with those that other packages add: an entry point of `laconic.weight_criteria` names a `WeightCriterion`, or a function."""
    rows: dict[str, Any] = extended(WEIGHT_CRITERIA, "laconic.weight_criteria")
    return {name: row if isinstance(row, WeightCriterion) else WeightCriterion(row) for name, row in rows.items()}


def criterion_named(name: str) -> WeightCriterion:
    """Return the criterion of this name.

    Raises:
        BadInput: there is none.
    """
    if name not in weight_criteria():
        raise BadInput(f"there is no criterion '{name}' for single weights.{nearest(name, weight_criteria())}")
    return weight_criteria()[name]
