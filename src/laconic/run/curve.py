"""Latency of a chosen artifact and its baseline beyond the one figure: how single calls spread, and how it grows with the batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from laconic.core.axes import batch_axis, resize
from laconic.core.errors import LaconicError
from laconic.core.program import Program
from laconic.core.turn import Turn
from laconic.deploy.process import WorkerProcess
from laconic.run.examples import read_arrays, write_arrays

BATCHES = (1, 8, 32)
QUANTILES = (*range(0, 100, 5), 99, 100)
_TURNS = 3
_SECONDS = 0.05  # of a turn
_MOST_S = 0.25  # a call that is expected to take longer is left out
_UNIT = 1e6  # nanoseconds in a millisecond


def spread(rounds: Sequence[Sequence[float]]) -> list[float]:
    """Return the quantiles `QUANTILES` (in percent) of all calls in milliseconds, from nanoseconds by round."""
    calls = np.concatenate([np.asarray(calls, float) for calls in rounds])
    return [float(value) / _UNIT for value in np.percentile(calls, QUANTILES)]


def batch_curve(program: Program, first: Path, folder: Path, workers: Sequence[WorkerProcess]) -> dict[str, Any]:
    """Time processes at several batch sizes, in turns, for a moment each: a curve, not a comparison that decides anything.

    Args:
        program: whose inputs they take.
        first: a batch of real examples, repeated or cut to each size.
        folder: where the inputs are written.
        workers: alive; they are left with the inputs of the last size.

    Returns:
        ``batches``, and in the same order of each worker the median milliseconds of a call, ``ms``; ``note`` says why a size is missing.
    """
    if not any(batch_axis(spec) is not None for spec in program.inputs):
        return {"batches": [], "ms": [[] for _ in workers], "note": "the model takes batches of one size"}
    batches: list[int] = []
    ms: list[list[float]] = [[] for _ in workers]
    for batch in BATCHES:
        if batches and max(one[-1] for one in ms) * batch / batches[-1] > 1e3 * _MOST_S:
            return {"batches": batches, "ms": ms, "note": f"a call with {batch} examples takes too long to be timed here"}
        inputs = write_arrays(folder / f"curve-{batch}.npz", resize(program.inputs, read_arrays(first), {"batch": batch}))
        try:
            for worker in workers:
                worker.use_inputs(inputs)
                worker.time(0.0, 1)  # the first call at a size may compile
            turns = _turns(workers)
        except LaconicError as error:
            return {"batches": batches, "ms": ms, "note": f"with {batch} examples: {error}"}
        for place, calls in enumerate(zip(*turns, strict=True)):
            ms[place].append(float(np.median(np.concatenate(calls))) / _UNIT)
        batches.append(batch)
    return {"batches": batches, "ms": ms, "note": ""}


def _turns(workers: Sequence[WorkerProcess]) -> list[list[np.ndarray]]:
    """Return nanoseconds of calls by turn and worker; one turn alone where a call takes long."""
    turns: list[list[np.ndarray]] = []
    while len(turns) < _TURNS:
        turns.append([_calls(worker.time(_SECONDS, 1)) for worker in workers])
        if max(float(np.median(calls)) for calls in turns[-1]) > 1e9 * _MOST_S:
            break
    return turns


def _calls(turn: Turn) -> np.ndarray:
    return np.asarray(turn.times_ns, float)
