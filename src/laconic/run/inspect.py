"""A task's model as the tool sees it."""

from __future__ import annotations

from typing import Any

from laconic.core.capture import capture
from laconic.core.records import to_json
from laconic.core.task import Task
from laconic.measure.counts import count
from laconic.run.examples import batches
from laconic.tasks.check import check_task


def inspect(task: Task) -> dict[str, Any]:
    """Inputs, outputs, layers with parameters and multiply-adds per example, operators whose cost is unknown, and notes.

    Raises:
        BadInput: the task cannot be used.
        CaptureError: the model cannot be captured.
    """
    check_task(task)
    inputs, _ = next(batches(task, task.valid))
    program = capture(task.build(), inputs, dynamic=task.dynamic)
    counts = count(program)
    return {
        "task": task.name,
        "description": task.description,
        "trained": task.fit is None,
        "inputs": to_json(program.inputs),
        "outputs": to_json(program.outputs),
        "params": counts.params,
        "macs": counts.macs,
        "layers": to_json(counts.layers),
        "unknown_operators": dict(counts.unknown),
        "notes": list(program.interface.notes),
    }
