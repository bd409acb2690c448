"""Commands and files of a page, as a reader would type and write them."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.testing import CliRunner

from laconic.cli import app

_BLOCK = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_NAME = re.compile(r"`(?P<name>[\w.]+)`[^`]*:\s*$")


class Block(NamedTuple):
    """A fenced block: a file with its name (the last word in backticks before it, and a colon), or commands, whose name is empty."""

    name: str
    text: str


def blocks(page: str) -> list[Block]:
    """Return what is typed on a page, in order; code that belongs to no file is left out."""
    made = []
    for match in _BLOCK.finditer(page):
        named = _NAME.search(page[: match.start()])
        if match["language"] and named:
            made.append(Block(named["name"], match["text"]))
        elif not match["language"]:
            made.append(Block("", match["text"]))
    return made


def commands(page: str) -> list[str]:
    """Return the commands in a page's blocks, without comments; drawings and output are none."""
    lines = (line for block in blocks(page) if not block.name for line in block.text.splitlines())
    return [shlex.join(shlex.split(line, comments=True)) for line in lines if re.match(r"(laconic|make|python|mkdir|\.) ", f"{line} ")]


def typed(command: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Carry out a command in this process, which has loaded PyTorch already; returns its exit code and what it printed."""
    program, *words = shlex.split(command)
    if program == "laconic":
        monkeypatch.setattr("sys.argv", ["laconic", *words])
        done = CliRunner().invoke(app, words)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.output
    assert program == "python", command
    monkeypatch.setattr("sys.argv", words)
    runpy.run_path(str(Path(words[0])), run_name="__main__")
    return 0, ""
