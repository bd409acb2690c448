"""What each operator does to the ids of its inputs' dimensions, by family; other packages add rows by entry points in the group `laconic.operator_rules`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch

from laconic.core.extensions import extended
from laconic.core.operators import names
from laconic.pruning.rules import (
    attention,
    elementwise,
    joins,
    layers,
    norms,
    places,
    products,
    recurrence,
    reductions,
    regroup,
    sampling,
    shapes,
    spatial,
)
from laconic.pruning.rules.table import RULES, OperatorRule
from laconic.pruning.rules.table import no_rule as no_rule

# Importing a family puts its rules into the table.
FAMILIES = (attention, elementwise, joins, layers, norms, places, products, recurrence, reductions, regroup, sampling, shapes, spatial)


@cache
def table() -> Mapping[str, OperatorRule]:
    """Return the rules by the operators' names, with those that other packages add: an entry point is called as the operator, and names an `OperatorRule`.

    A function `(tracer, node) -> value` does, where an operator has no constants to write anew and computes each number from the numbers at its place.
    """
    rows: dict[str, Any] = extended(RULES, "laconic.operator_rules")
    return {name: row if isinstance(row, OperatorRule) else OperatorRule(row) for name, row in rows.items()}


def rule_of(target: Any) -> OperatorRule | None:
    """Return the row of an operator, by its overload's name before its own; one that PyTorch tags as pointwise has that of the elementwise. None: no row."""
    plain, full = names(target)
    row = table().get(full) or table().get(plain)
    return elementwise.POINTWISE if row is None and torch.Tag.pointwise in getattr(target, "tags", ()) else row
