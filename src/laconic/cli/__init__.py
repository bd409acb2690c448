"""The command line: parsing and printing only. A command is one call."""

from __future__ import annotations

from laconic.cli import commands, reports
from laconic.cli.app import app

__all__ = ["app", "commands", "main", "reports"]


def main() -> None:
    """Run the console script."""
    import faulthandler

    from laconic.display import forgiving_console

    faulthandler.enable()  # a crash of a library is not silent
    forgiving_console()
    app()
