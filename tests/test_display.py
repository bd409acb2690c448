from __future__ import annotations

import os
import subprocess
import sys

import pytest

from laconic.display import Display


def work(display: Display) -> None:
    with display as progress:
        progress.start("outer", 2)
        progress.start("inner", 1)
        progress.log("[bold]as written")
        progress.advance(loss=0.123456, candidate="[red]x")
        progress.finish(metric=98.7654)
        progress.advance(2)
        progress.finish()


def test_where_there_is_no_terminal_each_piece_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    work(Display())
    told = capsys.readouterr()
    assert told.out == ""
    lines = told.err.splitlines()
    assert lines[0] == "[bold]as written"
    assert lines[1].startswith("inner: 0.0 s metric 98.77")
    assert lines[2].startswith("outer: ")


def test_on_a_terminal_it_draws_bars(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    work(Display())
    told = capsys.readouterr()
    assert told.out == ""
    assert "2/2" in told.err
    assert "metric 98.77" in told.err
    assert "[bold]as written" in told.err


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    work(Display(quiet=True))
    assert capsys.readouterr() == ("", "")


PLAIN = """
import sys
from laconic.display import forgiving_console, speaks_unicode
forgiving_console()
print(speaks_unicode(sys.stdout), "−0.5 points · 2×\u202f000 µs → “ß”")
"""


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("utf-8", "True −0.5 points · 2×\u202f000 µs → “ß”"),
        ("cp1252", "False -0.5 points · 2× 000 µs -> “ß”"),
        ("ascii", 'False -0.5 points | 2x 000 us -> "?"'),
    ],
)
def test_a_console_shows_another_letter_where_it_has_not_got_one(encoding: str, shown: str) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", PLAIN], env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stdout.decode(encoding).strip()) == (0, shown)
