"""The beginnings of a recipe that was chosen, measured so that the report can tell what each step gave; none of them is offered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from laconic.run.evaluate import Evaluator
from laconic.run.recipe import Recipe
from laconic.run.record import BEGINNING, Reason, Record

_WHY = "a beginning of the recipe that was chosen: measured to tell what each step gives, and not offered"


def beginnings(recipe: Recipe) -> Iterator[Recipe]:
    """Yield a recipe with none of its steps, with the first, with the first two, and so on; without the whole of it."""
    yield from (replace(recipe, steps=recipe.steps[:count]) for count in range(len(recipe.steps)))


def measured(evaluator: Evaluator, chosen: Record, records: Sequence[Record]) -> list[Record]:
    """Return records of the beginnings of the chosen recipe that are not among these, each timed with its baseline alone.

    What a beginning trains is made once in a run, whatever follows it (`run.stepwise`), so no step is carried out again.
    """
    known = {record.key for record in records}
    missing = [recipe for recipe in beginnings(chosen.made_by) if recipe.key not in known]
    evaluator.progress.start("beginnings", len(missing))
    made = []
    for recipe in missing:
        evaluator.progress.advance(0, now=recipe.title)
        record = evaluator.evaluate(recipe)
        made.append(record.rejected(Reason(BEGINNING, _WHY)) if record.status == "passed" else record)
        evaluator.progress.advance(candidate=record.title, status=made[-1].status)
    evaluator.progress.finish()
    return made
