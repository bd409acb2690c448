"""What makes two runs the same: everything that could change the outcome, and nothing else."""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import laconic as lc
from laconic.cli.inputs import Until
from laconic.search.optimize import _manifest, new_folder, seconds
from tests.run import tiny


def manifest(task: lc.Task | None = None, **changes: Any) -> dict[str, Any]:
    given = {"budgets": [lc.Budget()], "space": lc.SearchSpace(), "recipes": None, "options": lc.Options(), **changes}
    return _manifest(task or tiny.untrained(), **given)


def trained(shift: float = 0.0) -> lc.Task:
    task = tiny.task()
    with torch.no_grad():
        next(task.build().parameters()).add_(shift)
    return task


def replanned(**plan: Any) -> lc.Task:
    task = tiny.untrained()
    assert task.plan is not None
    task.plan = dataclasses.replace(task.plan, **plan)
    return task


def test_the_same_run_has_the_same_manifest() -> None:
    assert manifest() == manifest()
    assert manifest(trained()) == manifest(trained())


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"budgets": [lc.Budget(max_drop=0.1)]}, "budget"),
        ({"budgets": [lc.Budget(), lc.Budget(max_drop=0.1)]}, "frontier"),
        ({"space": lc.SearchSpace(("openvino",))}, "space"),
        ({"recipes": [lc.Recipe()]}, "recipes"),
        ({"options": lc.Options(seed=1)}, "options"),
        ({"task": replanned(lr=0.5)}, "plan"),
        ({"task": dataclasses.replace(tiny.untrained(), metric="f1")}, "metric"),
        ({"task": dataclasses.replace(tiny.untrained(), name="other")}, "task"),
    ],
)
def test_what_could_change_the_outcome_is_another_run(changes: dict[str, Any], key: str) -> None:
    found, usual = manifest(**changes), manifest()
    assert [name for name in usual if found[name] != usual[name]] == [key]


def test_other_weights_are_another_run() -> None:
    assert manifest(trained(0.1))["model"] != manifest(trained())["model"]


@pytest.mark.parametrize(("text", "expected"), [("90s", 90.0), ("1.5m", 90.0), ("2h", 7200.0), (10, 10.0), ("3 min", 180.0)])
def test_time_limits(text: str | float, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["soon", "-5s", "0", "5 days", ""])
def test_time_limits_of_nonsense(text: str) -> None:
    with pytest.raises(lc.BadInput, match="write a positive number of seconds"):
        seconds(text)


def test_a_time_limit_counts_from_the_call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is loaded, trained and measured before the first candidate counts too; of a command, from its start on."""
    seen: list[float] = []

    def search(task: lc.Task, budget: lc.Budget, drops: Any, folder: Path, deadline: float, *rest: Any) -> None:
        seen.append(deadline)
        raise lc.BadInput("seen")

    module = sys.modules[seconds.__module__]
    monkeypatch.setattr(module, "search", search)
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    until = Until("60s")
    with pytest.raises(lc.BadInput, match="seen"):
        lc.optimize(tiny.task(), out=tmp_path / "run", time_limit=60)
    assert seen == [1060.0]
    monkeypatch.setattr(time, "monotonic", lambda: 1045.0)
    assert until.left_s() == 15.0
    monkeypatch.setattr(time, "monotonic", lambda: 1100.0)
    assert 0 < (until.left_s() or 0) < 0.1
    assert Until(None).left_s() is None


def test_runs_of_the_same_second_have_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folders = []
    for _ in range(3):
        folders.append(new_folder("a task"))
        folders[-1].mkdir(parents=True)
    assert len(set(folders)) == 3
