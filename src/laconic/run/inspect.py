"""A task's model as the tool sees it: what it consists of, and what of it can be pruned."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import Tensor

from laconic.core.axes import batch_size
from laconic.core.program import Program
from laconic.core.progress import Progress, silent
from laconic.core.records import to_json
from laconic.core.task import Task
from laconic.measure.counts import count
from laconic.pruning.coupling import Coupling, couple
from laconic.pruning.sensitivity import sensitivity as sensitivity_of
from laconic.run.base import captured_model
from laconic.run.examples import batches
from laconic.tasks.check import check_task

SHARE = 0.5  # of each group's components, removed to see what the output loses


def inspect(task: Task, sensitivity: bool = True, progress: Progress = silent) -> dict[str, Any]:
    """Describe a task's model: inputs, outputs, layers with parameters and multiply-adds per example, unknown costs, what can be pruned, notes.

    Args:
        task: an untrained one has no sensitivity.
        sensitivity: run the model once for each group of coupled components, with half of it removed, on the first valid batch.
        progress: shows these runs.

    Returns:
        Plain values. ``sensitivity`` (share that was removed, examples) and each group's ``removed`` and ``sqnr_db`` are None where it was not measured;
        ``groups``, ``prunable``, ``frozen`` and ``no_rule`` are None where the coupling is not known. A note says why.

    Raises:
        BadInput: the task cannot be used.
        CaptureError: the model cannot be captured.
    """
    check_task(task)
    inputs, _ = next(batches(task, task.valid))
    inputs = task.cut().inputs(inputs)
    program = captured_model(task)
    counts = count(program)
    pruning = _pruning(program, program.flatten_inputs(inputs), _why_not(task, sensitivity), progress)
    return {
        "task": task.name,
        "part": task.part,
        "description": task.description,
        "trained": task.plan is None,
        "inputs": to_json(program.inputs),
        "outputs": to_json(program.outputs),
        "params": counts.params,
        "unused_params": counts.unused_params,
        "macs": counts.macs,
        "layers": to_json(counts.layers),
        "unknown_operators": dict(counts.unknown),
        **pruning,
        "notes": [*program.interface.notes, *counts.notes(), *pruning["notes"]],
    }


def _why_not(task: Task, wanted: bool) -> str:
    """Return why the sensitivity is not measured; empty where it is."""
    if not wanted:
        return "the sensitivity of groups was not measured, as asked"
    if task.plan is not None:
        return "the sensitivity of groups was not measured: that of an untrained model means nothing"
    return ""


def _pruning(program: Program, leaves: tuple[Tensor, ...], why_not: str, progress: Progress) -> dict[str, Any]:
    """Describe what can be pruned. Whatever goes wrong here is told: the layers are worth showing without it."""
    empty: dict[str, Any] = dict.fromkeys(("groups", "prunable", "frozen", "no_rule", "sensitivity"))
    try:
        coupled = structure(couple(program))
    except Exception as error:  # noqa: BLE001 - a model that no rule foresaw may break the walk anywhere
        return {**empty, "notes": [f"what can be pruned was not found: {_told(error)}"]}
    if not coupled["groups"] or why_not:
        return {**empty, **coupled, "notes": [why_not] * bool(coupled["groups"])}
    try:
        rows = sensitivity_of(program, leaves, SHARE, progress=progress)
    except Exception as error:  # noqa: BLE001 - a cut program runs operators on shapes that nobody has tried
        return {**empty, **coupled, "notes": [f"the sensitivity of groups was not measured: {_told(error)}"]}
    for group, row in zip(coupled["groups"], rows, strict=True):
        group.update(removed=row["removed"], sqnr_db=row["sqnr_db"])
    return {**empty, **coupled, "sensitivity": {"share": SHARE, "examples": _examples(program, leaves)}, "notes": []}


def _examples(program: Program, leaves: tuple[Tensor, ...]) -> int:
    """Return how many examples a batch holds."""
    return batch_size(program.inputs, leaves) or program.interface.fixed_batch or 1


def structure(coupling: Coupling) -> dict[str, Any]:
    """Describe groups in the order of the graph, how many output channels can go, what is frozen and why, and how often operators without a rule occur."""
    free, total = coupling.prunable()
    return {
        "groups": [
            {"name": group.name, "components": len(group), "slices": len(group.slots), "removed": None, "sqnr_db": None}
            for group in coupling.groups
        ],
        "prunable": {"channels": free, "of": total},
        "frozen": [{"name": name, "reason": reason} for name, reason in coupling.frozen_causes().items()],
        "no_rule": dict(Counter(str(node.target) for node in coupling.unknown)),
    }


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
