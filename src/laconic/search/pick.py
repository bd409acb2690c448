"""Another budget answered from a finished run, without computing: its candidates are held against it as they were measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from laconic.core.errors import BadInput
from laconic.core.fields import typed
from laconic.core.reading import reading
from laconic.core.records import to_json
from laconic.run.mirror import read_here
from laconic.run.record import Record
from laconic.run.store import RESULT, read_result
from laconic.run.timing import PUBLISHED
from laconic.search.budget import Budget
from laconic.search.content import answer, recipe_yaml
from laconic.search.given import as_budget
from laconic.search.result import Result
from laconic.search.select import confirm, frontier, judged_by, so_far
from laconic.search.verdict import Scale

# What was found out of the run's own choice beside its figures.
_OF_CHOICE = ("answers", "spread", "curve")


@typed("run", "budget")
def pick(run: str | Path | Result, budget: Budget | Mapping[str, Any] | None = None) -> Result:
    """Answer another budget from a finished run, without computing.

    Args:
        run: the folder of a finished run, the URL where it is mirrored, or its result.
        budget: what is asked now; limits that it leaves out are not set, but for the drop, whose default is that of `optimize`.

    Returns:
        The result as that budget would have it: the best candidate that holds it as it was measured, or the nearest miss. Where its times come from the
        comparison that chose it, or nothing is known on the test data, `data["certainty"]` says so.

    Raises:
        BadInput: the folder has no finished run, or the budget makes no sense or asks for what was not measured in it.
    """
    folder = run.folder if isinstance(run, Result) else read_here(run)
    data = dict(run.data if isinstance(run, Result) else read_result(folder))
    with reading(folder / RESULT, "a run's result", "Delete it and give the run's command again; what was measured is kept."):
        records = [Record.from_json(row) for row in _rows(data)]
        scale = Scale.written(data["task"]["metric"])
    wanted = as_budget(budget).filled(scale.name, scale.points)
    _check_measured(records, wanted)
    records = frontier(judged_by(records, wanted), wanted)
    choice = so_far(records, wanted)
    if choice.best is not None:
        choice = confirm(choice, records, wanted)
    found = answer(records, choice, wanted, scale, data["task"]["inputs"])
    told = tuple(_told(choice.best, data))
    if not isinstance(run, Result) and found["best"] is not None:
        read_here(run, found["best"])
    same = (found["best"] or found["nearest"]) == (data.get("best") or data.get("nearest"))
    kept = {name: value for name, value in data.items() if same or name not in _OF_CHOICE}
    again = {"recipe_yaml": recipe_yaml(choice.best or choice.nearest, data["task"]["ref"], wanted)}
    certainty = (*found["certainty"], *told)
    changed = {"certainty": certainty, "verdict": " ".join((found["headline"], *certainty)), "reproduce": {**data["reproduce"], **again}}
    return Result(folder, dict(to_json({**kept, **found, **changed, "budgets": []})))


def _rows(data: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield all records as they were written, the baselines first."""
    for row in (data["baseline"], *data["other_baselines"]):
        yield {**row, "status": "baseline"}
    yield from data["candidates"]


def _check_measured(records: Sequence[Record], budget: Budget) -> None:
    """Refuse a budget about something that this run measured of no candidate."""
    known = {name for record in records for name, found in record.measured.items() if found.value is not None}
    missing = [row.label for row in budget.quantities() if row.data != "test" and row.name not in known]
    if missing and len(records) > 1:
        raise BadInput(
            f"this run did not measure: {', '.join(dict.fromkeys(missing))}. Run optimize with this budget in a folder of its own, or leave that limit out."
        )


def _told(best: Record | None, data: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a choice without computing lacks."""
    if best is None:
        return
    if best.comparison != PUBLISHED:
        yield (
            "It is picked from a finished run as it was measured there: its times are those of the comparison by which it is chosen now, which flatters the "
            "best of many; laconic bench measures it anew."
        )
    if best.test_drop is None and data["task"]["n_test"] is not None:
        yield "Nothing is known of it on the test data: a run with --frontier reads that for the choice of each budget."
