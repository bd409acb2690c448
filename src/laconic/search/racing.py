"""Who is not tried since a near relative lost by too much: in time the same steps in fp32 in its runtime, or in the runtime whose kernels that one calls too;
in what the model knows the same steps with more of the model left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from laconic.core import quantities
from laconic.core.records import to_json
from laconic.core.step import StepConfig
from laconic.core.target import PRECISIONS, Target
from laconic.deploy import runtime
from laconic.run.recipe import Recipe
from laconic.run.record import Record
from laconic.search.budget import Budget
from laconic.search.lever import Range
from laconic.search.levers import levers

# What is expected at the most of another precision in one runtime (a vector holds twice as many numbers, and tiles (AMX) do more in large products, of which
# no net consists alone), and of calling the same kernels with less between them.
MOST = 5.0


def outraced(recipe: Recipe, best: Record | None, records: Sequence[Record]) -> str | None:
    """Return why a recipe cannot become the fastest, in words; None where it may, or where nothing is known.

    Args:
        recipe: not tried yet.
        best: the fastest so far of those that hold the budget; of several budgets the strictest.
        records: what was tried, the baselines among them.
    """
    theirs = _ends(best)
    for target in _relatives(recipe.deploy):
        plain = to_json(Recipe(recipe.steps, target).to_plain())
        known = next((record for record in records if to_json(record.recipe) == plain), None)
        mine = _ends(known)
        if known is not None and mine is not None and theirs is not None and mine[1] * MOST < theirs[0]:
            return (
                f"{known.title} is {mine[1]:.2f}× as fast as the baseline at the most, the best so far {theirs[0]:.2f}× at the least: this would have to win "
                f"{theirs[0] / mine[1]:.1f} times over the former, and {MOST:g} at the most is expected of it"
            )
    return None


def doomed(recipe: Recipe, budget: Budget, records: Sequence[Record]) -> str | None:
    """Return why a recipe will lose too much, in words: one that begins alike and leaves more of the model does, at the good end of its interval too.

    Args:
        recipe: not tried yet.
        budget: what may be lost; of several the one that allows most.
        records: what was tried.
    """
    if (limit := budget.drop_limit) is None:
        return None
    for record in records:
        if record.recipe and record.status == "rejected" and harsher(recipe.steps, record.made_by.steps):
            drop = record.drop
            if drop is not None and drop.low is not None and drop.low > limit:
                lost = quantities.row("drop").told(drop.low, drop.unit)
                return f"{record.title}, which leaves more of the model, loses {lost} at the least; this would lose more"
    return None


def harsher(steps: Sequence[StepConfig], others: Sequence[StepConfig]) -> bool:
    """Return whether steps begin like others except for one number, by which they leave less of the model, and then train nothing that might win it back."""
    if len(steps) < len(others) or any(config.trained() for config in steps[len(others) :]):
        return False
    different = [pair for pair in zip(steps, others, strict=False) if pair[0] != pair[1]]
    return len(different) == 1 and any(_less(*different[0], name, span) for name, span in _numbers(different[0][0]))


def _numbers(config: StepConfig) -> Iterator[tuple[str, Range]]:
    for lever in levers().values():
        if type(config) in lever.configs[:1]:
            yield from ((name, span) for name, span in lever.varies.items() if isinstance(span, Range))


def _less(config: StepConfig, other: StepConfig, name: str, span: Range) -> bool:
    """Return whether one step leaves less of the model than another by one number, and all else is the same."""
    if type(config) is not type(other):
        return False
    mine, theirs = getattr(config, name), getattr(other, name)
    alike = mine is not None and theirs is not None and replace(config, **{name: theirs}) == other
    return alike and mine != theirs and (mine > theirs) is span.rises


def _relatives(target: Target) -> Iterator[Target]:
    """Yield where the same steps are not much slower."""
    if target.precision != PRECISIONS[0]:
        yield replace(target, precision=PRECISIONS[0])
    if target.device == "cpu" and (kin := runtime.runtime(target.runtime).kin):
        yield replace(target, runtime=kin, precision=PRECISIONS[0])


def _ends(record: Record | None) -> tuple[float, float] | None:
    """Return the ends of the interval of how many times faster it is; a baseline's is 1."""
    if record is None:
        return None
    if record.baseline is None:
        return 1.0, 1.0
    ratio = record.speedup
    return None if ratio is None or ratio.low is None or ratio.high is None else (ratio.low, ratio.high)
