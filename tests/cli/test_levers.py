"""What the command line says of levers, and what it hands to the search."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

import laconic as lc
from laconic.cli import app
from laconic.search.levers import levers

RUN = CliRunner()


def told(*args: str) -> dict[str, Any]:
    done = RUN.invoke(app, ["levers", *args, "--json"])
    assert done.exit_code == 0, done.output
    assert done.stdout.count("\n") == 1
    return dict(json.loads(done.stdout))


def test_all_levers_are_listed_without_a_task() -> None:
    listed = told()
    assert [row["name"] for row in listed["levers"]] == list(levers())
    assert listed["candidates"] is None
    assert all(setting["tried"] is None for row in listed["levers"] for setting in row["settings"])
    table = RUN.invoke(app, ["levers"], env={"COLUMNS": "160"}).stdout
    assert all(row.name in table for row in levers().values())


def test_the_levers_of_a_task_are_judged() -> None:
    listed = told("tests.run.tiny:task", "--try", "prune=0.6,quantize", "--without", "torch.compile")
    judged = {setting["label"]: setting for row in listed["levers"] for setting in row["settings"]}
    assert {label for label, setting in judged.items() if setting["tried"]} >= {"prune=0.6", "quantize=static", "openvino"}
    assert judged["torch.compile"]["why"] == "left out"
    assert judged["mixed"]["why"] == "not asked for"
    assert "prune to 60 % of MACs · quantize static · OpenVINO · int8" in listed["candidates"]
    assert not any("torch.compile" in title for title in listed["candidates"])


def test_the_objective_says_what_is_tried() -> None:
    assert not any("quantize weights" in title for title in told("tests.run.tiny:task")["candidates"])
    assert any("quantize weights" in title for title in told("tests.run.tiny:task", "--objective", "size")["candidates"])


@pytest.mark.parametrize(
    ("args", "space"),
    [
        ((), {}),
        (("--runtimes", "openvino,torch", "--precisions", "fp32"), {"runtimes": ("openvino", "torch"), "precisions": ("fp32",)}),
        (("--quantize", "static,qat", "--prune", "0.7,0.4"), {"quantize": ("static", "qat"), "prune": (0.7, 0.4)}),
        (("--quantize", "none", "--prune", "none"), {"quantize": (), "prune": ()}),
        (("--try", "prune,quantize=static"), {"levers": ("prune", "quantize=static")}),
        (("--without", "torch.compile, bf16"), {"without": ("torch.compile", "bf16")}),
        (("--threads", "2"), {"threads": 2}),
    ],
    ids=" ".join,
)
def test_options_reach_the_search_space(args: tuple[str, ...], space: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def optimize(task: Any, budget: Any, **options: Any) -> None:
        given.append(options["space"])
        raise lc.BadInput("that is all")

    monkeypatch.setattr(lc, "optimize", optimize, raising=False)
    done = RUN.invoke(app, ["optimize", "tests.run.tiny:task", *args])
    assert "that is all" in done.output
    assert given == [lc.SearchSpace(**space)]


def test_every_wrong_name_is_told_at_once() -> None:
    done = RUN.invoke(
        app, ["optimize", "tests.run.tiny:task", "--try", "prun,quantize=statik", "--without", "torch.compil", "--prune", "2"]
    )
    assert done.exit_code == 2
    for said in (
        "levers: 'prun' is no lever. Did you mean 'prune'?",
        "levers: quantize: 'statik'. Did you mean 'static'?",
        "without: 'torch.compil' is no lever. Did you mean 'torch.compile'?",
        "prune: 2 must lie between 0 and 1",
    ):
        assert said in done.output
