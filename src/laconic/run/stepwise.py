"""What a process that builds does: the steps of a recipe, each beginning that takes its time once, whichever recipes begin so, and their model files.

A folder of models is named by a digest of steps (`Recipe.steps_key`), and what stands in it hangs on these alone: each step draws its random numbers from the
seed anew, so that a program is the same whether its beginning was made a moment ago, lay in the folder, or came from another process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from laconic.core.arena import arenas
from laconic.core.context import Context
from laconic.core.errors import LaconicError
from laconic.core.files import read_json, write_json
from laconic.core.lease import leased
from laconic.core.program import Program
from laconic.core.progress import Progress, Until
from laconic.core.records import to_json
from laconic.core.step import StepConfig
from laconic.core.task import Task
from laconic.deploy.export import write_model
from laconic.deploy.runtime import runtime
from laconic.deploy.whole import read_state
from laconic.measure.counts import count
from laconic.run import sharing
from laconic.run.agreement import write_answers
from laconic.run.latency_table import LayerLatencyTable, latency_table
from laconic.run.recipe import Recipe, parse
from laconic.run.runner import apply
from laconic.run.source import read_source

DONE = "built.json"
_STEPS, _MADE, _PROGRAM = "made_by.json", "steps.json", "program.pt2"


def claim(folder: Path, recipe: Recipe) -> None:
    """Write into a folder of models which steps made them, or compare with what was written.

    Raises:
        LaconicError: they were made by other steps, whose key is the same.
    """
    if not (folder / _STEPS).exists():
        write_json(folder / _STEPS, recipe.steps_identity)
    elif not made_by(folder, recipe):
        raise LaconicError(
            f"the models in {folder} were made by other steps with the same key, {read_json(folder / _STEPS)}; they are not used for these"
        )


def made_by(folder: Path, recipe: Recipe) -> bool:
    """Return whether the models in a folder were made by the steps of a recipe."""
    return (folder / _STEPS).exists() and bool(read_json(folder / _STEPS) == recipe.steps_identity)


def is_made(folder: Path) -> bool:
    """Return whether the program of a folder of models is there."""
    return (folder / _MADE).exists()


def beginnings_of(recipe: Recipe) -> list[Recipe]:
    """Return the beginnings of a recipe's steps that are kept for their own sake, since they take their time, the longest first."""
    return [one for one in _beginnings(recipe) if _takes_time(one.steps[-1])]


def beginning_of(recipe: Recipe, models: Path) -> Recipe | None:
    """Return the longest beginning of a recipe's steps that is kept: one that takes its time, or one made as a recipe of its own; None where there is none."""
    return next((one for one in _beginnings(recipe) if _takes_time(one.steps[-1]) or is_made(models / one.steps_key)), None)


def _takes_time(config: StepConfig) -> bool:
    return config.trained() or config.calibrates


def _beginnings(recipe: Recipe) -> Iterator[Recipe]:
    return (Recipe(recipe.steps[:n], recipe.deploy) for n in range(len(recipe.steps) - 1, 0, -1))


def build_model(request: Mapping[str, Any], task: Task | None, progress: Progress) -> None:
    """Apply the steps to the source, unless that was done for another format, and write the model file. Everything appears whole, and nobody else writes.

    Args:
        request: see `Builder._place`.
        task: what the steps are given.
        progress: of the steps.
    """
    if request.get("deadline") is not None:  # this clock is the same in all processes of a machine
        progress = Until(progress, request["deadline"])
    steps = Path(request["steps_folder"])
    with leased(steps):
        _build_model(request, steps, task, progress)


def _build_model(request: Mapping[str, Any], steps: Path, task: Task | None, progress: Progress) -> None:
    recipe = parse(request["recipe"]).recipe
    place = steps / request["format"]
    if (place / DONE).exists():  # by whoever had the lease before
        return
    place.mkdir(parents=True, exist_ok=True)
    source = read_source(Path(request["source"])) if recipe.steps else Program.load(request["source"])
    stepper = _Stepper(request, source, task, progress)
    program = stepper.made(recipe, steps)
    write_answers(program, request["inputs"], steps / "expected")
    file = write_model(program, place, request["format"])
    built = {
        "file": file.name,
        "interface": program.interface.to_json(),
        **read_json(steps / _MADE),
        "source": source.fingerprint(),
        "program": program.fingerprint(),
        "fit_s": sum(stepper.took_s),
        "macs": count(program).macs,
        "arena": to_json(arenas(program)),
    }
    write_json(place / DONE, built)


class _Stepper:
    """Makes the programs of a recipe and of its beginnings, in their folders.

    Args:
        request: as of `build_model`.
        source: what the steps begin with.
        task: what they are given.
        progress: of the steps.

    Attributes:
        took_s: seconds of each training here.
    """

    def __init__(self, request: Mapping[str, Any], source: Program, task: Task | None, progress: Progress) -> None:
        self.took_s: list[float] = []
        self._request, self._source, self._task, self._progress = request, source, task, progress
        self._read = False

    def made(self, recipe: Recipe, place: Path) -> Program:
        """Return the program of a recipe's steps, from its folder or made there. The caller holds the folder's lease."""
        if is_made(place):
            return Program.load(place / _PROGRAM)
        start, done, rest = self._source, list[Any](), recipe.steps
        beginning = beginning_of(recipe, place.parent)
        if beginning is not None:
            folder = place.parent / beginning.steps_key
            with leased(folder):
                claim(folder, beginning)
                start = self.made(beginning, folder)
            done, rest = read_json(folder / _MADE)["outcomes"], recipe.steps[len(beginning.steps) :]
        price = latency_table(recipe.deploy)
        price.turn = Path(self._request["turn"])
        context = self._context(recipe, place, price)
        for config in rest:
            torch.manual_seed(self._request["seed"])
            start, outcomes = apply(start, (config,), context)
            done += to_json(outcomes)
        price.keep()
        start.eval().save(place / _PROGRAM)
        write_json(place / _MADE, {"outcomes": done, "notes": self._request["notes"]})
        return start

    def _context(self, recipe: Recipe, place: Path, price: LayerLatencyTable) -> Context:
        from laconic.run.training import fit

        if not self._read and self._task is not None and self._request["state"] is not None:
            read_state(self._task.build(), Path(self._request["state"]))
        self._read = True
        seed, placement = self._request["seed"], runtime(recipe.deploy.runtime).quantizes
        trained = _considerate(fit, self._progress, self.took_s)
        return Context(self._task, trained, recipe.deploy, seed, self._progress, place, price, self._source, placement)


def _considerate(fit: Callable[..., Any], progress: Progress, took_s: list[float]) -> Callable[..., Any]:
    """Return `fit` with the threads that find a core; the seconds of each call are added to `took_s`."""

    def trained(*given: Any, **more: Any) -> Any:
        start = time.perf_counter()
        try:
            with sharing.free_threads(progress):
                return fit(*given, **more)
        finally:
            took_s.append(time.perf_counter() - start)

    return trained
