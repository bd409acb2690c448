"""One small net for each operator family, the operator between layers that can be pruned, and its groups by hand."""

from __future__ import annotations

from tests.pruning.families import (
    attention,
    elementwise,
    joins,
    layers,
    norms,
    places,
    products,
    recurrence,
    reductions,
    sampling,
    shapes,
    spatial,
)
from tests.pruning.nets import Case

FAMILIES = (layers, attention, recurrence, norms, shapes, joins, spatial, reductions, elementwise, places, products, sampling)
CASES: dict[str, Case] = {name: case for family in FAMILIES for name, case in family.CASES.items()}
assert len(CASES) == sum(len(family.CASES) for family in FAMILIES)
