"""The runs of a folder, one row each: when, what was asked, how it ended, and what won."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from laconic.core import quantities
from laconic.core.errors import BadInput, LaconicError
from laconic.core.files import read_json
from laconic.core.reading import reading
from laconic.report.facts import Facts, facts
from laconic.report.words import asked, goal
from laconic.run.store import MANIFEST, RESULT, read_result

DEFAULT = Path("laconic-runs")
_STYLES = {"met": "green", "improved": "green", "missed": "red", "unreadable": "red"}
_PLACES = ("speedup", "drop")  # quantities of a row


def runs(folder: Path = DEFAULT) -> list[dict[str, Any]]:
    """Return the runs in a folder (or the folder itself, where it is one), the latest first.

    Returns:
        Of each: ``folder``, ``when`` (ISO 8601, UTC: when it finished; of one that did not, when it began), ``task``, ``budget`` (what was given), ``state``
        (``finished``, ``stopped`` by a time limit or Ctrl-C, ``unfinished``, ``unreadable``), ``kind`` and ``badge`` (as the page has them), ``verdict``,
        ``winner`` (a title), ``artifact`` (its folder), ``speedup`` and ``drop`` (value, unit, low, high; None where they were not measured), ``command``.

    Raises:
        BadInput: there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BadInput(f"there is no folder {folder}. `laconic optimize TASK` makes {DEFAULT}; another one: laconic runs FOLDER")
    places = [folder] if (folder / MANIFEST).exists() else [path.parent for path in folder.glob(f"*/{MANIFEST}")]
    return sorted(map(_row, places), key=lambda row: row["when"], reverse=True)


def _row(folder: Path) -> dict[str, Any]:
    row: dict[str, Any] = {
        "folder": str(folder), "when": _changed(folder / MANIFEST), "task": "", "budget": {}, "state": "unfinished", "kind": "", "badge": "",
        "verdict": "", "winner": "", "artifact": "", **dict.fromkeys(_PLACES), "command": "",
    }  # fmt: skip
    try:
        with reading(folder, "a run", "Delete it, or give its command again."):
            manifest = read_json(folder / MANIFEST).get("run") or {}
            row.update(task=str(manifest.get("task") or ""), budget=_given(manifest.get("budget") or {}))
            if (folder / RESULT).exists():
                result = read_result(folder)
                row.update(_finished(folder, result, facts(result)))
    except LaconicError as error:  # a damaged one is a row too
        row.update(state="unreadable", kind="unreadable", verdict=str(error))
    return row


def _finished(folder: Path, result: Mapping[str, Any], told: Facts) -> dict[str, Any]:
    handed = told.chosen if result.get("best") else None
    records = {record.get("key"): record for record in result.get("candidates") or ()}
    measured = records[handed.key]["measured"] if handed else {}
    return {
        "when": str(result.get("finished") or _changed(folder / RESULT)),
        "task": told.heading.task,
        "budget": _given(result.get("budget") or {}),
        "state": "finished" if not result.get("stopped") else "stopped",
        "kind": told.heading.kind,
        "badge": told.heading.badge,
        "verdict": told.heading.verdict,
        "winner": handed.title if handed else "",
        "artifact": str(folder / handed.artifact) if handed and handed.artifact else "",
        **{name: _figure(measured.get(name)) for name in _PLACES},
        "command": told.reproduce.command,
    }


def _given(budget: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in budget.items() if value is not None and value is not False}


def _figure(measured: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if measured is None else {name: measured.get(name) for name in ("value", "unit", "low", "high")}


def _changed(path: Path) -> str:
    return datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.timezone.utc).isoformat(timespec="seconds")


def budget_told(budget: Mapping[str, Any]) -> str:
    """Return what was asked, in a few words.

    >>> budget_told({"max_drop": 0.5, "min_speedup": 4, "objective": "latency"})
    'max_drop 0.5, min_speedup 4; best latency'
    """
    limits = ", ".join(f"{limit.name} {value:g}" for limit, value in asked(budget)) or "no limit"
    objective = goal(budget).objective
    return limits if objective is None else f"{limits}; best {objective.name}"


def listing(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Return the runs as a table for a terminal."""
    if not rows:
        return Text("no runs here; `laconic optimize TASK` makes one", "dim")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", expand=True)
    table.add_column("Run", overflow="fold", ratio=3)
    table.add_column("Ended", no_wrap=True)
    table.add_column("What won", overflow="fold", ratio=3)
    for heading in ("Speed-up", "Drop"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        about = Text.assemble((Path(row["folder"]).name, "bold"), f"\n{row['task']}", (f"\n{budget_told(row['budget'])}", "dim"))
        when = datetime.datetime.fromisoformat(row["when"].replace("Z", "+00:00")).astimezone()
        word = row["badge"] if row["state"] == "finished" else f"{row['badge']}\n{row['state']}".strip()
        ended = Text.assemble((word, _STYLES.get(row["kind"], "")), (f"\n{when:%d %b %Y %H:%M}", "dim"))
        won = row["winner"] or (row["verdict"] if row["state"] == "unreadable" else "–")
        table.add_row(about, ended, Text(won), *(_told(name, row[name]) for name in _PLACES))
    return Group(table, Text("\nOne of them: laconic report RUN. Two of them: laconic report --compare RUN RUN.", "dim"))


def _told(name: str, figure: Mapping[str, Any] | None) -> str:
    return "–" if figure is None or figure["value"] is None else quantities.row(name).told(figure["value"], figure["unit"])
