"""The command line: parsing and printing only. A command is one call."""

from __future__ import annotations

from laconic.cli import commands, reports, storage
from laconic.cli.app import app
from laconic.cli.interrupt import EXIT_INTERRUPTED, end_at_once

__all__ = ["app", "commands", "main", "reports", "storage"]


def main() -> None:
    """Run the console script."""
    import faulthandler

    from laconic.display import forgiving_console

    faulthandler.enable()  # a crash of a library is not silent
    forgiving_console()
    try:
        app()
    except SystemExit as ended:
        if ended.code == EXIT_INTERRUPTED:
            end_at_once()
        raise
