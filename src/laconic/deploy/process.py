"""Run an artifact in a fresh process: the parent's side of `worker`."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laconic.core.turn import Turn
from laconic.deploy.child import Child
from laconic.deploy.hold import command
from laconic.deploy.runtime import cores, runtime

if TYPE_CHECKING:
    from laconic.deploy.artifact import Artifact
    from laconic.deploy.portable import Portable


class WorkerProcess:
    """One artifact in a process of its own, with its threads pinned to its target.

    Args:
        artifact: what is run.
        timeout_s: for loading and for each request.
        memory_limit_bytes: resident memory beyond which it is ended; None as of `Child`.
        one_thread: run it with one thread, whatever its target says.

    Every method raises WorkerFailed if the process crashes, hangs, uses too much memory or meets an error.
    """

    def __init__(
        self, artifact: Artifact | Portable, *, timeout_s: float, memory_limit_bytes: int | None = None, one_thread: bool = False
    ) -> None:
        target = replace(artifact.target, threads=1) if one_thread else artifact.target
        self._artifact, self._target, self._timeout_s, self._limit = artifact, target, timeout_s, memory_limit_bytes
        self._inputs: Path | None = None
        threads = str(target.threads or cores())
        environment = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "OPENVINO_TELEMETRY_OPT_OUT": "1", "PYTHONHASHSEED": "0"}
        argv = command("laconic.deploy.worker", str((artifact.packed or artifact.file).resolve()), json.dumps(asdict(target)))
        self._child = Child(argv, timeout_s=timeout_s, memory_limit_bytes=memory_limit_bytes, environment=environment)

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._child.alive

    @property
    def killed(self) -> bool:
        """Whether something else ended it, as far as that has been noticed."""
        return self._child.killed

    def start(self, inputs: Path | None = None) -> dict[str, float]:
        """Load the model and, given inputs, run it once.

        Returns:
            `cold_start_ms`, from the start of the process to here; of that `load_ms` and `first_ms`.
        """
        self._inputs = inputs
        facts = self._child.ask({"op": "load", "inputs": None if inputs is None else str(inputs)})
        return {**facts, "cold_start_ms": 1e3 * (time.monotonic() - self._child.started)}

    def use_inputs(self, path: Path) -> None:
        """Time these inputs from now on: an npz file with arrays "0", "1", … in the order of the artifact's inputs."""
        self._inputs = path
        self._child.ask({"op": "inputs", "inputs": str(path)})

    def time(self, seconds: float, min_runs: int) -> Turn:
        """Run for at least so many seconds and runs."""
        return Turn.from_json(self._child.ask({"op": "time", "seconds": seconds, "min_runs": min_runs}))

    def work(self, turns: int, seconds: float, min_runs: int) -> list[Turn]:
        """Take turns of which the processor time is to be compared, also on a busy machine.

        Threads of some runtimes spin while they wait for each other, on a busy machine for most of the time: these take the turns in a fresh process with one
        thread, after one turn to warm up.
        """
        if self._target.threads == 1 or not runtime(self._target.runtime).spins:
            return [self.time(seconds, min_runs) for _ in range(turns)]
        twin = WorkerProcess(self._artifact, timeout_s=self._timeout_s, memory_limit_bytes=self._limit, one_thread=True)
        try:
            twin.start(self._inputs)
            return [twin.time(seconds, min_runs) for _ in range(turns + 1)][1:]
        finally:
            twin.close()

    def predict(self, source: Path, target: Path) -> dict[str, Any]:
        """Answer each batch `NNNNNN.npz` in one folder into a file of the same name in another."""
        return self._child.ask({"op": "predict", "source": str(source), "target": str(target)})

    def memory(self) -> dict[str, int]:
        """`rss_bytes` and `peak_bytes` of the process; empty where the system does not tell."""
        return {name: int(value) for name, value in self._child.ask({"op": "memory"}).items()}

    def modules(self) -> list[str]:
        """The packages that the process imported."""
        return list(self._child.ask({"op": "modules"})["modules"])

    def close(self) -> None:
        """End it and wait until it is gone."""
        self._child.close()
