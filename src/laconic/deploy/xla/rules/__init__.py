"""What JAX computes for each operator of PyTorch, by family."""

from laconic.deploy.xla.rules import (
    elementwise,
    indexing,
    norms,
    products,
    recurrence,
    reductions,
    rounding,
    shapes,
    spatial,
    transforms,
)
from laconic.deploy.xla.rules.table import ROWS as ROWS
from laconic.deploy.xla.rules.table import Call as Call
from laconic.deploy.xla.rules.table import row_for as row_for

__all__ = [
    "ROWS",
    "Call",
    "elementwise",
    "indexing",
    "norms",
    "products",
    "recurrence",
    "reductions",
    "rounding",
    "row_for",
    "shapes",
    "spatial",
    "transforms",
]
