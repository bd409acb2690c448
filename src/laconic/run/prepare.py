"""Before anything is searched: the task is checked, its model trained if it is not yet, and captured."""

from __future__ import annotations

from collections.abc import Sized
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from laconic.core.errors import BadInput, WorkerFailed
from laconic.core.precision import check_module
from laconic.core.program import Program
from laconic.core.progress import Progress
from laconic.core.task import Task
from laconic.deploy import whole
from laconic.run import base, trial
from laconic.run.build import Builder
from laconic.run.isolation import NotIsolated, contained, packed
from laconic.run.ledger import Ledger
from laconic.run.options import Options
from laconic.run.store import RunStore
from laconic.run.whole import STATE
from laconic.tasks.check import check_task


def check(task: Task, options: Options, progress: Progress) -> None:
    """Try the task on its first batches: a user's in a process of its own first, which then waits to build its models.

    Raises:
        BadInput: everything that is wrong with it, at once; or how its code ended the process in which it was tried.
    """
    if not (trial.is_users(task.ref) and (trial.was_tried(task, options.seed) or _survives(task, options, progress))):
        try:
            contained(lambda: check_task(task))
        except WorkerFailed as error:
            raise BadInput(str(error)) from error
    _check_fixed(task)


def try_ref(ref: str, options: Options) -> None:
    """Load and check a user's task elsewhere, before it is loaded here; nothing of a built-in one.

    Raises:
        BadInput: everything that is wrong with it, at once; or how its code ended the process in which it was tried.
    """
    if not trial.is_users(ref):
        return
    tried = trial.Trial(options.candidate_timeout_s, options.memory_limit_bytes)
    answer = tried.check(ref, {"task": ref, "data": None, "seed": options.seed})
    if not answer["mistakes"] and not answer["other"]:
        tried.keep((ref, None, options.seed))
        return
    tried.close()
    if answer["mistakes"]:
        raise BadInput(answer["mistakes"])


def _survives(task: Task, options: Options, progress: Progress) -> bool:
    """Try a task elsewhere; returns whether nothing is wrong with it there. What is wrong there, and harmless, is looked at again here."""
    try:
        payload = packed(task) if task.ref is None else b""
    except NotIsolated as error:
        progress.log(f"{task.name}: its code is not tried in a process of its own, for it cannot be sent to one ({error})")
        return False
    tried = trial.Trial(options.candidate_timeout_s, options.memory_limit_bytes)
    answer = tried.check(task.name, {"task": task.ref, "data": task.data_dir, "seed": options.seed}, payload)
    if answer["mistakes"] or answer["other"]:
        tried.close()
        return False
    tried.keep(trial.key_of(task, options.seed))
    return True


def length(data: Dataset[Any]) -> int:
    """Return the number of examples."""
    if not isinstance(data, Sized):
        raise BadInput(f"the dataset {type(data).__name__} has no length; give a map-style dataset")
    return len(data)


def fingerprint(task: Task) -> str:
    """Return a digest of a trained module's parameters: another model is another run."""
    import hashlib

    digest = hashlib.sha256()
    for name, value in sorted(task.build().state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().float().numpy().tobytes())
    return digest.hexdigest()[:16]


def program(task: Task, store: RunStore, options: Options, ledger: Ledger, progress: Progress) -> tuple[Program, list[dict[str, Any]]]:
    """Return the captured model, from the run's folder if it is there, and the record of its training (empty if it came trained).

    A user's model is captured and trained in the process that tried the task, under its limits; where it was trained, the task's own model has the weights in
    the end.

    Raises:
        CaptureError: it cannot be captured.
        BadInput: training fails, or the user's code ended the process; says how.
    """
    if not store.has("program.pt2"):
        check_module(task.build(), (torch.float32,))
        made = _Base(task, store, options, progress)
        try:
            _make(made, task, store, ledger, progress)
        finally:
            made.builder.hand_back()
    training = store.read("training.json") if store.has("training.json") else []
    if task.part is not None:
        whole.read_state(task.build(), store.path(STATE))
    with ledger.part("capture"):
        return Program.load(store.path("program.pt2")), training


def _make(made: _Base, task: Task, store: RunStore, ledger: Ledger, progress: Progress) -> None:
    file, state = str(store.path("program.pt2")), None if task.part is None else str(store.path(STATE))
    with ledger.part("capture"):
        progress.log("capturing the model")
        # what cannot be captured is told before it is trained
        notes = made.capture(file, state) if task.plan is None else made.capture(None, None)
    if task.plan is not None:
        with ledger.part("train"):
            store.write("training.json", made.train())
        with ledger.part("capture"):
            notes = made.capture(file, state)
    for note in notes:
        progress.log(note)


class _Base:
    """Captures and trains a task's model: a user's in another process, which waits for whoever builds; any other here."""

    def __init__(self, task: Task, store: RunStore, options: Options, progress: Progress) -> None:
        self.task, self.store, self.progress = task, store, progress
        self._trained: Path | None = None
        limits = {"timeout_s": options.candidate_timeout_s, "memory_limit_bytes": options.memory_limit_bytes}
        self.builder = Builder(
            store.path("program.pt2"),
            store.path("models"),
            {},
            task,
            seed=options.seed,
            progress=progress,
            **limits,  # type: ignore[arg-type]
        )

    def capture(self, file: str | None, state: str | None) -> list[str]:
        """Capture the model and write what is asked for; returns notes."""
        weights = None if self._trained is None else str(self._trained)
        request = {"op": "capture", "file": file, "state": state, "weights": weights}
        answer = self.builder.use_task(request, f"the model of the task '{self.task.name}' cannot be captured")
        return base.capture_to(self.task, file, state) if answer is None else list(answer["notes"])

    def train(self) -> list[dict[str, Any]]:
        """Train the model; returns what is known of each epoch."""
        checkpoint, state = self.store.path("training"), self.store.path(STATE)
        request = {"op": "train", "checkpoint": str(checkpoint), "state": str(state)}
        answer = self.builder.use_task(request, f"the model of the task '{self.task.name}' cannot be trained")
        if answer is None:
            return base.train(self.task, checkpoint, self.progress)
        whole.read_state(self.task.build().eval(), state)
        self._trained = state
        return list(answer["epochs"])


def _check_fixed(task: Task) -> None:
    """Check that a batch that is fixed fits into the data without a rest."""
    for name, data in (("valid", task.valid), ("test", task.test)):
        if not task.dynamic_batch and data is not None and (rest := length(data) % task.batch_size):
            raise BadInput(
                f"the task '{task.name}' has dynamic_batch=False, so every call holds batch_size={task.batch_size} examples; of the {name} data "
                f"{rest} would be left over. Choose a batch_size that divides {length(data)}, 1 for instance."
            )
