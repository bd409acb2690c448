"""Does the model answer the same question twice alike? Where it does not (dropout that is always on, random numbers in forward), its metric moves by itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from laconic.core.alike import alike
from laconic.core.batches import join_targets, join_tensors
from laconic.core.interface import as_call
from laconic.core.program import Program
from laconic.core.progress import Progress, silent
from laconic.core.task import Task
from laconic.core.wording import number
from laconic.run.agreement import answers
from laconic.run.examples import batches
from laconic.run.identity import seeded
from laconic.run.record import Reason, Record
from laconic.tasks.metrics import MetricSpec

TIMES = 5
_EXAMPLES = 1024  # at most, that are answered again and again
_SAME = 1e-4  # of the largest value; sums in another order move less
_USERS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def repeated(task: Task, metric: MetricSpec) -> dict[str, float] | None:
    """Answer the first valid batch twice; where the answers differ, score the first examples several times.

    Args:
        task: with its model, trained.
        metric: of its answers.

    Returns:
        None where the answers are the same. Else ``times``, ``n`` (examples), ``low`` and ``high`` (of the score; NaN where it has none).
    """
    model = task.build()
    inputs, _ = next(batches(task, task.valid))
    first, second = (_answer(model, inputs, seed) for seed in (0, 1))
    if alike(first, second, _SAME):
        return None
    taken, sizes, n = [], [], 0
    for batch in batches(task, task.valid):
        taken.append(batch)
        sizes.append(min(task.batch_size, len(task.valid) - n))  # type: ignore[arg-type]
        n += sizes[-1]
        if n >= _EXAMPLES:
            break
    try:
        target = join_targets([target for _, target in taken], sizes, lambda: None)
        scores = [
            metric.score(join_tensors([task.logits(_outputs(model, inputs, seed)) for inputs, _ in taken]), target) for seed in range(TIMES)
        ]
    except _USERS:
        scores = [math.nan]
    return {"times": TIMES, "n": n, "low": min(scores), "high": max(scores)}


def noted(record: Record, repeats: Mapping[str, Any] | None, metric: MetricSpec, progress: Progress = silent) -> Record:
    """Return the baseline's record with what was repeated, and a note that says it, also to `progress`; unchanged where answers are the same."""
    if repeats is None:
        return record
    low, high = repeats.get("low"), repeats.get("high")
    moved = (
        ""
        if low is None or high is None
        else f": over {repeats['times']:g} repeats its {metric.name} on the first {repeats['n']:g} valid examples was "
    )
    told = moved + (f"{number(low)} to {number(high)}{' %' if metric.unit == '%' else ''}" if moved else "")  # type: ignore[arg-type]
    note = (
        f"the model answers the same input otherwise each time (dropout or random numbers in evaluation too){told}. Dropout is left out of the graph; "
        "differences within that range say nothing"
    )
    progress.log(note)
    return record.replace(repeats=dict(repeats), notes=(*record.notes, note))


def steady(program: Program, arrays: Sequence[np.ndarray]) -> bool:
    """Return whether a program answers flat inputs twice alike."""
    return alike(answers(program, arrays), answers(program, arrays), _SAME)


def not_compared(record: Record, reason: Reason) -> Record:
    """Return a record with a note in the place of a reason that a program which draws random numbers cannot but give."""
    return record.replace(
        notes=(*record.notes, f"its answers were not compared with the program's, which draws random numbers: {reason.text}")
    )


def _answer(model: nn.Module, inputs: Any, seed: int) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(_outputs(model, inputs, seed)) if isinstance(leaf, Tensor)]


def _outputs(model: nn.Module, inputs: Any, seed: int) -> Any:
    """Run a module in evaluation with random states of its own; its mode and its buffers are given back."""
    args, kwargs = as_call(inputs)
    training, kept = model.training, [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        with seeded(seed), torch.no_grad():
            return model.eval()(*args, **kwargs)
    finally:
        model.train(training)
        for buffer, value in kept:
            buffer.copy_(value)


def spread(records: Sequence[Record]) -> float | None:
    """Return by how much the score of a baseline moved by itself; None where it did not, or nobody knows."""
    known = [(record.repeats.get("low"), record.repeats.get("high")) for record in records if record.repeats]
    moved = [high - low for low, high in known if low is not None and high is not None]
    return max((value for value in moved if math.isfinite(value)), default=None)
