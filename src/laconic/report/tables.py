"""Tables of the report: columns, rows and cells as data, to be drawn by the page and the terminal alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from laconic.core.quantities import Quantity
from laconic.report.candidates import Candidate
from laconic.report.units import TIME, Amount, missing, rescaled, scaled, shared, shared_unit
from laconic.report.words import Words, placed

_TOOK = "seconds"  # the column of what a candidate took; no quantity of an artifact


@dataclass(frozen=True)
class Column:
    """A column of numbers: the quantity's name, its heading, the unit that all its cells share, a hint, and whether a terminal shows it."""

    key: str
    title: str
    unit: str = ""
    hint: str = ""
    terminal: bool = False


@dataclass(frozen=True)
class Cell:
    """One cell. `sort` is the number to sort by (None sorts last), `reason` says why there is no number."""

    key: str
    text: str
    sort: float | None = None
    interval: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Row:
    """One candidate. `gap` replaces the cells where nothing was measured; `note` stands under the title."""

    key: str
    title: str
    status: str
    cells: tuple[Cell, ...]
    note: str = ""
    gap: str = ""
    marked: str = ""

    @property
    def state(self) -> str:
        """The status in words: `not tried`."""
        return self.status.replace("_", " ")


@dataclass(frozen=True)
class Table:
    """Columns and rows; every row without a gap has one cell per column."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


def candidates_table(
    candidates: Sequence[Candidate], words: Words, budget: Mapping[str, Any], measured: Mapping[str, Quantity], mark: tuple[str, str]
) -> Table:
    """Return all candidates, the baselines first, as they were measured on validation data.

    Args:
        candidates: all.
        words: of the task.
        budget: of the result.
        measured: its quantities by name.
        mark: the key of the one to mark, and with what.
    """
    made = _table(placed("candidates", budget, measured), placed("terminal", budget, measured), candidates, words, mark, notes=True)
    took = {one.key: one.seconds for one in candidates}
    size, unit = shared(TIME, (amount.raw for amount in took.values()))
    rows = tuple(replace(row, cells=(*row.cells, _took(took[row.key], (size, unit)))) if row.cells else row for row in made.rows)
    return Table((*made.columns, Column(_TOOK, "Took", unit, "to make it, check it and time it")), rows)


def _took(amount: Amount, unit: tuple[float, str]) -> Cell:
    if not amount.raw:
        return Cell(_TOOK, "–")
    shown = scaled(amount.raw, TIME, unit=unit)
    return Cell(_TOOK, shown.number, shown.raw)


def final_table(
    candidates: Sequence[Candidate], words: Words, budget: Mapping[str, Any], measured: Mapping[str, Quantity], mark: tuple[str, str]
) -> Table:
    """Return those that met the test data, which is touched once; see `candidates_table`."""
    rows = sorted(placed("final", budget, measured), key=lambda row: row.data != "test")
    tested = [row.name for row in rows if row.data == "test" and row.reference is None]
    shown = [c for c in candidates if any(c.amount(name).raw is not None for name in tested) or c.key == mark[0] or c is candidates[0]]
    return _table(rows, (), shown, words, mark, notes=False)


def _table(
    rows: Sequence[Quantity],
    terminal: Sequence[Quantity],
    candidates: Sequence[Candidate],
    words: Words,
    mark: tuple[str, str],
    notes: bool,
) -> Table:
    units = {row.name: shared_unit(row, [c.amount(row.name) for c in candidates]) for row in rows}
    short = {row.name for row in terminal}
    columns = tuple(Column(row.name, words.heading(row), units[row.name][1], row.show.hint, row.name in short) for row in rows)
    return Table(columns, tuple(_row(rows, units, c, mark[1] if c.key == mark[0] else "", notes) for c in candidates))


def _row(rows: Sequence[Quantity], units: Mapping[str, tuple[float, str]], one: Candidate, marked: str, notes: bool) -> Row:
    if not one.measured:
        return Row(one.key, one.title, one.status, (), gap=missing(one.why).text, marked=marked)
    cells = tuple(_cell(row, units[row.name], one) for row in rows)
    return Row(one.key, one.title, one.status, cells, note=_note(one) if notes else "", marked=marked)


def _note(one: Candidate) -> str:
    return "; ".join(text for text in (one.why, one.settled, one.busy_mark) if text)


def _cell(row: Quantity, unit: tuple[float, str], one: Candidate) -> Cell:
    if one.status == "baseline" and row.reference is not None:
        return Cell(row.name, "reference", row.reference)
    amount = one.amount(row.name)
    if amount.raw is None:
        return Cell(row.name, "Not measured", reason=amount.reason)
    shown = rescaled(row, amount, unit)
    return Cell(row.name, shown.number, shown.raw, shown.interval)
