"""What a process tells of one turn of runs: how long each took, and whether it had the processor meanwhile."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Turn:
    """One turn of runs in one process. What the system does not tell is None.

    Args:
        times_ns: from start to end of each run.
        cpu_ns: processor time of each run, summed over the process's threads; threads that spin while they wait use it too.
        wall_ns: from start to end of the turn.
        wait_ns: time in which threads of the process were ready to run and had no core, summed over threads.
        throttled_ns: time in which the process's control group had used up its share of the processors.
        involuntary: context switches because something else was given the core.
        voluntary: context switches because a thread had nothing to do.
        crowded: whether the process has more threads than cores, so that they wait for each other on a quiet machine too.
    """

    times_ns: Sequence[int]
    cpu_ns: Sequence[int] = ()
    wall_ns: int = 0
    wait_ns: int | None = None
    throttled_ns: int | None = None
    involuntary: int | None = None
    voluntary: int | None = None
    crowded: bool = False

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Turn:
        """Read back what `records.to_json` wrote; unknown keys are ignored."""
        names = {f.name for f in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in data.items() if key in names})
