"""The command line: parsing and printing only. A command is one call."""

from __future__ import annotations

from laconic.cli import commands, reports
from laconic.cli.app import app

__all__ = ["app", "commands", "main", "reports"]


def main() -> None:
    """Run the console script."""
    from laconic.display import forgiving_console

    forgiving_console()
    app()
