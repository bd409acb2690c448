"""Beginnings of steps: each that trains is made once, whoever needs it, and what comes of it does not hang on who made it when."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import laconic as lc
from laconic.core.errors import LaconicError
from laconic.core.files import read_json, write_json
from laconic.core.lease import leased
from laconic.core.progress import silent
from laconic.core.records import Outcome
from laconic.run import stepwise
from laconic.run.stepwise import build_model, claim

PRUNED = lc.Prune(macs=0.7, recovery={"epochs": 1})
PLAIN = lc.Prune(macs=0.7, recovery={"epochs": 0})
DYNAMIC, WEIGHTS = (lc.Quantize(mode=mode, target="onnxruntime") for mode in ("dynamic", "weights"))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lc.capture(nn.Linear(4, 2), torch.zeros(2, 4)).save(tmp_path_factory.mktemp("source") / "program.pt2")


@pytest.fixture
def applied(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The steps that were applied, in their order; each draws a number and tells it, and changes nothing."""
    names: list[str] = []

    def noted(program: Any, steps: Sequence[Any], context: Any) -> Any:
        names.extend(type(config).__name__ for config in steps)
        return program, tuple(Outcome("drawn", changed={"number": torch.rand(1).item()}) for _ in steps)

    monkeypatch.setattr(stepwise, "apply", noted)
    return names


def key_of(*steps: Any) -> str:
    return lc.Recipe(steps, lc.Target("torch", threads=1)).steps_key


def make(folder: Path, source: Path, *steps: Any) -> list[Any]:
    """Build the file of steps; returns the outcomes."""
    recipe = lc.Recipe(steps, lc.Target("torch", threads=1))
    place = folder / recipe.steps_key
    claim(place, recipe)
    files = {"source": str(source), "steps_folder": str(place), "inputs": {}, "turn": str(folder / "turn"), "state": None}
    build_model({**files, "recipe": recipe.to_plain(), "format": "pt2", "seed": 0, "notes": []}, None, silent)
    return list(read_json(place / "pt2" / "built.json")["outcomes"])


def test_a_pruned_program_is_recovered_once_whatever_follows(tmp_path: Path, source: Path, applied: list[str]) -> None:
    """Nobody asked for the pruned program itself."""
    first, second, alone = (make(tmp_path, source, PRUNED, *rest) for rest in ((DYNAMIC,), (WEIGHTS,), ()))
    assert applied == ["Prune", "Quantize", "Quantize"]
    assert first[0] == second[0] == alone[0]
    assert [len(outcomes) for outcomes in (first, second, alone)] == [2, 2, 1]


def test_values_that_were_chosen_are_kept_whatever_follows(tmp_path: Path, source: Path, applied: list[str]) -> None:
    """They train nothing and take minutes all the same."""
    chosen = lc.RateDistortion(recovery={"epochs": 0})
    make(tmp_path, source, chosen, DYNAMIC)
    make(tmp_path, source, chosen, WEIGHTS)
    assert applied == ["RateDistortion", "Quantize", "Quantize"]


def test_what_takes_no_time_is_not_kept_for_its_own_sake(tmp_path: Path, source: Path, applied: list[str]) -> None:
    make(tmp_path, source, PLAIN, DYNAMIC)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [key_of(PLAIN, DYNAMIC)]
    make(tmp_path, source, PLAIN)
    make(tmp_path, source, PLAIN, WEIGHTS)
    assert applied == ["Prune", "Quantize", "Prune", "Quantize"]


def test_a_step_draws_the_same_numbers_whoever_made_what_comes_before(tmp_path: Path, source: Path, applied: list[str]) -> None:
    """Made step after step, or from a beginning that lay there, after which other random numbers were drawn."""
    at_once = make(tmp_path / "one", source, PLAIN, DYNAMIC)
    make(tmp_path / "two", source, PLAIN)
    torch.rand(3)
    assert make(tmp_path / "two", source, PLAIN, DYNAMIC) == at_once
    assert applied == ["Prune", "Quantize"] * 2


def test_who_needs_a_beginning_that_another_one_makes_waits_for_it(tmp_path: Path, source: Path, applied: list[str]) -> None:
    make(tmp_path / "other", source, PRUNED)
    held = threading.Event()

    def other() -> None:
        with leased(tmp_path / key_of(PRUNED)):
            held.set()
            time.sleep(0.3)
            shutil.copytree(tmp_path / "other" / key_of(PRUNED), tmp_path / key_of(PRUNED))

    thread = threading.Thread(target=other)
    thread.start()
    held.wait(10)
    make(tmp_path, source, PRUNED, DYNAMIC)
    thread.join(10)
    assert applied == ["Prune", "Quantize"]


def test_a_beginning_of_other_steps_with_its_key_is_not_used(tmp_path: Path, source: Path, applied: list[str]) -> None:
    make(tmp_path, source, PRUNED)
    write_json(tmp_path / key_of(PRUNED) / "made_by.json", [["fold_batch_norm"], None])
    with pytest.raises(LaconicError, match="were made by other steps with the same key"):
        make(tmp_path, source, PRUNED, DYNAMIC)
