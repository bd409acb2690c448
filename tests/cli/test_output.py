"""How commands end where nobody foresaw it: one line with the place, no traceback unless it is asked for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from laconic.cli import app
from tests.report.results import named

RUN = CliRunner()
OWN = """
import laconic as lc
def task():
    prices = {}
    return prices["of today"]
"""


TALKATIVE = """
import ctypes, os, sys
import laconic as lc
from tests.run import tiny
print("at import")
class Data(torch.utils.data.Dataset):
    def __len__(self): return 64
    def __getitem__(self, index):
        print("an example")
        return tiny.VALID[index]
def task():
    print("in Python")
    print("to the stream itself", file=sys.__stdout__)
    ctypes.CDLL(None).puts(b"in C")
    os.write(1, b"by descriptor\\n")
    os.system("echo by a process")
    found = tiny.task()
    found.valid = Data()
    return found
""".replace("import laconic", "import torch\nimport laconic")
SPOKEN = ("at import", "to the stream itself", "an example", "in Python", "in C", "by descriptor", "by a process")


def test_json_stays_clean_whatever_the_users_code_prints(tmp_path: Path) -> None:
    (tmp_path / "talkative.py").write_text(TALKATIVE, encoding="utf-8")
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(Path(__file__).parents[2])!r}]; from laconic.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "inspect", "talkative:task", "--json", "--no-sensitivity", "--quiet"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["task"] == "tiny"
    assert done.stdout.count("\n") == 1
    assert [word for word in SPOKEN if word not in done.stderr] == []


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_and_wrong.py").write_text(OWN, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "own_and_wrong.py"


def test_an_error_in_the_users_code_is_told_with_its_place(own: Path) -> None:
    done = RUN.invoke(app, ["inspect", "own_and_wrong:task", "--json"])
    assert done.exit_code == 1
    assert done.stdout == ""
    assert done.stderr.startswith("laconic: KeyError: 'of today', own_and_wrong.py line 5 (your ")
    assert f"{own}, line 5, in task)" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_traceback_is_shown_to_whoever_asks(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LACONIC_TRACEBACK", "1")
    assert isinstance(RUN.invoke(app, ["inspect", "own_and_wrong:task"]).exception, KeyError)


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_a_malformed_result_is_refused_by_name(arguments: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}", encoding="utf-8")
    (tmp_path / "result.json").write_text(json.dumps({**named("met"), "candidates": [{"measured": 1}]}), encoding="utf-8")
    done = RUN.invoke(app, ["report", str(tmp_path), *arguments])
    assert (done.exit_code, done.stdout) == (1, "")
    assert f"{tmp_path / 'result.json'} is not a run's result that can be read (" in done.stderr
