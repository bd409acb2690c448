"""The command line: parsing and printing only. A command is one call."""

from __future__ import annotations

from laconic.cli.commands import app

__all__ = ["app", "main"]


def main() -> None:
    """Run the console script."""
    from laconic.display import forgiving_console

    forgiving_console()
    app()
