"""Whatever a candidate does, it does to itself alone: its task goes to a process of its own, and what it raises becomes its failure.

A task that another process can load by its `ref` needs none of this. One that exists only here, with lambdas, local classes or those of a notebook, is
serialized with cloudpickle and sent through a pipe that only this process and its child hold. The child's side, `unpacked`, is **the one place where Laconic
unpickles**: the bytes were written by the parent a moment ago, never touched a file or a network, and nobody but the parent can write to the pipe. A pickle
that came from anywhere else is refused everywhere.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import TypeVar

import cloudpickle

from laconic.core.errors import LaconicError, WorkerFailed
from laconic.core.task import Task

Result = TypeVar("Result")


class NotIsolated(LaconicError):
    """A task that cannot be sent to another process."""


def packed(task: Task) -> bytes:
    """Serialize a task for a child of this process.

    Raises:
        NotIsolated: something in it cannot be sent (a lock, a connection, a generator); says what.
    """
    try:
        return bytes(cloudpickle.dumps(task))
    except Exception as error:
        raise NotIsolated(f"{type(error).__name__}: {error}") from error


def unpacked(payload: bytes) -> Task:
    """Read what the parent's `packed` made; to be called by a child, with what came through its private pipe, and by nobody else.

    Raises:
        NotIsolated: it cannot be read here, e.g. because a module of the parent's cannot be imported; says what.
    """
    try:
        task = cloudpickle.loads(payload)
    except Exception as error:
        raise NotIsolated(f"{type(error).__name__}: {error}") from error
    if not isinstance(task, Task):
        raise NotIsolated(f"it arrives as an object of the class {type(task).__name__}")
    return task


def import_like(paths: Iterable[str]) -> None:
    """Find the modules that another process finds: put those of its paths that this one lacks behind its own."""
    sys.path += [path for path in paths if path not in sys.path]


def persistent(work: Callable[[], Result], told: Callable[[str], None]) -> Result:
    """Do work in other processes, and once more where something else ended one of them: that is no fault of what was done there.

    Args:
        work: can be done again from its beginning.
        told: hears that it is tried once more, and why.
    """
    try:
        return work()
    except WorkerFailed as error:
        if error.kind != "killed":
            raise
        told(f"a process was ended by something else, and its work is done once more: {error}")
        return work()


def contained(work: Callable[[], Result]) -> Result:
    """Do a candidate's work in this process and let it fail alone.

    Raises:
        WorkerFailed: whatever it raised, `AssertionError` and `SystemExit` among it; with the reason. Only the user's Ctrl-C passes.
    """
    try:
        return work()
    except (WorkerFailed, KeyboardInterrupt):
        raise
    except MemoryError as error:
        raise WorkerFailed(f"out of memory: {error}", "memory") from error
    except LaconicError as error:
        raise WorkerFailed(str(error)) from error
    except BaseException as error:
        raise WorkerFailed(f"{type(error).__name__}: {error}") from error
