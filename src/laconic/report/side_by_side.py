"""Two runs side by side: what was asked, what each delivers, where their time went, and the candidates that both tried or one did."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from laconic.core.files import write_whole
from laconic.core.quantities import Quantity
from laconic.core.reading import reading
from laconic.report.candidates import Candidate, measured_rows
from laconic.report.facts import Facts, facts
from laconic.report.page import render
from laconic.report.runs import budget_told
from laconic.report.units import in_unit, joined, number
from laconic.report.words import placed
from laconic.run.store import read_result

_ABSENT = "–"
_SAME = 1.005  # a factor below this is none


@dataclass(frozen=True)
class Line:
    """A line of the comparison: what it is about, the two sides, whether they differ in it, how the second stands to the first, where that can be told, and of
    a candidate which of the two (``a``, ``b``) alone tried it; empty where both did."""

    label: str
    a: str
    b: str
    differs: bool
    change: str = ""
    only: str = ""


@dataclass(frozen=True)
class SideBySide:
    """Two runs: the names of their folders, lines on the runs, on what each delivers, on what each hands over for which budget, on where their time went, and
    on the candidates; `notes` on what may mislead."""

    a: str
    b: str
    runs: tuple[Line, ...]
    delivered: tuple[Line, ...]
    answers: tuple[Line, ...]
    spent: tuple[Line, ...]
    candidates: tuple[Line, ...]
    notes: tuple[str, ...]

    @property
    def parts(self) -> list[tuple[str, tuple[Line, ...]]]:
        """Heading and lines of each part that has any; candidates that one of the two alone tried stand apart."""
        parts = [
            ("The runs", self.runs),
            ("What each delivers", self.delivered),
            ("The answers to each budget", self.answers),
            ("Where the time went", self.spent),
            ("Candidates of both", self._tried_by("")),
            (f"Tried by {self.a} alone", self._tried_by("a")),
            (f"Tried by {self.b} alone", self._tried_by("b")),
        ]
        return [(heading, lines) for heading, lines in parts if lines]

    def _tried_by(self, only: str) -> tuple[Line, ...]:
        return tuple(line for line in self.candidates if line.only == only)


def side_by_side(a: Path, b: Path) -> SideBySide:
    """Compare two finished runs.

    Raises:
        BadInput: a folder holds no finished run.
    """
    results = [read_result(a), read_result(b)]
    with reading(f"{a} or {b}", "a run's result", "Delete its result.json and give the run's command again; what was measured is kept."):
        return _compared(results, [facts(result) for result in results], _names(Path(a), Path(b)))


def _compared(results: Sequence[Mapping[str, Any]], told: Sequence[Facts], names: tuple[str, str]) -> SideBySide:
    keys = list(dict.fromkeys(one.key for facts in told for one in facts.candidates if one.tried))
    mine, theirs = ({one.key: one for one in facts.candidates} for facts in told)
    return SideBySide(
        *names,
        runs=tuple(_about(results, told)),
        delivered=tuple(_delivered(results, told)),
        answers=tuple(_answers(told)),
        spent=tuple(_spent(told)),
        candidates=tuple(_candidate(key, mine.get(key), theirs.get(key)) for key in keys),
        notes=tuple(_notes(results)),
    )


def _names(a: Path, b: Path) -> tuple[str, str]:
    return (a.name, b.name) if a.name != b.name else (str(a), str(b))


def _line(label: str, a: str, b: str) -> Line:
    return Line(label, a or _ABSENT, b or _ABSENT, a != b)


def _about(results: Sequence[Mapping[str, Any]], told: Sequence[Facts]) -> list[Line]:
    return [
        _line("Task", *(one.heading.task for one in told)),
        _line("Budget", *(budget_told(result.get("budget") or {}) for result in results)),
        _line("Outcome", *(one.heading.badge for one in told)),
        _line("Tried", *(f"{sum(c.tried for c in one.candidates if c.status != 'baseline')} candidates" for one in told)),
        _line("Took", *(one.ledger.total if one.ledger else "" for one in told)),
        _line("Finished", *(one.heading.finished for one in told)),
        _line("Laconic", *(one.heading.laconic for one in told)),
    ]


def _delivered(results: Sequence[Mapping[str, Any]], told: Sequence[Facts]) -> list[Line]:
    chosen = [one.chosen for one in told]
    measured = measured_rows([record for result in results for record in result.get("candidates") or ()])
    rows = placed("candidates", results[0].get("budget") or {}, measured) + placed("final", {}, measured)
    rows = list({row.name: row for row in rows}.values())
    lines = [_line("Which", *(_title(facts, one) for facts, one in zip(told, chosen, strict=True)))]
    for row in rows:
        amounts = [None if one is None or one.amount(row.name).raw is None else one.amount(row.name).full for one in chosen]
        if any(amounts):
            line = _line(told[0].words.full(row), *(text or "" for text in amounts))
            lines.append(replace(line, change=_change(row, chosen)))
    lines.append(_line("Recipe", *("" if one is None else one.recipe for one in chosen)))
    return lines


def _change(row: Quantity, chosen: Sequence[Candidate | None]) -> str:
    """Return how the second stands to the first: a difference of scores, else how many times as much; empty where one lacks it."""
    a, b = (None if one is None else one.amount(row.name) for one in chosen)
    if a is None or b is None or a.raw is None or b.raw is None:
        return ""
    if row.reference == 0 or row.data:
        size = in_unit(abs(b.raw - a.raw), None, None, "points" if b.unit == "%" else b.unit).text
        return "the same" if a.raw == b.raw else f"{size} {'more' if b.raw > a.raw else 'less'}"
    if not a.raw or not b.raw or a.raw < 0 or b.raw < 0:
        return ""
    ratio = b.raw / a.raw if row.direction == "max" else a.raw / b.raw
    times = max(ratio, 1 / ratio)
    return "the same" if times < _SAME else f"{joined(number(times), '×')} {row.better if ratio > 1 else row.worse}"


def _answers(told: Sequence[Facts]) -> Iterator[Line]:
    """Yield what is handed over for each budget that one of the two answers; nothing where both have one budget."""
    sides = [{one.asked: one for one in facts.answered} for facts in told]
    for asked in dict.fromkeys(asked for side in sides for asked in side):
        yield _line(asked, *("" if (one := side.get(asked)) is None else f"{one.title}{'' if one.met else ' (not met)'}" for side in sides))


def _spent(told: Sequence[Facts]) -> Iterator[Line]:
    sides = [{} if facts.ledger is None else {row.label: f"{row.text}, {row.percent}" for row in facts.ledger.rows} for facts in told]
    for label in dict.fromkeys(label for side in sides for label in side):
        yield _line(label, *(side.get(label, "") for side in sides))


def _title(told: Facts, one: Candidate | None) -> str:
    return "" if one is None else f"{one.title}" + ("" if told.label == "Best" else " (nearest miss)")


def _candidate(key: str, a: Candidate | None, b: Candidate | None) -> Line:
    title = next(one.title for one in (a, b) if one is not None)
    mine, theirs = (one is not None and one.tried for one in (a, b))
    only = "" if mine == theirs else "a" if mine else "b"
    return replace(_line(title, *(_state(one) for one in (a, b))), only=only)


def _state(one: Candidate | None) -> str:
    """Return how a candidate ended, its speed-up and its loss."""
    if one is None:
        return ""
    figures = [one.amount(name) for name in ("speedup", "drop")]
    words = [
        f"{'loses ' if name == 'drop' else ''}{figure.text}"
        for name, figure in zip(("speedup", "drop"), figures, strict=True)
        if figure.raw is not None
    ]
    return ", ".join([one.state, *(words if one.status != "baseline" else [])])


def _notes(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what makes the two less comparable."""
    notes = []
    if results[0].get("budget") != results[1].get("budget"):
        notes.append("They were asked for different things: what is best for one budget need not be for the other.")
    machines = [(result.get("environment") or {}).get("processor") for result in results]
    if machines[0] != machines[1]:
        notes.append(f"They ran on different machines: {machines[0]}, {machines[1]}.")
    notes.append(
        "Each speed-up is against the baseline of its own run, measured at its own time. To compare two artifacts themselves, time them in turns: "
        "laconic bench A --vs B."
    )
    batches = [result.get("batch") for result in results]
    if batches[0] != batches[1]:
        notes.append(f"Calls held different batches: {batches[0]} and {batches[1]} examples.")
    return notes


def table(both: SideBySide) -> RenderableType:
    """Return the comparison for a terminal; lines in which the two differ are bright."""
    parts: list[RenderableType] = []
    for heading, lines in both.parts:
        made = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", title=Text(heading, "bold"), title_justify="left", expand=True)
        changes = any(line.change for line in lines)
        for column, ratio in (("", 2), (both.a, 3), (both.b, 3), *([("the second", 2)] if changes else [])):
            made.add_column(Text(column), ratio=ratio, overflow="fold")
        for line in lines:
            sides = [line.a, line.b, *([line.change] if changes else [])]
            made.add_row(Text(line.label), *(Text(side, "" if line.differs else "dim") for side in sides))
        parts += [made, Text()]
    return Group(*parts, *(Text(note, "dim") for note in both.notes))


def write_page(both: SideBySide, path: Path) -> Path:
    """Write the comparison as one self-contained HTML file; returns its path."""
    return write_whole(path, render("side_by_side.html", None, both=both))
