"""Artifacts are built in a process of their own: a step or an export that crashes, hangs or runs out of memory takes no run with it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from laconic.core.context import Context
from laconic.core.errors import LaconicError
from laconic.core.files import read_json, write_json
from laconic.core.program import Interface, Program
from laconic.core.progress import Progress, silent
from laconic.core.records import Outcome, to_json
from laconic.core.task import Task
from laconic.deploy.artifact import Artifact, pack
from laconic.deploy.child import Child, answer_requests
from laconic.deploy.export import write_model
from laconic.deploy.runtime import runtime
from laconic.run.agreement import write_answers
from laconic.run.latency_table import latency_table
from laconic.run.recipe import Recipe, parse
from laconic.run.runner import apply

_DONE = "built.json"


class Builder:
    """Builds artifacts of recipes, each model file once: recipes that differ only in their settings share it.

    Args:
        source: the captured model, a `.pt2`.
        folder: where model files are kept.
        inputs: files of flat inputs by name; what the program answers to them is kept beside it, for the parity check.
        task: given to steps that need data. Another process loads it by its `ref`; a task without one is used in this process.
    """

    def __init__(
        self,
        source: Path,
        folder: Path,
        inputs: Mapping[str, Path],
        task: Task,
        *,
        timeout_s: float,
        memory_limit_bytes: int | None,
        seed: int,
        progress: Progress,
    ) -> None:
        self.source, self.folder, self.inputs, self.task = source, folder, inputs, task
        self.timeout_s, self.memory_limit_bytes, self.seed, self.progress = timeout_s, memory_limit_bytes, seed, progress
        self._child: Child | None = None

    def build(self, recipe: Recipe, folder: Path) -> tuple[Artifact, tuple[Outcome, ...], Path]:
        """Build an artifact into `folder`.

        Returns:
            The artifact, what each step did, and the folder with the program's answers to the inputs.

        Raises:
            WorkerFailed: the process died, hung or used too much memory.
            LaconicError: a step or the export failed; says why.
        """
        place = self._place(recipe, runtime(recipe.deploy.runtime).format)
        built = read_json(place / _DONE)
        lineage = {
            "recipe": recipe.to_plain(),
            "source_sha256": built["source"],
            "program": built["program"],
            "outcomes": built["outcomes"],
        }
        artifact = pack(place / built["file"], Interface.from_json(built["interface"]), folder, recipe.deploy, lineage)
        return artifact, tuple(Outcome.from_json(item) for item in built["outcomes"]), place.parent / "expected"

    def size(self, recipe: Recipe, kind: str) -> int:
        """Bytes of the model file of a recipe in a format, e.g. ``onnx``, with its external weights; it is built if it is not there.

        Raises:
            LaconicError: the program cannot be written in this format; says why.
        """
        place = self._place(recipe, kind)
        file = place / read_json(place / _DONE)["file"]
        return sum(part.stat().st_size for part in (file, file.with_name(file.name + ".data")) if part.exists())

    def _place(self, recipe: Recipe, kind: str) -> Path:
        """The folder with a recipe's model file in a format, built if it is not there."""
        steps = self.folder / (recipe.steps_key or "base")
        place = steps / kind
        if not (place / _DONE).exists():
            request = {
                "source": str(self.source),
                "recipe": recipe.to_plain(),
                "format": kind,
                "steps_folder": str(steps),
                "inputs": {name: str(path) for name, path in self.inputs.items()},
                "task": self.task.ref,
                "data": self.task.data_dir,
                "seed": self.seed,
            }
            if recipe.steps and self.task.ref is None:
                build_model(request, self.task, self.progress)
            else:
                self._ask(request)
        return place

    def _ask(self, request: Mapping[str, Any]) -> None:
        if self._child is None or not self._child.alive:
            self.close()
            self._child = Child(
                [sys.executable, "-m", "laconic.run.build"], timeout_s=self.timeout_s, memory_limit_bytes=self.memory_limit_bytes
            )
        self._child.ask(request)

    def close(self) -> None:
        """End the process."""
        if self._child is not None:
            self._child.close()
            self._child = None


def build_model(request: Mapping[str, Any], task: Task | None = None, progress: Progress = silent) -> dict[str, Any]:
    """Apply the steps to the source, unless that was done for another format, and write the model file. Everything appears whole."""
    from laconic.run.training import fit

    recipe = parse(request["recipe"]).recipe
    steps = Path(request["steps_folder"])
    place = steps / request["format"]
    place.mkdir(parents=True, exist_ok=True)
    source = Program.load(request["source"])
    if not (steps / "steps.json").exists():
        if recipe.steps and task is None and request["task"] is not None:
            from laconic.tasks.catalog import load

            task = load(request["task"], data=request["data"], seed=request["seed"])
        torch.manual_seed(request["seed"])
        price = latency_table(recipe.deploy)
        begun, done, rest = _begun(source, recipe, steps.parent)
        program, outcomes = apply(begun, rest, Context(task, fit, recipe.deploy, request["seed"], progress, steps, price, source))
        price.keep()
        program.save(steps / "program.pt2")
        write_json(steps / "steps.json", {"outcomes": [*done, *outcomes]})
    else:
        program = Program.load(steps / "program.pt2")
    write_answers(program, request["inputs"], steps / "expected")
    file = write_model(program, place, request["format"])
    built = {
        "file": file.name,
        "interface": program.interface.to_json(),
        "outcomes": read_json(steps / "steps.json")["outcomes"],
        "source": source.fingerprint(),
        "program": program.fingerprint(),
    }
    write_json(place / _DONE, built)
    return {"file": str(file)}


def _begun(source: Program, recipe: Recipe, folder: Path) -> tuple[Program, list[Any], tuple[Any, ...]]:
    """The longest beginning of the steps that another recipe has done already: its program, what its steps did, and the steps that are left."""
    for n in range(len(recipe.steps) - 1, 0, -1):
        place = folder / Recipe(recipe.steps[:n], recipe.deploy).steps_key
        if (place / "steps.json").exists():
            return Program.load(place / "program.pt2"), read_json(place / "steps.json")["outcomes"], recipe.steps[n:]
    return source, [], recipe.steps


def main() -> None:
    """The other side: answer requests until the parent closes."""
    answer_requests(lambda request: to_json(build_model(request)), expected=LaconicError)


if __name__ == "__main__":
    main()
