"""The beginnings of a chosen recipe: which they are, and that a run measures them and offers none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import laconic as lc
from laconic.cli.app import app
from laconic.core.folding import FoldBatchNorm
from laconic.report.facts import facts
from laconic.run.recipe import Recipe
from laconic.search.beginnings import beginnings
from tests.run import tiny

STEPS = (FoldBatchNorm(), lc.Prune(macs=0.6, recovery={"epochs": 0}), lc.Quantize(mode="static", target="onnxruntime"))


def test_beginnings_have_none_of_the_steps_then_the_first_and_so_on() -> None:
    recipe = Recipe(STEPS, lc.Target("onnxruntime", threads=1))
    assert [one.steps for one in beginnings(recipe)] == [(), STEPS[:1], STEPS[:2]]
    assert {one.deploy for one in beginnings(recipe)} == {recipe.deploy}
    assert list(beginnings(Recipe((), recipe.deploy))) == []


def test_a_run_tells_by_step_what_each_gave_and_offers_no_beginning(tmp_path: Path) -> None:
    recipe = Recipe(STEPS[1:], lc.Target("onnxruntime", threads=1))
    budget, options = lc.Budget(max_drop="any", objective="size"), lc.Options(rounds=2, turn_seconds=0.01, by_step=True)
    result = lc.optimize(tiny.task(), budget, out=tmp_path / "run", recipes=[recipe], options=options).data
    assert result["best"] == recipe.key
    others = [record for record in result["candidates"] if record["key"] != recipe.key]
    assert [len(record["recipe"]["steps"]) for record in others] == [0, 1]
    # the model as it is takes no less than the baseline; the pruned one does
    assert [(record["status"], record["reasons"][-1]["rule"]) for record in others] == [("rejected", "better"), ("rejected", "beginning")]
    assert not any(record["frontier"] for record in others)
    found = facts(result).payoff
    assert found is not None
    assert [part.steps for part in found.chain] == [(), (0,), (1,)]
    assert found.unmeasured == ()
    for part in found.chain[1:]:
        size = part.effect("size_bytes")
        assert size is not None
        assert size.better


@pytest.mark.parametrize("asked", [(), ("--by-step",)], ids=["not asked", "asked"])
def test_the_command_line_asks_for_it(asked: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, given = tmp_path / "recipe.yaml", []

    def noted(*args: Any, options: lc.Options, **more: Any) -> None:
        given.append(options.by_step)
        raise lc.BadInput("enough")

    monkeypatch.setattr(lc, "optimize", noted)
    monkeypatch.setattr("laconic.cli.commands.loaded", lambda *args, **more: tiny.task())
    file.write_text(Recipe().to_yaml(task="tests.run.tiny:task"), encoding="utf-8")
    for command in (["run", str(file)], ["optimize", "tests.run.tiny:task"]):
        CliRunner().invoke(app, [*command, *asked, "--out", str(tmp_path / "run"), "--quiet"])
    assert given == [bool(asked)] * 2
