"""A finished run, as the library hands it over."""

from __future__ import annotations

import contextlib
import html
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laconic.core.console import for_console
from laconic.core.reading import reading
from laconic.deploy.artifact import Artifact
from laconic.run.mirror import read_here
from laconic.run.store import RESULT, read_result

REPORT = "report.html"
_WIDTH = 120  # letters of a printed summary


@dataclass(frozen=True)
class Result:
    """A finished run: what was chosen and why, with everything measured in `data` (the content of `result.json`)."""

    folder: Path
    data: Mapping[str, Any]

    @staticmethod
    def open(folder: str | Path) -> Result:
        """Open a finished run's folder; of a URL where it is mirrored, what ships and the nearest miss are fetched too.

        Raises:
            BadInput: there is no run in it, or it is not finished.
        """
        place = read_here(folder)
        result = read_result(place)
        read_here(folder, result.get("best") or result.get("nearest"))
        return Result(place, result)

    @property
    def met(self) -> bool:
        """Whether an artifact holds the budget."""
        return bool(self.data["met"])

    @property
    def verdict(self) -> str:
        """One sentence."""
        return str(self.data["verdict"])

    @property
    def stopped(self) -> Mapping[str, Any] | None:
        """What ended the run before every candidate had its turn: `by`, `after_s`, `tried`, `of`, and `told`, a sentence; None where nothing did."""
        return self.data.get("stopped")

    @property
    def best(self) -> Artifact | None:
        """The artifact that holds the budget, or None."""
        return self._artifact(self.data["best"])

    @property
    def nearest(self) -> Artifact | None:
        """Where no artifact holds the budget: the nearest miss."""
        return self._artifact(self.data["nearest"])

    def _artifact(self, key: str | None) -> Artifact | None:
        return Artifact.open(self.folder / "candidates" / key / "artifact", trust=True) if key else None

    def report(self, path: str | Path | None = None) -> Path:
        """Write the report, one HTML file that works offline; by default into the run's folder."""
        from laconic.report.page import write_page

        with self._read():
            return write_page(dict(self.data), Path(path) if path is not None else self.folder / REPORT)

    def _read(self) -> contextlib.AbstractContextManager[None]:
        """Name the file where what is drawn from it is not a run's result."""
        return reading(self.folder / RESULT, "a run's result", "Delete it and give the run's command again; what was measured is kept.")

    def __str__(self) -> str:
        from rich.console import Console

        text = io.StringIO()
        Console(width=_WIDTH, file=text).print(self._summary())
        return for_console(text.getvalue())

    def _repr_html_(self) -> str:
        """Return the summary as a notebook shows it, with the paths of the page and of what ships."""
        from rich.console import Console

        console = Console(width=_WIDTH, file=io.StringIO(), record=True, force_jupyter=False)
        console.print(self._summary())
        summary = console.export_html(inline_styles=True, code_format='<pre style="line-height:1.3">{code}</pre>')
        ships = "" if self.best is None else f"<br>Ships: <code>{html.escape(str(self.best.file))}</code>"
        return f"{summary}<p>Report: <code>{html.escape(str(self.folder / REPORT))}</code>{ships}</p>"

    def _summary(self) -> Any:
        from laconic.report.facts import facts
        from laconic.report.text import summary

        with self._read():
            return summary(facts(dict(self.data)))
