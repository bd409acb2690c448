"""The tutorial is typed from top to bottom in an empty folder; every other command of the pages is run somewhere, or it is said why not."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import laconic as lc
from laconic.tasks.check import check_task
from tests.typed import blocks, commands, typed

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
# What commands of the tutorial are given besides, so that they take seconds.
SHORTER = {
    "laconic optimize": " --rounds 3 --runtimes onnxruntime --quantize none --prune none --threads 1 --quiet",
    "laconic bench": " --rounds 3 --quiet",
    "laconic inspect": " --quiet",
    "laconic run ": " --quiet",
}
SET_UP = "the test has an environment and a folder of its own"
RECORDED = "tests/run/test_hardware.py and tests/run/test_fleet.py record, tests/report/test_hardware.py shows"
SHARED = "a database and a shared mount; tests/search/test_study.py has both"
PACKED = "tests/cli/test_storage.py types them"
# Commands that the test of the tutorial does not type, and why.
ELSEWHERE = {
    "make demo": SET_UP,
    ". .venv/bin/activate": SET_UP,
    "mkdir first-day '&&' cd first-day": SET_UP,
    "make test": "it is what runs the tests",
    "laconic optimize digits --max-drop 0.5 --time-limit 5m": "five minutes; the command of `make demo`",
    "laconic optimize digits --try prune=0.6,quantize --without torch.compile": "minutes; tests/cli/test_levers.py types the options",
    "laconic optimize old/model.onnx --data mytask:task": "a second search beside the first; tests/tasks/test_onnx_in.py takes such files",
    "laconic optimize mytask:task --max-drop 2 --objective size --time-limit 2m --runtimes onnxruntime --out third": "a second search beside the first",
    "laconic pack model.onnx -o model.lac": PACKED,
    "laconic pack ship -o model.lac": PACKED,
    "laconic unpack model.lac -o model.onnx": PACKED,
    "laconic unpack model.lac -o ship": PACKED,
    "laconic bench ship --record laptop.json": RECORDED,
    "laconic bench ship --record rack.json --energy --prices prices.toml --price rack": RECORDED,
    "laconic hardware laptop.json board.json": RECORDED,
    "laconic hardware laptop.json board.json --to hardware.html": RECORDED,
    "laconic bench first --record board.json --on board --python /opt/venv/bin/python": RECORDED,
    "laconic optimize digits --effort high --study postgresql://me@server/laconic": SHARED,
    "laconic optimize digits --effort high --study /mnt/shared/digits.log": SHARED,
    "laconic pick first --max-drop 2": "tests/test_cli.py picks from a finished run",
    "laconic watch first": "tests/report/test_watching.py watches runs",
    "laconic compare lr digits --epochs 10": "minutes; tests/test_cli.py compares with one epoch",
}
# Commands of other pages that are typed below.
HERE = ["laconic doctor", "laconic tasks", "laconic levers", "laconic levers digits", "laconic inspect digits"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(threads)
    for name in ("mytask", "mytasks"):
        sys.modules.pop(name, None)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_tutorial_can_be_typed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(lc.BadInput, match="holds no run"):
        lc.Result.open(folder)
    told = {}
    for block in blocks(TUTORIAL):
        if block.name:
            (folder / block.name).write_text(block.text, encoding="utf-8")
            continue
        for command in commands(f"```\n{block.text}```"):
            if command not in ELSEWHERE:
                more = "".join(words for start, words in SHORTER.items() if command.startswith(start))
                code, told[command] = typed(command + more, monkeypatch)
                # a busy machine may leave no candidate that is surely faster; then the nearest miss is delivered
                assert code == 0 or (code == 3 and command.startswith(("laconic optimize", "laconic run "))), told[command]
    assert "×" in told["laconic bench ship --vs old"]
    assert "mydigits" in told["laconic runs ."]
    artifact, images = lc.Artifact.load(folder / "ship"), np.load(folder / "images.npz")
    answers = np.load(folder / "answers.npz")
    np.testing.assert_allclose(answers[artifact.outputs[0].name], artifact(images[artifact.inputs[0].name]), rtol=1e-5, atol=1e-5)
    assert "<html" in (folder / "first" / "report.html").read_text(encoding="utf-8")
    assert lc.Artifact.open(folder / "small").numerics == "int8"


def test_the_task_of_the_readme_can_be_typed(folder: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    typed_in = next(text for text in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "def tumors" in text)
    (folder / "mytasks.py").write_text(typed_in, encoding="utf-8")
    check_task(lc.load_task("mytasks:tumors"))


@pytest.mark.parametrize("command", HERE)
@pytest.mark.filterwarnings("default")
def test_a_command_of_the_pages_runs(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    code, told = typed(command, monkeypatch)
    assert code == 0, told
    assert told


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_typed_or_it_is_said_why_not(page: Path) -> None:
    known = {*commands(TUTORIAL), *HERE, *ELSEWHERE}
    assert [command for command in commands(page.read_text(encoding="utf-8")) if command not in known] == []


def test_blocks_are_told_apart() -> None:
    page = "Write `a.py`:\n\n```python\nx\n```\n\n```python\ny\n```\n\n```\nlaconic tasks  # all\n+--+\nmake demo\n```\n"
    assert [block.name for block in blocks(page)] == ["a.py", ""]
    assert commands(page) == ["laconic tasks", "make demo"]
