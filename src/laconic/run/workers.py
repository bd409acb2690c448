"""The processes of a run: one for each artifact, kept from its first check to its last measurement, so that nothing is loaded or compiled twice."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from laconic.core.errors import LaconicError, WorkerFailed
from laconic.deploy.artifact import Artifact
from laconic.deploy.process import WorkerProcess
from laconic.deploy.runtime import cores


class Workers:
    """Started workers by the key of their candidate.

    Args:
        inputs: what each worker runs once when it starts, and is timed with.
        timeout_s: for each request.
        memory_limit_bytes: of each process; None as of `Child`.
    """

    def __init__(self, inputs: Path, timeout_s: float, memory_limit_bytes: int | None) -> None:
        self._inputs, self._timeout_s, self._limit = inputs, timeout_s, memory_limit_bytes
        self._live: dict[str, WorkerProcess] = {}

    def start(self, key: str, artifact: Artifact) -> dict[str, float]:
        """Start a fresh process; returns what `WorkerProcess.start` tells. A process that cannot start is ended."""
        return self._load(key, self._launched(key, artifact))

    def start_together(self, folders: Mapping[str, Path]) -> dict[str, str]:
        """Start those of these candidates that have no live process, as many at a time as there are cores; returns why some could not, by key.

        Args:
            folders: of their artifacts, by key.
        """
        failed: dict[str, str] = {}
        launched: dict[str, WorkerProcess] = {}
        for key, folder in folders.items():
            if self._is_live(key):
                continue
            try:
                launched[key] = self._launched(key, Artifact.open(folder))  # here: a process ends with the thread that started it
            except LaconicError as error:
                failed[key] = str(error)

        killed: list[str] = []

        def load(key: str) -> None:
            try:
                self._load(key, launched[key])
            except WorkerFailed as error:
                failed[key] = str(error)
                killed.extend([key] * (error.kind == "killed"))

        with ThreadPoolExecutor(cores()) as pool:
            list(pool.map(load, launched))
        for key in killed:  # by something else: once more
            try:
                self.start(key, Artifact.open(folders[key]))
                del failed[key]
            except LaconicError as error:
                failed[key] = str(error)
        return failed

    def _launched(self, key: str, artifact: Artifact) -> WorkerProcess:
        self.drop(key)
        self._live[key] = WorkerProcess(artifact, timeout_s=self._timeout_s, memory_limit_bytes=self._limit)
        return self._live[key]

    def _load(self, key: str, worker: WorkerProcess) -> dict[str, float]:
        try:
            return worker.start(self._inputs)
        except WorkerFailed:
            self.drop(key)
            raise

    def _is_live(self, key: str) -> bool:
        return key in self._live and self._live[key].alive

    def get(self, key: str, folder: Path) -> WorkerProcess:
        """Return the candidate's process; started from the artifact in `folder` if there is none or it has died."""
        if not self._is_live(key):
            self.start(key, Artifact.open(folder))
        return self._live[key]

    def killed(self, key: str) -> bool:
        """Return whether something else ended the candidate's process."""
        return key in self._live and self._live[key].killed

    def drop(self, key: str) -> None:
        """End a candidate's process, if there is one."""
        worker = self._live.pop(key, None)
        if worker is not None:
            worker.close()

    def close(self) -> None:
        """End all."""
        for key in list(self._live):
            self.drop(key)
