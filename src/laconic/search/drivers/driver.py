"""What a driver is: who builds the candidates of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from laconic.run.build import Builder
from laconic.run.crew import NoCrew


def _sees(folder: Path) -> None:
    """Let any folder be: whoever builds is on this machine, or finds out by itself."""


@dataclass(frozen=True)
class Driver:
    """Who builds candidates.

    Attributes:
        man: makes the crew of a run, of the run's own builder.
        workers: candidates that are built at once.
        sees: raises BadInput where whoever builds does not see this folder; asked before any work where the folder was not the user's choice.
    """

    man: Callable[[Builder], NoCrew]
    workers: int
    sees: Callable[[Path], None] = _sees
