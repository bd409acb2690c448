"""The table of levers, a row from another package, and the table that `laconic levers` prints."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import laconic as lc
from laconic.core.errors import BadInput
from laconic.core.target import PRECISIONS
from laconic.deploy import runtime
from laconic.deploy.native import Eager
from laconic.deploy.ov import OpenVino
from laconic.report.listings import levers as drawn
from laconic.search import levers as table
from laconic.search.lever import STAGES, Lever, Setting, Surroundings, cost_of_steps
from laconic.search.propose import propose
from laconic.search.survey import survey
from tests import outside as packages
from tests.core.models import ConvNet
from tests.run import tiny

CONV = lc.capture(ConvNet(), torch.randn(2, 1, 8, 8))
installed = contextlib.contextmanager(packages.install)

# A lever that folds where nobody asked for it, in a distribution of its own.
OUTSIDE = """
import laconic as lc

def when(around):
    return None if around.target.runtime == "openvino" else f"not in {around.target.runtime}"

LEVER = lc.Lever("refold", "fold once more", (lc.Setting("all", combines=False),), (lc.FoldBatchNorm,), when=when)
NO_LEVER = 3
"""


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A function that installs entry points of the group `laconic.levers`, until the test is over."""
    with contextlib.ExitStack() as stack:

        def install(**entries: str) -> None:
            lines = [f"{name} = {value}" for name, value in entries.items()]
            stack.enter_context(installed(tmp_path, monkeypatch, "refolding", OUTSIDE, "\n".join(["[laconic.levers]", *lines])))

        yield install
    sys.modules.pop("refolding", None)


def test_every_runtime_and_precision_is_a_lever() -> None:
    rows = table.levers().values()
    assert [row.name for row in rows if row.stage == "runtime"] == runtime.names()
    assert [row.name for row in rows if row.stage == "precision"] == list(PRECISIONS)


def test_rows_stand_in_the_order_of_their_stages_and_say_what_they_do() -> None:
    rows = list(table.levers().values())
    places = [STAGES.index(row.stage) for row in rows]
    assert places == sorted(places)
    assert all(len(row.about) > 10 for row in rows)
    assert all(row.needs or row.cost == "nothing" for row in rows)


def test_settings_of_a_family_have_names_of_their_own() -> None:
    names = [(row.group, setting.name) for row in table.levers().values() for setting in row.choices]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"configs": (), "choices": ()}, "stage: ''; of a lever without steps it is one of precision, runtime, threads"),
        ({"stage": "folding"}, "stage: 'folding'; that of its step is rounding"),
        ({"configs": (lc.Quantize, lc.Fit)}, "build: a lever that adds several steps says how they are built"),
        ({"choices": (Setting("a", {"mod": "static"}),)}, "mod: is no option of Quantize. Did you mean 'mode'"),
        ({"field": "shares"}, "shares: is no option of Quantize"),
        ({"choices": (Setting("a", cost="calibrating"),)}, "cost: 'calibrating' of the setting 'a'. Did you mean 'calibration'"),
    ],
    ids=["no step and no stage", "another stage", "steps that nobody builds", "an unknown option", "an unknown field", "an unknown cost"],
)
def test_a_row_that_makes_no_sense_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        Lever(**{"name": "mine", "about": "…", "configs": (lc.Quantize,), **given})


def test_cost_and_stage_are_the_steps() -> None:
    def told(*configs: Any) -> tuple[str, str]:
        row = Lever("mine", "…", configs=configs, build=lambda around, options: ())
        return row.stage, row.cost

    assert told(lc.FoldBatchNorm) == ("folding", "nothing")
    assert told(lc.Quantize) == ("rounding", "calibration")
    assert told(lc.Qat) == ("rounding", "training")
    assert told(lc.Student, lc.Fit) == ("architecture", "training")


def test_what_a_setting_costs_is_what_its_steps_cost() -> None:
    around = Surroundings(CONV, tiny.task(), lc.Budget(max_drop=0.5))
    for row in table.levers().values():
        for setting in row.choices if row.configs else ():
            if not setting.solvable(around):
                continue  # its steps need a table of sizes
            steps = row.steps(setting, around)
            assert (setting.cost or row.cost) == cost_of_steps(*steps), (row.name, setting.name)


def test_a_value_that_is_a_known_setting_is_that_setting() -> None:
    prune = table.levers()["prune"]
    assert prune.setting("0.50") == prune.choices[1]
    assert prune.setting(0.45) == Setting("0.45", {"macs": 0.45})


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("share_weights", "6", {"bits": 6}),
        ("share_weights", "9", "from 1 to 8"),
        ("rate_distortion", "0.7", {"bits_per_weight": 0.7}),
        ("rate_distortion", "inf", "above 0"),
        ("rate_distortion", "few", "is not a number of bits"),
    ],
)
def test_bits_that_a_user_gives_are_those_of_the_step(name: str, value: str, read: Any) -> None:
    lever = table.levers()[name]
    if isinstance(read, str):
        with pytest.raises(ValueError, match=read):
            lever.setting(value)
        return
    setting = lever.setting(value)
    assert setting is not None
    (config,) = lever.steps(setting, Surroundings(CONV, tiny.task(), lc.Budget(max_drop=0.5)))
    assert {option: getattr(config, option) for option in read} == read
    assert config.recovery["epochs"] > 1


# From another package ----------------------------------------------------------------------------------------------------------------


def test_a_lever_of_another_package_is_tried_asked_for_and_left_out(outside: Any) -> None:
    outside(refold="refolding:LEVER")
    around = Surroundings(CONV, tiny.task(), lc.Budget(max_drop=0.5))

    def titles(**space: Any) -> list[str]:
        chosen = lc.SearchSpace(("openvino", "torchscript"), ("fp32",), prune=(), **{"quantize": (), **space})
        return [recipe.title for recipe in propose(around, chosen) if "fold" in recipe.title]

    assert titles() == titles(levers=("refold",)) == titles(refold=("all",)) == ["fold batch norm · OpenVINO · fp32"]
    assert titles(without=("refold",)) == titles(levers=("quantize",), quantize=None) == titles(refold=()) == []
    row = next(row for row in survey(tiny.task())["levers"] if row["name"] == "refold")
    assert row["settings"] == [{"label": "refold=all", "options": {}, "cost": "nothing", "tried": True, "where": ["openvino"], "why": ""}]


def test_a_runtime_that_is_called_like_a_lever_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "names", lambda: ["torch", "fit"])
    monkeypatch.setattr(runtime, "runtime", lambda name: Eager())
    with pytest.raises(BadInput, match="the name 'fit' is that of a lever and of a runtime"):
        table.levers.__wrapped__()


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"prune": "refolding:LEVER"}, "the package refolding adds 'prune' to the group laconic.levers, where that name is taken"),
        ({"other": "refolding:LEVER"}, "'other' of the package refolding .* must be a laconic.Lever of this name"),
        ({"refold": "refolding:NO_LEVER"}, "is 3; it must be a laconic.Lever"),
    ],
    ids=["a name that is taken", "another name", "no lever"],
)
def test_what_is_no_lever_of_its_name_is_refused(outside: Any, entries: dict[str, str], said: str) -> None:
    outside(**entries)
    with pytest.raises(BadInput, match=said):
        table.levers()


# What is told ------------------------------------------------------------------------------------------------------------------------


def settings(task: lc.Task, **given: Any) -> dict[str, dict[str, Any]]:
    return {setting["label"]: setting for row in survey(task, **given)["levers"] for setting in row["settings"]}


def test_the_survey_says_what_is_tried_where_and_why_not() -> None:
    told = settings(tiny.task())
    assert told["prune=0.5"]["tried"]
    assert told["prune=0.5"]["where"] == told["quantize=static"]["where"] == ["onnxruntime", "openvino"]
    assert told["quantize=dynamic"]["why"] == "the model has no recurrent layer and no more than 2 linear layers"
    assert told["mixed"]["why"] == "only where quantize=static lost a part of the metric"
    assert "--try student=" in told["student=…"]["why"]
    assert told["torchscript"]["tried"]
    assert "fp32" in told["torchscript"]["where"]


def test_the_survey_reads_task_budget_and_space() -> None:
    task = tiny.task()
    task.train = None
    assert settings(task)["prune=0.5"]["why"] == "the task has no training data"
    assert settings(tiny.task(), budget=lc.Budget(objective="size"))["quantize=weights"]["tried"]
    told = settings(tiny.task(), space=lc.SearchSpace(levers=("quantize", "openvino"), without=("bf16",)))
    assert (told["prune=0.5"]["why"], told["bf16"]["why"], told["torch"]["why"]) == ("not asked for", "left out", "not asked for")
    assert told["quantize=static"]["where"] == ["openvino"]


@pytest.mark.parametrize(
    ("fast", "budget", "asked", "tried"),
    [
        ((), {}, {}, {}),
        ((), {"max_size_mb": 1}, {}, {}),  # of the file itself, which holds zeros as other numbers
        ((), {"objective": "size"}, {}, {"sparsify=0.9": ["onnxruntime"]}),
        ((), {"objective": "size", "min_speedup": 2}, {}, {"sparsify=0.9": ["onnxruntime", "openvino"]}),
        ((), {"limits": {"max_packed_mb": 1}}, {}, {}),  # as small in integers, and faster
        ((), {}, {"levers": ("sparsify",)}, {"sparsify=0.9": ["onnxruntime", "openvino"]}),
        ((), {}, {"levers": ("sparsify=2:4",)}, {"sparsify=2:4": ["onnxruntime", "openvino"]}),
        (("unstructured",), {}, {}, {"sparsify=0.9": ["openvino"]}),
        (("2:4",), {}, {}, {"sparsify=2:4": ["openvino"]}),
        (
            ("2:4",),
            {"objective": "size"},
            {"runtimes": ("onnxruntime", "openvino")},
            {"sparsify=0.9": ["onnxruntime", "openvino"], "sparsify=2:4": ["openvino"]},
        ),
    ],
    ids=[
        "speed",
        "size of the file",
        "size",
        "size and speed",
        "packed size",
        "asked for",
        "asked for by name",
        "fast",
        "fast in pairs",
        "fast in pairs, size, runtimes asked for",
    ],
)
def test_zeros_are_tried_where_they_are_bytes_or_time(
    monkeypatch: pytest.MonkeyPatch, fast: tuple[str, ...], budget: dict[str, Any], asked: dict[str, Any], tried: dict[str, list[str]]
) -> None:
    monkeypatch.setattr(OpenVino, "fast_zeros", fast)
    told = settings(tiny.task(), budget=lc.Budget(**budget), space=lc.SearchSpace(**asked))
    assert {label: row["where"] for label, row in told.items() if label.startswith("sparsify=") and row["tried"]} == tried


@pytest.mark.parametrize(
    ("budget", "why"),
    [
        (lc.Budget(objective="size"), ""),
        (lc.Budget(limits={"max_packed_mb": 1.0}), "compact makes as small a file that computes in integers"),
        (lc.Budget(), "tried where the budget is about the packed size"),
        (lc.Budget(max_size_mb=1.0), "tried where the budget is about the packed size"),
    ],
    ids=[
        "packed size is the objective",
        "packed size is limited, and latency the objective",
        "latency is the objective",
        "the file that runs is limited",
    ],
)
def test_what_only_packing_sees_is_tried_where_the_packed_size_counts(budget: lc.Budget, why: str) -> None:
    told = settings(tiny.task(), budget=budget)
    rows = [told[label] for label in ("share_weights=5", "rate_distortion=2-untrained", "rate_distortion=2")]
    assert [row["tried"] for row in rows] == [not why] * 3
    assert all(why in row["why"] for row in rows)


def test_values_are_chosen_before_anything_trains_and_behind_what_trains() -> None:
    around = Surroundings(CONV, tiny.task(), lc.Budget(max_drop=0.5, objective="size"))
    recipes = propose(around, lc.SearchSpace(("onnxruntime", "torchscript"), ("fp32",)))
    titles = [recipe.title for recipe in recipes if any(isinstance(step, lc.RateDistortion) for step in recipe.steps)]
    trains = [any(step.trained() for step in recipe.steps) for recipe in recipes]
    assert trains == sorted(trains)
    assert titles[0] == "rate distortion to 3 bits a weight, untrained · ONNX Runtime · fp32"
    chosen = [step for recipe in recipes for step in recipe.steps if isinstance(step, lc.RateDistortion) and not step.trained()]
    assert {(step.grid, step.bits) for step in chosen} == {
        ("stepped", 8)
    }  # of which the step depends on the curvature: without training far better
    assert "sparsify to 90 % zeros · rate distortion to 0.7 bits a weight, untrained · ONNX Runtime · fp32" in titles
    assert "sparsify to 90 % zeros · rate distortion to 1 bit a weight · ONNX Runtime · fp32" not in titles  # two trainings
    assert not any("TorchScript" in title for title in titles)  # its values would be the same ones


@pytest.mark.parametrize(
    ("budget", "why"),
    [
        (lc.Budget(limits={"max_packed_mb": 1.0}), ""),
        (lc.Budget(objective="size"), "tried where the budget is about time too"),
        (lc.Budget(objective="size", min_speedup=2.0), ""),
        (lc.Budget(), "tried where the budget is about the packed size"),
    ],
    ids=["small and fast", "small alone", "small, and fast enough", "fast alone"],
)
def test_few_values_in_integers_are_for_what_is_small_and_fast(budget: lc.Budget, why: str) -> None:
    row = settings(tiny.task(), budget=budget)["compact=limit"]
    assert why in row["why"]
    assert row["cost"] == "calibration"  # of rows of its kind that train, others do
    assert bool(why) is not row["tried"]


@pytest.mark.parametrize(
    ("limit", "said"),
    [(0.02, "rate distortion to 0.017 MB, untrained"), (None, "rate distortion to 3 bits a weight, untrained")],
)
def test_a_limit_of_the_packed_size_tells_how_far_values_are_chosen(limit: float | None, said: str) -> None:
    budget = lc.Budget() if limit is None else lc.Budget(limits={"max_packed_mb": limit})
    row = table.levers()["compact"]
    few, _ = row.steps(row.choices[0], Surroundings(CONV, tiny.task(), budget, lc.Target("openvino")))
    assert few.words() == said


@pytest.mark.parametrize("name", ["3", "3.5"])
def test_few_values_in_integers_are_found_without_training(name: str) -> None:
    lever = table.levers()["compact"]
    setting = lever.setting(name)
    assert setting is not None
    assert setting.cost == "calibration"
    steps = lever.steps(setting, Surroundings(CONV, tiny.task(), lc.Budget(), lc.Target("openvino")))
    assert [type(step) for step in steps] == [lc.RateDistortion, lc.Quantize]
    assert steps[0].bits_per_weight == float(name)
    assert not any(step.trained() for step in steps)


@pytest.mark.parametrize("task", [None, tiny.task()], ids=["all", "for a task"])
def test_the_table_shows_every_lever(task: lc.Task | None) -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(drawn(survey(task)))
    text = console.export_text()
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert all(row.name in text and row.cost in text and row.stage in text for row in table.levers().values())
    words = {word.strip(",.;:()") for row in table.levers().values() for word in row.about.split()} if task is None else set()
    assert words <= {word.strip(",.;:()") for line in lines for word in line.split()}  # none is broken
    assert ("candidates; --json names them" in text) is (task is not None)
