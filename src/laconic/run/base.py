"""The model that every recipe starts from: captured, and trained first where it comes untrained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from laconic.core.capture import capture
from laconic.core.errors import BadInput
from laconic.core.files import alone
from laconic.core.program import Program
from laconic.core.progress import Progress
from laconic.core.records import to_json
from laconic.core.task import Task
from laconic.deploy.export import check_shippable
from laconic.deploy.whole import read_state, write_state
from laconic.run.examples import batches
from laconic.run.sharing import free_threads
from laconic.run.training import fit
from laconic.tasks import metrics
from laconic.tasks.axes import dynamic_of


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


def capture_to(task: Task, file: str | None, state: str | None, weights: str | None = None) -> list[str]:
    """Capture a task's model, write the program, and the weights of the whole model, and return the program's notes.

    Args:
        task: with its model.
        file: of the program; None: it is only tried.
        state: of the weights; None: they are not written.
        weights: that the model was trained to, maybe in another process; None: those that it has.
    """
    if weights is not None:
        read_state(task.build(), Path(weights))
    captured = captured_model(task)
    if state is not None:
        write_state(task.build(), Path(state))
    if file is not None:
        captured.save(Path(file))
    return list(captured.interface.notes)


def train(task: Task, checkpoint: Path, progress: Progress, state: Path | None = None) -> list[dict[str, Any]]:
    """Train an untrained model by the task's plan; an interrupted training goes on from its last checkpoint.

    Args:
        task: whose model is trained in place.
        checkpoint: a folder; nobody else trains in it meanwhile.
        progress: told of the steps.
        state: a file for the weights in the end; None: they are not written.

    Returns:
        What is known of each epoch, as plain values.
    """
    if task.train is None or task.loss is None or task.plan is None:
        raise BadInput(f"the model of task '{task.name}' is untrained (fit is set), and to train it the task needs train data and a loss")
    metric = metrics.of(task)
    with alone(checkpoint), free_threads(progress):
        record = fit(
            task.build(),
            task.plan,
            task,
            valid=task.valid,
            score=lambda outputs, target: metric.score(task.logits(outputs), target),
            direction=metric.direction,
            progress=progress,
            checkpoint=checkpoint,
        )
    if state is not None:
        write_state(task.build(), state)
    return list(to_json(record.epochs))
