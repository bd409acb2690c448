"""A finished run, as the library hands it over."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laconic.core.reading import reading
from laconic.deploy.artifact import Artifact
from laconic.run.store import RESULT

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
        return Artifact.open(self.folder / "candidates" / key / "artifact") if key else None

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

        from laconic.report.facts import facts
        from laconic.report.text import summary

        text = io.StringIO()
        with self._read():
            Console(width=120, file=text).print(summary(facts(dict(self.data))))
        return text.getvalue()
