"""A user's code cannot end a command as if it had gone well."""

from __future__ import annotations

import sys

import pytest
import typer

from laconic.cli.output import EXIT_BAD_INPUT, guarded


@pytest.mark.parametrize("code", [0, None, 3, "bye"])
def test_whoever_leaves_inside_is_told(code: int | str | None, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as caught:
        guarded(lambda: sys.exit(code))
    assert caught.value.exit_code == EXIT_BAD_INPUT
    assert f"the task's own code left the program (SystemExit: {code})" in capsys.readouterr().err


def test_a_commands_own_exit_passes() -> None:
    def work() -> None:
        raise typer.Exit(3)

    with pytest.raises(typer.Exit) as caught:
        guarded(work)
    assert caught.value.exit_code == 3
