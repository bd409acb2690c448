from __future__ import annotations

import logging
import os
import re
import subprocess
import sys

import pytest
import torch

import laconic as lc
from laconic.core.progress import Progress
from laconic.display import Display, shown


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


def test_candidates_are_rows_on_a_terminal_and_lines_elsewhere(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def search() -> str:
        with Display() as progress:
            progress.start("candidates", 1)
            progress.advance(0, now="OpenVINO")
            progress.start("calibrating", 8)
            progress.finish()
            progress.advance(
                candidate="OpenVINO", status="passed", goal="Speed-up", figure="2.00×", total=2, best="OpenVINO, 2.00×", took_s=1.0
            )
            progress.finish()
        return capsys.readouterr().err

    plain = search().splitlines()
    assert plain[1] == "1/2 OpenVINO: passed, 2.00×, the best so far"
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    drawn = search()
    assert "Best so far" in drawn
    assert "2/2" in drawn  # two are known of
    assert "ETA 0:01" in drawn


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


def test_a_notebook_without_widgets_has_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Rich can draw there only with ipywidgets, and warns without."""
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    work(Display())
    assert capsys.readouterr().err.splitlines()[0] == "[bold]as written"


def test_progress_from_python_is_shown_when_asked_for_and_always_logged(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    data = [(torch.zeros(2), torch.tensor(n % 2)) for n in range(4)]

    def fit(progress: Progress | bool) -> None:
        lc.fit(torch.nn.Linear(2, 2), lc.FitPlan(epochs=1), train=data, loss=torch.nn.functional.cross_entropy, progress=progress)

    caplog.set_level(logging.INFO, logger="laconic")
    fit(False)
    assert capsys.readouterr().err == ""
    assert re.fullmatch(r"training: \d+\.\d s", "\n".join(caplog.messages))
    fit(True)
    assert re.fullmatch(r"training: \d+\.\d s", capsys.readouterr().err.strip())
    with shown(True) as once, shown(once) as twice:  # a step hands on what it was given
        assert once is twice
