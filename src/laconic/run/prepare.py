"""Before anything is searched: the task is checked, its model trained if it is not yet, and captured."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

import torch
from torch.utils.data import Dataset

from laconic.core.capture import capture
from laconic.core.errors import BadInput, WorkerFailed
from laconic.core.precision import check_module
from laconic.core.program import Program
from laconic.core.progress import Progress
from laconic.core.records import to_json
from laconic.core.task import Task
from laconic.deploy import whole
from laconic.deploy.export import check_shippable
from laconic.run import trial
from laconic.run.examples import batches
from laconic.run.isolation import NotIsolated, contained, packed
from laconic.run.ledger import Ledger
from laconic.run.options import Options
from laconic.run.sharing import free_threads
from laconic.run.store import RunStore
from laconic.run.training import fit
from laconic.run.whole import STATE
from laconic.tasks import metrics
from laconic.tasks.axes import dynamic_of
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
    if task.part is not None and task.plan is not None:  # whoever builds needs the rest of the model as it is once it is trained
        tried.close()
    else:
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


def program(task: Task, store: RunStore, ledger: Ledger, progress: Progress) -> tuple[Program, list[dict[str, Any]]]:
    """Return the captured model, from the run's folder if it is there, and the record of its training (empty if it came trained)."""
    if not store.has("program.pt2"):
        check_module(task.build(), (torch.float32,))
        with ledger.part("capture"):
            progress.log("capturing the model")
            captured = captured_model(task)  # before it is trained: what cannot be captured is told at once
        if task.plan is not None:
            with ledger.part("train"):
                train(task, store, progress)
            captured = captured_model(task)
        with ledger.part("capture"):
            for note in captured.interface.notes:
                progress.log(note)
            captured.save(store.path("program.pt2"))
            if task.part is not None:
                whole.write_state(task.build(), store.path(STATE))
    training = store.read("training.json") if store.has("training.json") else []
    if task.part is not None:
        whole.read_state(task.build(), store.path(STATE))
    with ledger.part("capture"):
        return Program.load(store.path("program.pt2")), training


def captured_model(task: Task) -> Program:
    """Capture a task's model on the first batch of its valid data.

    Raises:
        CaptureError: it cannot be captured.
        BadInput: it can, and no file can be made of it.
    """
    inputs, _ = next(batches(task, task.valid))
    cut = task.cut()
    captured = capture(cut.module, cut.inputs(inputs), dynamic=dynamic_of(task), dynamic_batch=task.dynamic_batch)
    check_shippable(captured)
    return captured


def _check_fixed(task: Task) -> None:
    """Check that a batch that is fixed fits into the data without a rest."""
    for name, data in (("valid", task.valid), ("test", task.test)):
        if not task.dynamic_batch and data is not None and (rest := length(data) % task.batch_size):
            raise BadInput(
                f"the task '{task.name}' has dynamic_batch=False, so every call holds batch_size={task.batch_size} examples; of the {name} data "
                f"{rest} would be left over. Choose a batch_size that divides {length(data)}, 1 for instance."
            )


def train(task: Task, store: RunStore, progress: Progress) -> None:
    """Train an untrained model by the task's plan; an interrupted training goes on from its last checkpoint."""
    if task.train is None or task.loss is None or task.plan is None:
        raise BadInput(f"the model of task '{task.name}' is untrained (fit is set), and to train it the task needs train data and a loss")
    metric = metrics.of(task)
    with free_threads(progress):
        record = fit(
            task.build(),
            task.plan,
            task,
            valid=task.valid,
            score=lambda outputs, target: metric.score(task.logits(outputs), target),
            direction=metric.direction,
            progress=progress,
            checkpoint=store.path("training"),
        )
    store.write("training.json", to_json(record.epochs))
