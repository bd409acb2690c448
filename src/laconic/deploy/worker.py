"""A process that loads one model file and runs it when asked; see `process` for the other side. It imports the runtime that it needs and no other."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from laconic.core import packed
from laconic.core.errors import BadInput
from laconic.core.memory import memory_of
from laconic.core.target import Target
from laconic.deploy.child import answer_requests
from laconic.deploy.runtime import Session, cores, runtime
from laconic.deploy.turns import take_turn


class Worker:
    """One loaded model and the inputs that are timed."""

    def __init__(self, file: Path, target: Target) -> None:
        self._file, self._target = file, target
        self._session: Session | None = None
        self._inputs: list[np.ndarray] = []

    def load(self, request: dict[str, Any]) -> dict[str, Any]:
        """Load the file and, given inputs, run it once."""
        start = time.perf_counter()
        with self._restored() as file:
            self._session = runtime(self._target.runtime).load(file, self._target)
        loaded = time.perf_counter()
        if request.get("inputs"):
            self.inputs(request)
            self._session.run(self._inputs)
        return {"load_ms": 1e3 * (loaded - start), "first_ms": 1e3 * (time.perf_counter() - loaded)}

    @contextlib.contextmanager
    def _restored(self) -> Iterator[Path]:
        """Give the model file; one that ships in an archive is restored for as long as it is read."""
        if self._file.suffix not in packed.TABLE:
            yield self._file
            return
        with tempfile.TemporaryDirectory(prefix="laconic-restored-") as folder:
            yield packed.TABLE[self._file.suffix].restore(self._file, Path(folder))[0]

    def inputs(self, request: dict[str, Any]) -> dict[str, Any]:
        """Take the arrays that are timed from a file."""
        self._inputs = _read(Path(request["inputs"]))
        return {}

    def time(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run until both the seconds and the number of runs are reached; the fields of a `Turn`."""
        session, inputs = self._loaded(), self._inputs
        crowded = (self._target.threads or cores()) > cores()
        turn = take_turn(lambda: session.run(inputs), request["seconds"], request["min_runs"], crowded=crowded)
        # the processor that waits for a GPU tells nothing of the work
        return asdict(turn if self._target.device == "cpu" else replace(turn, cpu_ns=[]))

    def predict(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer every batch of a folder into another folder."""
        source, target = Path(request["source"]), Path(request["target"])
        target.mkdir(parents=True, exist_ok=True)
        session = self._loaded()
        files = sorted(source.glob("[0-9]*.npz"))
        for path in files:
            outputs = session.run(_read(path))
            with (target / path.name).open("wb") as handle:
                np.savez(handle, **{str(i): np.asarray(array) for i, array in enumerate(outputs)})  # type: ignore[arg-type]
        return {"batches": len(files)}

    def memory(self, request: dict[str, Any]) -> dict[str, Any]:
        """This process's memory."""
        import os

        return memory_of(os.getpid())

    def modules(self, request: dict[str, Any]) -> dict[str, Any]:
        """The packages that were imported."""
        return {"modules": sorted(name for name in sys.modules if "." not in name)}

    def _loaded(self) -> Session:
        if self._session is None:
            raise BadInput("the worker was asked to run before it was asked to load")
        return self._session


def _read(path: Path) -> list[np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return [archive[str(i)] for i in range(len(archive.files))]


def main() -> None:
    """Answer requests: `python -m laconic.deploy.worker FILE SETTINGS REQUESTS ANSWERS`."""
    worker = Worker(Path(sys.argv[1]), Target(**json.loads(sys.argv[2])))
    table: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
        name: getattr(worker, name) for name in ("load", "inputs", "time", "predict", "memory", "modules")
    }
    answer_requests(lambda request, _: table[request["op"]](request))


if __name__ == "__main__":
    main()
