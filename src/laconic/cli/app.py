"""The command line application; commands are added to it by the files that define them."""

from __future__ import annotations

import typer

app = typer.Typer(
    name="laconic",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    help="Make a trained PyTorch model small and fast without losing what it knows, and show the evidence. "
    "Exit codes: 0 done and budget met, also where a time limit ended the search, 2 bad input, 3 budget not met or nothing tried, 1 another failure, "
    "130 interrupted: Ctrl-C ends a command within three seconds and keeps the best so far; a second one ends it at once.",
)
