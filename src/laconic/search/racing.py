"""Who is not tried since near relatives lost by too much: in time the same steps in fp32 in its runtime, or in the runtime whose kernels that one calls too;
in what the model knows the same steps with more of the model left; in bytes its last steps by themselves and its first steps with others behind them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from laconic.core import quantities
from laconic.core.quantities import Quantity
from laconic.core.records import Measurement
from laconic.core.step import StepConfig
from laconic.core.target import PRECISIONS, Target
from laconic.deploy import runtime
from laconic.run.recipe import Recipe
from laconic.run.record import Record
from laconic.search.budget import Budget
from laconic.search.lever import Range
from laconic.search.levers import levers
from laconic.search.readings import broken

# What is expected at the most of another precision in one runtime (a vector holds twice as many numbers, and tiles (AMX) do more in large products, of which
# no net consists alone), and of calling the same kernels with less between them.
MOST = 5.0
SLACK = 1.3  # times what is expected of the bytes of a file, it may be less


def outraced(recipe: Recipe, best: Record | None, records: Sequence[Record]) -> str | None:
    """Return why a recipe cannot become the fastest, in words; None where it may, or where nothing is known.

    Args:
        recipe: not tried yet.
        best: the fastest so far of those that hold the budget; of several budgets the strictest.
        records: what was tried, the baselines among them.
    """
    theirs = _ends(best)
    for target in _relatives(recipe.deploy):
        key = Recipe(recipe.steps, target).key
        known = next((record for record in records if record.key == key), None)
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


def oversized(recipe: Recipe, budget: Budget, records: Sequence[Record]) -> str | None:
    """Return why a recipe will break a limit of what is exact, such as the bytes of a file, in words.

    Expected is what its last steps leave of the whole model, by the share that its first steps left where others followed them.

    Args:
        recipe: not tried yet.
        budget: what must hold; of several any, since they differ in the drop alone.
        records: what was tried.
    """
    for row, asked in budget.limited():
        if not row.exact or row.direction != "min":
            continue
        for n in range(1, len(recipe.steps) + 1):
            first, last = recipe.steps[:n], recipe.steps[n:]
            share = _share_left(first, row, records)
            rest = None if share is None else _left_by(last, recipe.deploy, row, records)
            expected = None if share is None or rest is None else Measurement(share * rest / SLACK, row.unit)
            if share is not None and expected is not None and (reason := broken(row, expected, asked, False)) is not None:
                words = " · ".join(config.words() for config in first)
                return f"{words} leaves {100 * share:.0f} % of the {row.noun} where something else follows; here too, divided by {SLACK:g}, {reason.text}"
    return None


def heavy(recipe: Recipe, budget: Budget, records: Sequence[Record]) -> bool:
    """Return whether what follows a recipe's training breaks a limit of what is exact when it is done by itself: what was trained has to make up for it."""
    last = max((n for n, config in enumerate(recipe.steps, 1) if config.trained()), default=0)
    left = ((row, asked, _left_by(recipe.steps[last:], recipe.deploy, row, records)) for row, asked in budget.limited() if row.exact)
    return any(value is not None and broken(row, Measurement(value, row.unit), asked, False) is not None for row, asked, value in left)


def _share_left(steps: Sequence[StepConfig], row: Quantity, records: Sequence[Record]) -> float | None:
    """Return the least share of a quantity that steps left of what the rest of a recipe leaves by itself; None where no such pair was measured.

    A rest that fills a size up to its limit whatever was left tells nothing.
    """
    known = [record for record in records if record.recipe and record.made_by.steps[: len(steps)] == steps]
    rests = [(record, record.made_by.steps[len(steps) :]) for record in known]
    pairs = [
        (record.value(row.name), _left_by(rest, record.made_by.deploy, row, records))
        for record, rest in rests
        if not any(config.fills() for config in rest)
    ]
    return min((own / whole for own, whole in pairs if own is not None and whole), default=None)


def _left_by(steps: Sequence[StepConfig], target: Target, row: Quantity, records: Sequence[Record]) -> float | None:
    """Return what steps leave of the model in a runtime and precision, on any number of threads; None where they were not measured by themselves."""
    place = replace(target, threads=None)
    return next(
        (
            value
            for record in records
            if record.recipe and record.made_by.steps == tuple(steps) and replace(record.made_by.deploy, threads=None) == place
            if (value := record.value(row.name)) is not None
        ),
        None,
    )


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
