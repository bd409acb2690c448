"""What each operator does to the ids of its inputs' dimensions, by family; other packages add rows by entry points in the group `laconic.operator_rules`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from laconic.core.extensions import extended
from laconic.pruning.rules import attention, elementwise, joins, layers, norms, recurrence, reductions, shapes, spatial
from laconic.pruning.rules.table import RULES, Rule
from laconic.pruning.rules.table import no_rule as no_rule

# Importing a family puts its rules into the table.
FAMILIES = (attention, elementwise, joins, layers, norms, recurrence, reductions, shapes, spatial)


@cache
def table() -> Mapping[str, Rule]:
    """Return the rules by the operators' names, with those that other packages add: an entry point is called as the operator, and names a `Rule`."""
    return extended(RULES, "laconic.operator_rules")
