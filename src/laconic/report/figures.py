"""The big figures: what the chosen candidate has of each quantity, against the baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from laconic.core import quantities
from laconic.core.quantities import Quantity
from laconic.report.candidates import Candidate
from laconic.report.units import Amount, joined, number, rescaled, shared_unit
from laconic.report.words import Words, asked, goal, placed

_SAME = 1.005  # a factor below this is none


@dataclass(frozen=True)
class Figure:
    """One big figure: the quantity's name, what it is, the amount, what it was before, and a short remark on the change where there is no interval."""

    key: str
    label: str
    amount: Amount
    before: str
    remark: str
    tone: str


def figures(
    baseline: Candidate, chosen: Candidate | None, words: Words, budget: Mapping[str, Any], measured: Mapping[str, Quantity]
) -> tuple[Figure, ...]:
    """Return the figures, the objective's first; of the baseline alone where there is nothing to compare it with.

    Args:
        baseline: what the chosen one is compared with.
        chosen: the best or the nearest miss.
        words: of the task.
        budget: of the result.
        measured: its quantities by name.
    """
    rows = placed("figures", budget, measured)
    compared = {row.compares for row in rows}
    rows = [row for row in rows if row.name not in compared]
    if chosen is None:
        alone = [measured[row.compares] if row.compares else row for row in rows]
        return tuple(Figure(row.name, words.label(row), baseline.amount(row.name), "", "", "plain") for row in alone)
    limited = {limit.name for limit, _ in asked(budget)} | {name for name, value in budget.items() if value == "any"}
    made = [_figure(row, baseline, chosen, words, limited) for row in rows]
    return tuple(sorted(made, key=lambda figure: figure.key != goal(budget).name))


def _figure(row: Quantity, baseline: Candidate, chosen: Candidate, words: Words, limited: set[str]) -> Figure:
    """Return the figure of one quantity; on test data where it was measured there (nothing was selected on it)."""
    tested = bool(row.on_test) and chosen.amount(row.on_test).raw is not None
    shown = quantities.row(row.on_test) if tested else row
    busy = chosen.busy_mark if row.timed else ""
    amount = chosen.amount(shown.name)
    if shown.reference is None:
        before, remark, tone = _change(shown, baseline, chosen)
        return Figure(row.name, words.label(row), amount, before, "; ".join(text for text in (remark, busy) if text), tone)
    before = _labeled(_behind(shown, words), _arrow(quantities.row(shown.compares), baseline, chosen))
    return Figure(row.name, words.label(row), amount, before, busy, _tone(shown, amount, chosen, limited))


def _behind(row: Quantity, words: Words) -> str:
    """Return what stands before the two values that a comparison compares: the data, or the quantity: `test data`, `median`."""
    return {"test": "test data", "valid": "validation"}.get(row.data) or words.heading(quantities.row(row.compares)).lower()


def _change(row: Quantity, baseline: Candidate, chosen: Candidate) -> tuple[str, str, str]:
    """Return what it was before, how many times better or worse it is, and the tone: `3.9× smaller`, `1.2× larger` or `the same`."""
    before, after = baseline.amount(row.name), chosen.amount(row.name)
    if not before.raw or not after.raw:
        return (before.text if before.raw else ""), "", "plain"
    arrow = _arrow(row, baseline, chosen)
    if row.name in baseline.stood_in:
        arrow = _labeled(quantities.row(row.stands_in).noun, arrow)
    ratio = before.raw / after.raw if row.direction == "min" else after.raw / before.raw
    times = ratio if ratio >= 1 else 1 / ratio
    if times < _SAME:
        return arrow, "the same", "plain"
    return arrow, f"{joined(number(times), '×')} {row.better if ratio > 1 else row.worse}", "good" if ratio > 1 else "bad"


def _arrow(row: Quantity, baseline: Candidate, chosen: Candidate) -> str:
    """Write `2.44 → 0.351 ms`: both in one unit."""
    before, after = baseline.amount(row.name), chosen.amount(row.name)
    if before.raw is None or after.raw is None:
        return ""
    unit = shared_unit(row, (before, after))
    return f"{rescaled(row, before, unit).number} → {rescaled(row, after, unit).text}"


def _labeled(label: str, text: str) -> str:
    return f"{label} {text}" if text else ""


def _tone(row: Quantity, amount: Amount, chosen: Candidate, limited: set[str]) -> str:
    """Return bad where the gate says so; else good or bad only where the whole interval says so. A loss within its limit is what was bargained for."""
    if row.limit is not None and chosen.broke(row.limit.broken):
        return "bad"
    if amount.raw is None or row.reference is None:
        return "plain"
    ends = [row.cost(amount.raw if end is None else end) for end in (amount.low, amount.high)]
    if max(ends) < row.cost(row.reference):
        return "good"
    bargained = row.limit is not None and row.limit.name in limited
    return "bad" if min(ends) > row.cost(row.reference) and not bargained else "plain"
