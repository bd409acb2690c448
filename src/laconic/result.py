"""The front door of a search: run it, write its page, and hand over what was found."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laconic.core.task import Progress, Task, silent
from laconic.deploy.artifact import Artifact
from laconic.run.recipe import Recipe
from laconic.run.session import Options
from laconic.search.budget import Budget
from laconic.search.optimize import Sweep, new_folder, search, seconds

REPORT = "report.html"


@dataclass(frozen=True)
class Result:
    """A finished run: what was chosen and why, with everything measured in `data` (the content of `result.json`)."""

    folder: Path
    data: Mapping[str, Any]

    @property
    def met(self) -> bool:
        """Whether an artifact holds the budget."""
        return bool(self.data["met"])

    @property
    def verdict(self) -> str:
        """One sentence."""
        return str(self.data["verdict"])

    @property
    def best(self) -> Artifact | None:
        """The artifact that holds the budget, or None."""
        return self._artifact(self.data["best"])

    @property
    def nearest(self) -> Artifact | None:
        """Where no artifact holds the budget: the nearest miss."""
        return self._artifact(self.data["nearest"])

    def _artifact(self, key: str | None) -> Artifact | None:
        return Artifact.open(self.folder / "candidates" / key / "artifact") if key else None

    def report(self, path: str | Path | None = None) -> Path:
        """Write the report, one HTML file that works offline; by default into the run's folder."""
        from laconic.report.page import write_page

        return write_page(dict(self.data), Path(path) if path is not None else self.folder / REPORT)

    def __str__(self) -> str:
        from rich.console import Console

        from laconic.report.facts import facts
        from laconic.report.text import summary

        text = io.StringIO()
        Console(width=120, file=text).print(summary(facts(dict(self.data))))
        return text.getvalue()


def optimize(
    task: Task,
    budget: Budget | None = None,
    *,
    out: str | Path | None = None,
    time_limit: str | float | None = None,
    sweep: Sweep | None = None,
    recipes: Sequence[Recipe] | None = None,
    options: Options | None = None,
    progress: Progress = silent,
    command: str = "",
) -> Result:
    """Find the best artifact within the budget.

    Args:
        task: the trained model (or one with a plan of how to train it), its data and its metric.
        budget: what may be lost and what must be won.
        out: the run's folder; by default `laconic-runs/NAME-TIME`. A folder that holds the same run, unfinished, is continued.
        time_limit: seconds, or text like ``90s``, ``5m``, ``2h``; candidates whose turn comes later are not tried.
        sweep: what is tried; ignored when `recipes` are given.
        recipes: these and no others.
        options: how evidence is gathered.
        progress: told of every stage.
        command: how the run can be repeated, for the report.

    Returns:
        The result; if no budget is met, with the nearest miss and the reason.

    Raises:
        BadInput: the task, the budget or an option cannot be used; everything wrong with the task is told at once, before any work.
    """
    limit = seconds(time_limit)
    folder = Path(out) if out is not None else new_folder(task.name)
    data = search(task, budget or Budget(), folder, limit, sweep or Sweep(), recipes, options or Options(), progress, command)
    result = Result(folder, data)
    if not (folder / REPORT).exists():
        result.report()
    return result
