"""Who is not tried since a near relative lost by too much: another precision of the same steps in the same runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from laconic.core.records import to_json
from laconic.core.target import PRECISIONS
from laconic.run.recipe import Recipe
from laconic.run.record import Record

# What another precision is expected to win over fp32 in one runtime, at the most: a vector holds twice as many numbers, and tiles (AMX) do more in large
# products, of which no net consists alone.
MOST = 5.0


def outraced(recipe: Recipe, best: Record | None, records: Sequence[Record]) -> str | None:
    """Return why a recipe cannot become the fastest, in words; None where it may, or where nothing is known.

    Args:
        recipe: not tried yet.
        best: the fastest so far of those that hold the budget.
        records: what was tried.
    """
    plain = PRECISIONS[0]
    if best is None or recipe.deploy.precision == plain:
        return None
    relative = Recipe(recipe.steps, replace(recipe.deploy, precision=plain)).to_plain()
    known = next((record for record in records if to_json(record.recipe) == to_json(relative)), None)
    mine, theirs = (_ends(record) for record in (known, best))
    if known is None or mine is None or theirs is None or mine[1] * MOST >= theirs[0]:
        return None
    return (
        f"the same in {plain} is {mine[1]:.2f}× as fast as the baseline at the most, the best so far {theirs[0]:.2f}× at the least: "
        f"{recipe.deploy.precision} would have to win {theirs[0] / mine[1]:.1f} times, and {MOST:g} at the most is expected of it"
    )


def _ends(record: Record | None) -> tuple[float, float] | None:
    """Return the ends of the interval of how many times faster it is; a baseline's is 1."""
    if record is None:
        return None
    if record.baseline is None:
        return 1.0, 1.0
    ratio = record.speedup
    return None if ratio is None or ratio.low is None or ratio.high is None else (ratio.low, ratio.high)
