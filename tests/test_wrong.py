"""Each wrong input is told before work starts, in a sentence that names the mend, as bad input: exit code 2."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from benchmarks.wrong import EXIT, ROWS, measured
from torch import nn

import laconic as lc


@pytest.mark.parametrize("name", ROWS)
def test_it_is_told_and_nothing_is_written(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((lc.BadInput, lc.MissingExtra)) as caught:
        ROWS[name].do()
    assert re.search(ROWS[name].said, str(caught.value)), str(caught.value)
    assert not list(tmp_path.iterdir())


def test_it_ends_with_exit_code_2() -> None:
    seconds, code, message = measured("nan in valid")
    assert code == EXIT, message
    assert seconds > 0
    assert message.startswith("laconic: the task 'wrong' has 1 mistake:")
    assert "Traceback" not in message


def takers() -> list[str]:
    """The public functions whose first argument is a program."""
    found = []
    for name in lc.__all__:
        value = getattr(lc, name)
        if inspect.isfunction(value):
            first = next(iter(inspect.signature(value).parameters.values()), None)
            if first is not None and first.annotation == "Program":
                found.append(name)
    return found


def test_functions_that_take_a_program_are_found() -> None:
    assert {"prune", "quantize", "export", "couple", "count", "taps", "apply", "sensitivity"} <= set(takers())


@pytest.mark.parametrize("name", takers())
def test_a_plain_module_is_to_be_captured_first(name: str) -> None:
    function = getattr(lc, name)
    needed = [
        p for p in list(inspect.signature(function).parameters.values())[1:] if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    with pytest.raises(
        lc.BadInput, match=r"takes a Program; .* class Linear\. Capture the module first: program = laconic\.capture\(model, example\)"
    ):
        function(nn.Linear(6, 3), *["model.onnx" if p.name == "path" else () for p in needed])
