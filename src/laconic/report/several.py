"""One run that answered several budgets: what each is handed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from laconic.report.candidates import Candidate
from laconic.report.steps import mappings


@dataclass(frozen=True)
class Answered:
    """A budget in words, whether it is the run's own, whether it is met, the title of what is handed over (or the nearest miss), its figures in the order
    of the columns, and why not."""

    asked: str
    own: bool
    met: bool
    key: str
    title: str
    figures: tuple[str, ...]
    why: str


def answered(result: Mapping[str, Any], candidates: Sequence[Candidate], columns: Sequence[str]) -> tuple[Answered, ...]:
    """Return what each budget is answered; nothing where a run has one budget.

    Args:
        result: the content of a run's result.json.
        candidates: all.
        columns: quantities whose figures are shown.
    """
    by_key = {candidate.key: candidate for candidate in candidates}
    found = []
    for told in mappings(result.get("budgets")):
        key = str(told.get("best") or told.get("nearest") or "")
        one = by_key.get(key)
        figures = tuple("" if one is None else one.amount(name).text for name in columns)
        why = "" if told.get("met") else str(told.get("reason") or "")
        title = "nothing" if one is None else one.title
        found.append(
            Answered(
                str(told.get("told") or ""), told.get("budget") == result.get("budget"), bool(told.get("met")), key, title, figures, why
            )
        )
    return tuple(found)
