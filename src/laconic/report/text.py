"""The same facts for a terminal: the verdict, the best against the baseline, and every candidate with its reason."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from laconic.report.facts import Facts
from laconic.report.figures import Figure
from laconic.report.limits import LimitLine
from laconic.report.payoff import Payoff
from laconic.report.tables import Column, Row

_HEADING = 14  # letters of a line of a heading
_ROWS = 24  # longer tables are cut: the page has them all
_STYLES = {"passed": "green", "baseline": "bold", "rejected": "yellow", "failed": "red", "unavailable": "dim", "not_tried": "dim"}
_BADGES = {"met": "bold green", "improved": "bold green", "kept": "bold", "missed": "bold red", "nothing": "bold red", "untried": "bold"}
_TONES = {"good": "green", "bad": "red"}


def summary(facts: Facts) -> RenderableType:
    """Return what a run found, for `rich.console.Console.print`; whatever a user named is shown as written, never read as markup."""
    heading = facts.heading
    said = heading.verdict.startswith(heading.badge)
    verdict = (
        Text(heading.verdict, _BADGES[heading.kind])
        if said
        else Text.assemble((heading.badge, _BADGES[heading.kind]), "  ", heading.verdict)
    )
    parts: list[RenderableType] = [verdict, *(Text(text) for text in heading.certainty)]
    if heading.reason:
        parts.append(Text(heading.reason))
    parts += [Padding(_figures(facts), (1, 0, 0, 0))]
    if facts.budget:
        parts.append(Padding(Group(*(_rule(rule) for rule in facts.budget)), (1, 0, 0, 0)))
    if facts.answered:
        parts.append(Padding(_answered(facts), (1, 0, 0, 0)))
    if facts.payoff is not None and len(facts.payoff.chain) > 1:
        parts.append(Padding(_payoff(facts, facts.payoff), (1, 0, 0, 0)))
    parts.append(Padding(_candidates(facts), (1, 0, 0, 0)))
    left = len(facts.table.rows) - len(_shown(facts)) - len(facts.unavailable)
    if left:
        parts.append(Text(f"{left} more are in the report.", "dim"))
    reasons = [_reason(row, facts) for row in _shown(facts)]
    if any(reasons):
        parts.append(Padding(Group(*(reason for reason in reasons if reason)), (1, 0, 0, 0)))
    if facts.timing_note:
        parts.append(Padding(Text(facts.timing_note, "dim"), (1, 0, 0, 0)))
    if facts.unavailable:
        parts.append(Padding(Group(*_unavailable(facts)), (1, 0, 0, 0)))
    return Group(*parts)


def _figures(facts: Facts) -> Table:
    title = (
        f"{facts.label}: {facts.chosen.title} against {facts.baseline.title}" if facts.chosen else f"The baseline: {facts.baseline.title}"
    )
    table = Table(title=Text(title, "bold"), title_justify="left", box=None, show_header=False, padding=(0, 2, 0, 0))
    for figure in facts.figures:
        table.add_row(
            Text(figure.label), _figure(figure), Text(figure.amount.interval and f"95 %: {figure.amount.interval}"), _change(figure)
        )
    return table


def _figure(figure: Figure) -> Text:
    measured = figure.amount.raw is not None
    return Text(figure.amount.text, "bold " + _TONES.get(figure.tone, "") if measured else "italic")


def _change(figure: Figure) -> Text:
    return Text("; ".join(part for part in (figure.before, figure.remark) if part), "dim")


def _rule(rule: LimitLine) -> Text:
    word, style = ("unknown", "dim") if rule.held is None else ("held", "green") if rule.held else ("missed", "red")
    line = Text.assemble((f"{word:<8}", style), rule.asked, (f"  {rule.reached}", "dim"))
    if rule.worst:
        surely, color = ("holds too", "green") if rule.surely else ("not held", "yellow")
        line.append_text(Text.assemble((f"\n{'':<8}at the bad end of the interval {rule.worst}: ", "dim"), (surely, color)))
    return line


def _answered(facts: Facts) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("Budget", "Handed over", *(textwrap.fill(column, _HEADING) for column in facts.answered_columns)):
        table.add_column(Text(name), justify="left" if not table.columns[1:] else "right")
    for one in facts.answered:
        title = Text.assemble(one.title, ("" if one.met else " (not met)", _BADGES["missed"]))
        table.add_row(Text(one.asked), title, *map(Text, one.figures))
    return table


def _payoff(facts: Facts, payoff: Payoff) -> Table:
    """Return what each part of the chosen recipe gave, one line for each."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("What gave what", *(textwrap.fill(facts.words.label(row), _HEADING) for row in payoff.rows)):
        table.add_column(Text(name))
    for part in payoff.chain:
        effects = [part.effect(row.name) for row in payoff.rows]
        table.add_row(Text(part.title), *(Text("–" if effect is None else effect.told) for effect in effects))
    return table


def _candidates(facts: Facts) -> Table:
    shown = [column for column in facts.table.columns if column.terminal]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("Candidate")
    table.add_column("Status")
    for column in shown:
        table.add_column(Text(f"{textwrap.fill(column.title, _HEADING)}\n{column.unit}"), justify="right", no_wrap=True)
    for row in _shown(facts):
        title = Text.assemble(row.title, (f" ({row.marked.lower()})", "bold") if row.marked else "")
        table.add_row(title, Text(row.state, _STYLES.get(row.status, "")), *_cells(row, shown))
    return table


def _shown(facts: Facts) -> list[Row]:
    """Return what this machine can run, or the first that passed where that is too much; the baseline and the best always, in the order of the run."""
    rows = [row for row in facts.table.rows if row.status != "unavailable"]
    if len(rows) <= _ROWS:
        return rows
    rank = {"baseline": 0, "passed": 1, "rejected": 2}
    kept = {row.key for row in sorted(rows, key=lambda row: (not row.marked, rank.get(row.status, 3)))[:_ROWS]}
    return [row for row in rows if row.key in kept]


def _unavailable(facts: Facts) -> Iterator[Text]:
    """Return what this machine cannot run, one line for each reason."""
    reasons = dict.fromkeys(reason for _, reason in facts.unavailable)
    for reason in reasons:
        titles = ", ".join(title for title, why in facts.unavailable if why == reason)
        yield Text(f"not available here: {titles}: {reason}", "dim")


def _cells(row: Row, shown: list[Column]) -> list[Text]:
    """Return one text for each column; what was not measured is a dash, and its reason stands below the table."""
    cells = {cell.key: cell for cell in row.cells}
    return [Text(cells[c.key].text) if c.key in cells and not cells[c.key].reason else Text("–", "dim") for c in shown]


def _missing(row: Row, shown: list[Column]) -> str:
    """Return the reasons for the dashes of a row."""
    titles = {column.key: column.title.lower() for column in shown}
    return "; ".join(f"{titles[cell.key]} not measured: {cell.reason}" for cell in row.cells if cell.reason and cell.key in titles)


def _reason(row: Row, facts: Facts) -> Text | None:
    words = [row.note, row.gap, _missing(row, [column for column in facts.table.columns if column.terminal])]
    text = "; ".join(word for word in words if word)
    return Text.assemble((row.title, "bold"), ": ", text) if text else None
