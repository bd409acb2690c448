"""First contact with a user's code, in a process of its own: it hangs, crashes, leaves or hoards memory there, under limits, and never here.

What is tried is what comes first: the module, the task, its model, the first batches of its data, metric and loss (`tasks.check`). The process is the one that
builds models; it waits for its builder, so that nothing is imported or loaded twice. Built-in tasks are no user's code.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from laconic.core.errors import BadInput, WorkerFailed
from laconic.deploy.child import Child
from laconic.deploy.hold import command
from laconic.run.sharing import environment

if TYPE_CHECKING:
    from laconic.core.task import Task

SERVER = "laconic.run.server"
LIMIT_S = 900.0  # where nobody says another
_waiting: dict[object, Child] = {}


class Trial:
    """A process in which a task is tried; it starts at once, so that the caller may import what it needs meanwhile.

    Args:
        timeout_s: of the whole trial.
        memory_limit_bytes: as of `Child`.
    """

    def __init__(self, timeout_s: float = LIMIT_S, memory_limit_bytes: int | None = None) -> None:
        self._limits = {"timeout_s": timeout_s, "memory_limit_bytes": memory_limit_bytes}
        self._child = start(**self._limits)  # type: ignore[arg-type]

    def check(self, name: str, request: dict[str, Any], payload: bytes = b"") -> dict[str, Any]:
        """Load (or receive) and check a task there.

        Args:
            name: of the task, for the errors.
            request: `task`, `data` and `seed`, as of a request to build.
            payload: the task itself, `isolation.packed`, where `task` is None.

        Returns:
            ``mistakes``: what is wrong with it, empty where nothing is; ``other``: what else went wrong without harm, likewise: it could not be received, or
            its code raised what it will raise here too.

        Raises:
            BadInput: the process did not survive it, or its code left; says where.
            WorkerFailed: something else ended the process, twice.
        """
        full = {"op": "check", "paths": sys.path, "limit_s": self._limits["timeout_s"], **request}
        try:
            try:
                return self._child.ask(full, payload)
            except WorkerFailed as error:
                if error.kind != "killed":
                    raise
                self.close()
                self._child = start(**self._limits)  # type: ignore[arg-type]
                return self._child.ask(full, payload)
        except WorkerFailed as error:
            self.close()
            if error.kind == "killed":
                raise
            raise BadInput(
                f"the task '{name}' cannot be used. Its code was tried in a process of its own (module, model, first batches, metric, loss): {error}"
            ) from error

    def keep(self, key: object) -> None:
        """Let the process wait for the builder of the task that was tried."""
        wait(key, self._child)

    def close(self) -> None:
        """End the process."""
        self._child.close()


def wait(key: object, child: Child) -> None:
    """Let a process that holds a task wait for its next builder; whatever else waited ends."""
    close()
    _waiting[key] = child


def start(timeout_s: float, memory_limit_bytes: int | None, threads: int | None = None) -> Child:
    """Start a process that tries tasks and builds models, with so many threads at the most; see `server.Server`."""
    return Child(command(SERVER), timeout_s=timeout_s, memory_limit_bytes=memory_limit_bytes, environment=environment(threads))


def is_users(ref: str | None) -> bool:
    """Return whether a task is a user's: given as `module:attribute`, or as an object."""
    return ref is None or ":" in ref


def key_of(task: Task, seed: int) -> object:
    """Return what tells a tried task from others: how it is loaded elsewhere, or which object it is."""
    return id(task) if task.ref is None else (task.ref, task.data_dir, seed)


def was_tried(task: Task, seed: int) -> bool:
    """Return whether a process waits that has tried the task."""
    child = _waiting.get(key_of(task, seed))
    return child is not None and child.alive


def taken(task: Task, seed: int, timeout_s: float, memory_limit_bytes: int | None) -> Child | None:
    """Return the process that has tried a task, with other limits from now on; None where none waits. It is the caller's to close."""
    child = _waiting.pop(key_of(task, seed), None)
    if child is not None:
        child.timeout_s = timeout_s
        if memory_limit_bytes is not None:
            child.memory_limit_bytes = memory_limit_bytes
    return child


def close() -> None:
    """End whatever waits."""
    while _waiting:
        _waiting.popitem()[1].close()
