"""The processes of a run: one for each artifact, kept from its first check to its last measurement, so that nothing is loaded or compiled twice."""

from __future__ import annotations

from pathlib import Path

from laconic.core.errors import WorkerFailed
from laconic.deploy.artifact import Artifact
from laconic.deploy.process import WorkerProcess


class Workers:
    """Started workers by the key of their candidate.

    Args:
        inputs: what each worker runs once when it starts, and is timed with.
        timeout_s: for each request.
        memory_limit_bytes: of each process; None sets no limit.
    """

    def __init__(self, inputs: Path, timeout_s: float, memory_limit_bytes: int | None) -> None:
        self._inputs, self._timeout_s, self._limit = inputs, timeout_s, memory_limit_bytes
        self._live: dict[str, WorkerProcess] = {}

    def start(self, key: str, artifact: Artifact) -> dict[str, float]:
        """Start a fresh process; returns what `WorkerProcess.start` tells. A process that cannot start is ended."""
        self.drop(key)
        worker = WorkerProcess(artifact, timeout_s=self._timeout_s, memory_limit_bytes=self._limit)
        self._live[key] = worker
        try:
            return worker.start(self._inputs)
        except WorkerFailed:
            self.drop(key)
            raise

    def get(self, key: str, folder: Path) -> WorkerProcess:
        """Return the candidate's process; started from the artifact in `folder` if there is none or it has died."""
        if key not in self._live or not self._live[key].alive:
            self.start(key, Artifact.open(folder))
        return self._live[key]

    def drop(self, key: str) -> None:
        """End a candidate's process, if there is one."""
        worker = self._live.pop(key, None)
        if worker is not None:
            worker.close()

    def close(self) -> None:
        """End all."""
        for key in list(self._live):
            self.drop(key)
