"""Artifacts are built in a process of their own: a step or an export that crashes, hangs or runs out of memory takes no run with it.

Only where a task can neither be loaded by another process nor be sent to it (`isolation`), its steps run in the caller's; the evidence then says so.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laconic.core.errors import NAMED, TIME_LIMIT, BadInput, WorkerFailed
from laconic.core.files import read_json
from laconic.core.program import Interface
from laconic.core.progress import Progress, Said
from laconic.core.records import Measurement, Outcome, to_json
from laconic.core.target import Target
from laconic.core.task import Task
from laconic.deploy.artifact import Artifact, pack
from laconic.deploy.child import Child
from laconic.deploy.runtime import runtime
from laconic.pruning.tables import Making
from laconic.run import trial
from laconic.run.crew import UNSENDABLE, NoCrew
from laconic.run.examples import is_written
from laconic.run.isolation import NotIsolated, contained, packed, persistent
from laconic.run.recipe import Recipe
from laconic.run.relay import Relay
from laconic.run.sizing import write_table
from laconic.run.stepwise import DONE, build_model, claim, is_made

_GRACE_S = 5.0


@dataclass(frozen=True)
class Built:
    """What became of a recipe.

    Attributes:
        artifact: in the folder that was asked for.
        outcomes: what each step did.
        expected: the folder with the program's answers to the inputs.
        notes: what the reader must know of how it was built.
        fit_s: seconds for which its steps trained; 0 where they had been carried out before.
        macs: multiply-adds of one example; None of what an earlier version has built.
    """

    artifact: Artifact
    outcomes: tuple[Outcome, ...]
    expected: Path
    notes: tuple[str, ...] = ()
    fit_s: float = 0.0
    macs: int | None = None


@dataclass(frozen=True)
class Beside:
    """What a builder that is one of several on a machine must heed.

    Attributes:
        threads: that its process takes at the most.
        gate: held while it starts a process.
    """

    threads: int
    gate: AbstractContextManager[Any]


class Builder:
    """Builds artifacts of recipes, each model file once: recipes that differ only in their settings share it.

    Args:
        source: the captured model, a `.pt2`.
        folder: where model files are kept.
        inputs: files of flat inputs by name; what the program answers to them is kept beside it, for the parity check.
        task: given to steps that need data. The process that builds loads it by its `ref`; a task without one is sent there (`isolation`).
        timeout_s: of each model file.
        memory_limit_bytes: of the process; None as of `Child`.
        seed: of the steps' random choices.
        progress: is told what the steps report.
        state: file of the weights of the whole model, of a task with a part.
        beside: where it is one of several; it then does nothing in the caller's process.

    Attributes:
        crew: who may have built something already.
        turn: file that is locked while something is timed.
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
        state: Path | None = None,
        beside: Beside | None = None,
    ) -> None:
        self.state, self._beside = state, beside
        self.source, self.folder, self.inputs, self.task = source, folder, inputs, task
        self.timeout_s, self.memory_limit_bytes, self.seed, self.progress = timeout_s, memory_limit_bytes, seed, progress
        self._child: Child | None = None
        self._task_sent, self._unsendable = False, ""
        self.deadline: float | None = None  # of `time.monotonic`; what is built later than that is ended
        self.crew: NoCrew = NoCrew()
        self.turn = folder / "turn"
        self._late: dict[str, str] = {}  # by the key of steps that took too long, whose they were
        self._over = False

    def build(self, recipe: Recipe, folder: Path) -> Built:
        """Build an artifact into `folder`.

        Raises:
            WorkerFailed: a step or the export failed, or the process died, hung or used too much memory; says why.
        """
        kind = runtime(recipe.deploy.runtime).format_in(recipe.deploy.precision)
        known = (self._steps_folder(recipe) / kind / DONE).exists()
        place = self._place(recipe, kind)
        built = read_json(place / DONE)
        fit_s = 0.0 if known else float(built.get("fit_s", 0.0))
        lineage = {
            "recipe": recipe.to_plain(),
            "source_sha256": built["source"],
            "program": built["program"],
            "outcomes": built["outcomes"],
        }
        arena = {precision: Measurement.from_json(item) for precision, item in built.get("arena", {}).items()}
        artifact = pack(place / built["file"], Interface.from_json(built["interface"]), folder, recipe.deploy, lineage, arena)
        outcomes = tuple(Outcome.from_json(item) for item in built["outcomes"])
        return Built(artifact, outcomes, place.parent / "expected", tuple(built.get("notes", ())), fit_s, built.get("macs"))

    def size(self, recipe: Recipe, kind: str) -> int:
        """Bytes of the model file of a recipe in a format, e.g. ``onnx``, with its external weights; it is built if it is not there.

        Raises:
            LaconicError: the program cannot be written in this format; says why.
        """
        file = self.file(recipe, kind)
        return sum(part.stat().st_size for part in (file, file.with_name(file.name + ".data")) if part.exists())

    def file(self, recipe: Recipe, kind: str) -> Path:
        """Return the model file of a recipe in a format; raises as `size` does."""
        place = self._place(recipe, kind)
        return place / str(read_json(place / DONE)["file"])

    def use_task(self, request: dict[str, Any], what: str) -> dict[str, Any] | None:
        """Let the process do something with a user's task, so that the code meets it there for the first time: it may hang, crash or leave.

        Args:
            request: to `server.Server`; what it reports is told, and each report gives it the whole time limit anew.
            what: is done; begins the message, e.g. ``the valid data of the task 'churn' cannot be read``.

        Returns:
            The answer; None where it is to be done here: the task is a built-in one, or cannot be sent.

        Raises:
            BadInput: the process did not survive it, or its code left; says how.
            LaconicError: as it was raised there.
            WorkerFailed: something else ended the process, twice.
        """
        if not trial.is_users(self.task.ref):
            return None

        def work() -> dict[str, Any] | None:
            if self.task.ref is None and self._send_task():
                return None
            known = {"task": self.task.ref, "data": self.task.data_dir, "seed": self.seed, "paths": sys.path}
            with Relay(self.progress) as relay:
                return self._process().ask({**known, **request}, on_event=relay.receive, events_renew=True)

        try:
            answer = persistent(work, self.progress.log)
        except WorkerFailed as error:
            if error.kind == "killed":
                raise
            raise BadInput(f"{what}. The process that tried: {error}") from error
        if answer is not None and "raised" in answer:
            raise NAMED[answer["raised"]](answer["text"])
        return answer

    def read_data(self, name: str, folder: Path) -> None:
        """Let the process write the batches of a user's dataset, so that it is read for the first time there; a batch may take as long as a candidate.

        Args:
            name: of the task's data, e.g. ``valid``.
            folder: as of `examples.write_examples`.

        Raises:
            BadInput: an example cannot be read, or the process did not survive it; says how.
            WorkerFailed: something else ended it, twice.
        """
        if is_written(folder) or self.task.part is not None:
            return  # what a part is given comes from the rest of its model, which may have been trained here
        request = {"op": "data", "name": name, "source": str(self.source), "folder": str(folder)}
        self.use_task(request, f"the {name} data of the task '{self.task.name}' cannot be read")

    def try_metric(self, name: str, answers: Path, folder: Path) -> None:
        """Compute a user's metric of answers in the process first; nothing of a named one.

        Args:
            name: of the task's data.
            answers: to it, the folder that a worker wrote.
            folder: of the data, as of `read_data`.

        Raises:
            BadInput: it raises, or the process did not survive it; says how.
            WorkerFailed: something else ended it, twice.
        """
        if not callable(self.task.metric) or self.task.part is not None:
            return
        request = {"op": "score", "name": name, "source": str(self.source), "answers": str(answers), "folder": str(folder)}
        self.use_task(request, f"the metric of the task '{self.task.name}' cannot be computed on the {name} data")

    def hand_back(self) -> None:
        """Let the process wait for the next builder of the task."""
        if self._child is not None and self._child.alive and (self.task.ref is not None or self._task_sent):
            trial.wait(trial.key_of(self.task, self.seed), self._child)
            self._child = None
        self.close()

    def _place(self, recipe: Recipe, kind: str) -> Path:
        """Return the folder with a recipe's model file in a format, built if it is not there.

        Raises:
            LaconicError: the folder holds what other steps made, whose key is the same.
        """
        steps = self._steps_folder(recipe)
        place = steps / kind
        claim(steps, recipe)
        if not (place / DONE).exists():
            self._check_late(recipe)
            with self._noting_late(recipe, steps):
                if self.crew.built(recipe, kind):
                    return place
                self._ask(
                    {
                        "op": "build",
                        "source": str(self.source),
                        "recipe": recipe.to_plain(),
                        "format": kind,
                        "steps_folder": str(steps),
                        "inputs": {name: str(path) for name, path in self.inputs.items()},
                        "task": self.task.ref if recipe.steps else None,
                        "data": self.task.data_dir,
                        "state": None if self.state is None else str(self.state),
                        "seed": self.seed,
                        "paths": sys.path,
                        "notes": [],
                        "deadline": self.deadline,
                        "turn": str(self.turn),
                    },
                    build_model,
                    needs_task=bool(recipe.steps) and self.task.ref is None,
                )
        return place

    def _steps_folder(self, recipe: Recipe) -> Path:
        return self.folder / (recipe.steps_key or "base")

    def size_table(self, target: Target, making: Making, file: Path, wholes: Mapping[str, Recipe]) -> None:
        """Let the process measure the table of sizes of the source for a target (`sizing.write_table`), and write it.

        Args:
            target: where.
            making: how.
            file: to be written.
            wholes: by precision, a recipe that leaves all sizes as they are, whose file is timed beside the layers; of a runtime that reads ONNX.

        Raises:
            WorkerFailed: it cannot be measured, or the time was over; says why.
        """
        request = {
            "op": "sizes",
            "source": str(self.source),
            "file": str(file),
            "deploy": to_json(target),
            "making": to_json(making),
            "wholes": {name: str(self.file(recipe, "onnx")) for name, recipe in wholes.items()},
            "task": self.task.ref,
            "data": self.task.data_dir,
            "state": None if self.state is None else str(self.state),
            "seed": self.seed,
            "paths": sys.path,
            "deadline": self.deadline,
        }
        self._ask(request, write_table, needs_task=self.task.ref is None)

    def _left(self) -> float | None:
        """Return the seconds until the deadline."""
        return None if self.deadline is None else self.deadline - time.monotonic()

    def _check_late(self, recipe: Recipe) -> None:
        """Refuse steps that took too long already, for another runtime or as the beginning of these."""
        for n in range(1, len(recipe.steps) + 1):
            if whose := self._late.get(Recipe(recipe.steps[:n], recipe.deploy).steps_key):
                raise WorkerFailed(f"its steps were not run again: for '{whose}' they took more than {self.timeout_s:g} s", "timeout")

    @contextlib.contextmanager
    def _noting_late(self, recipe: Recipe, folder: Path) -> Iterator[None]:
        """Note steps that take too long; where the run's time is over, that is the reason."""
        try:
            yield
        except WorkerFailed as error:
            left = self._left()
            if error.kind == "timeout" and left is not None and left <= 0:
                raise WorkerFailed(f"the time limit was reached, and it did not end by itself: {error}", TIME_LIMIT) from error
            if error.kind == "timeout" and recipe.steps and not is_made(folder):
                self._late[recipe.steps_key] = recipe.title
            raise

    def _ask(self, request: dict[str, Any], here: Callable[[Mapping[str, Any], Task, Progress], None], needs_task: bool) -> None:
        """Let the process do what is requested; where the task cannot be there, do it `here`."""

        def work() -> None:
            with Relay(self.progress) as relay:
                if needs_task and (note := self._send_task()):
                    contained(lambda: here({**request, "notes": [note]}, self.task, relay))
                else:
                    self._process().ask(request, on_event=relay.receive)

        persistent(work, self.progress.log)

    def _send_task(self) -> str:
        """Send the task to the process that builds, unless it has it. Returns why it cannot be there; empty where it is."""
        if self._unsendable or (self._child is not None and self._child.alive and self._task_sent):
            return self._unsendable
        try:
            child = self._process()
            if not self._task_sent:
                child.ask({"op": "task", "paths": sys.path}, payload=packed(self.task))
        except (NotIsolated, WorkerFailed) as error:
            if isinstance(error, WorkerFailed) and error.kind != "error":  # it arrived, and did there what must not be done here
                raise
            if self._beside is not None:
                raise WorkerFailed(f"the task cannot be sent to other processes ({error})", UNSENDABLE) from error
            self._unsendable = (
                f"the steps ran in the caller's process, without limits of time and memory, because the task cannot be sent to another one ({error}). "
                "Give it as module:attribute, which another process can load, or take out of it what cannot be sent"
            )
            self.progress.log(f"{self.task.name}: {self._unsendable}")
        self._task_sent = not self._unsendable
        return self._unsendable

    def _process(self) -> Child:
        if self._child is None or not self._child.alive:
            self.close()
            self._child = self._started()
        if self._over:
            self._child.kill()
            raise WorkerFailed("the run is over")
        left = self._left()
        # work that reports its progress ends by itself at the deadline; what reports nothing is ended a moment later
        self._child.timeout_s = self.timeout_s if left is None else min(self.timeout_s, max(left, 0.0) + _GRACE_S)
        return self._child

    def _started(self) -> Child:
        """Start a process, or take the one that has tried the task."""
        if self._beside is not None:
            with self._beside.gate:
                return trial.start(self.timeout_s, self.memory_limit_bytes, self._beside.threads)
        waiting = trial.taken(self.task, self.seed, self.timeout_s, self.memory_limit_bytes)
        self._task_sent = waiting is not None
        return waiting or trial.start(self.timeout_s, self.memory_limit_bytes)

    # One of several -----------------------------------------------------------------------------------------------------------------

    def another(self, beside: Beside) -> Builder:
        """Return a builder of the same models that works beside this one, in a thread of its own; what it reports is not shown, what it says is."""
        other = Builder(
            self.source,
            self.folder,
            self.inputs,
            self.task,
            timeout_s=self.timeout_s,
            memory_limit_bytes=self.memory_limit_bytes,
            seed=self.seed,
            progress=Said(self.progress),
            state=self.state,
            beside=beside,
        )
        other._late = self._late
        return other

    def pause(self) -> None:
        """Let its process stand still until `resume`."""
        if (child := self._child) is not None:
            child.pause()

    def resume(self) -> None:
        """Let its process go on."""
        if (child := self._child) is not None:
            child.resume()

    def kill(self) -> None:
        """Let what another thread builds here fail now, and build nothing more."""
        self._over = True
        if (child := self._child) is not None:
            child.kill()

    def close(self) -> None:
        """End the process."""
        self._task_sent = False
        if self._child is not None:
            self._child.close()
            self._child = None
