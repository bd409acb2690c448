"""Other machines of a Ray cluster build candidates, each as a task with its request of processors; this machine checks, times and judges them.

What goes to and fro are paths and digests: a task is told where in the run's folder things lie, and answers which files it made there and what their SHA-256
are. So the folder is on a mount that all machines share. Timing stays on the machine of the run, where nothing is built, so that all ratios come from one
machine. Where nodes of the cluster have the resource `timing`, it must be one of those.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from laconic.core.errors import BadInput, CorruptFile, LaconicError, WorkerFailed, need
from laconic.core.files import sha256
from laconic.core.progress import silent
from laconic.core.version import VERSION
from laconic.run.build import Beside, Builder
from laconic.run.crew import UNSENDABLE, Crew, NoCrew
from laconic.run.isolation import import_like
from laconic.run.recipe import Recipe, parse
from laconic.run.stepwise import DONE
from laconic.search.drivers.driver import Driver

TIMING = "timing"  # the resource of nodes that time
_POLL_S = 0.5
_SEEN_S = 30.0  # so long a file may take to appear on a shared mount


def driver(workers: int) -> Driver:
    """Return so many tasks at once.

    Raises:
        MissingExtra: Ray is not installed.
        BadInput: there is no cluster, no other machine in it, or this one is not among those that time.
    """
    need("ray", "ray")
    cluster = _Cluster(workers)

    def crew(builder: Builder) -> NoCrew:
        if builder.task.ref is None:
            raise BadInput(
                f"the task '{builder.task.name}' is an object of this process, which other machines cannot load. Give it as module:attribute, or leave out "
                "the driver ray."
            )
        given = _given(builder)
        members = [lambda: _Member(cluster, builder.folder.parent, given)] * workers
        return Crew(members, builder.folder, builder.turn, threading.RLock(), builder.progress.log)

    return Driver(crew, workers, cluster.sees)


class _Cluster:
    """The cluster that this process belongs to, and what its other machines have for each of so many tasks."""

    def __init__(self, workers: int) -> None:
        import ray

        if not ray.is_initialized():
            try:
                ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
            except ConnectionError as error:
                raise BadInput(
                    f"driver ray: no cluster is running here ({error}). `ray start --head` begins one, `ray start --address=HEAD:6379` joins another "
                    "machine to it."
                ) from error
        self.here = ray.get_runtime_context().get_node_id()
        nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
        timing = [node["NodeManagerHostname"] for node in nodes.values() if node["Resources"].get(TIMING)]
        if timing and not nodes[self.here]["Resources"].get(TIMING):
            raise BadInput(
                f"driver ray: this machine is none of those that time ({', '.join(sorted(set(timing)))}). Start the command there: ray job submit "
                f"--entrypoint-resources '{{\"{TIMING}\": 1}}' -- laconic optimize …"
            )
        self.others = {key: node["NodeManagerHostname"] for key, node in nodes.items() if key != self.here and node["Resources"].get("CPU")}
        cpus = [nodes[key]["Resources"]["CPU"] for key in self.others]
        if not any(cpus):
            raise BadInput(
                "driver ray: the cluster has no other machine with processors to build on. Join one, or use --workers without a driver."
            )
        self.cpus = int(max(1, min(sum(cpus) // workers, max(cpus))))

    def sees(self, folder: Path) -> None:
        """Ask the other machines whether a folder of this one is theirs too.

        Raises:
            BadInput: it is not; names one that does not see it.
        """
        import ray

        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=folder.parent, prefix=".seen-", encoding="utf-8") as file:
            place = str(Path(file.name).resolve())
            looks = {
                name: ray.remote(_seen).options(num_cpus=0, label_selector={"ray.io/node-id": key}).remote(place)
                for key, name in self.others.items()
            }
            blind = [name for name, look in looks.items() if not ray.get(look)]
        if blind:
            raise BadInput(
                f"driver ray: {', '.join(blind)} does not see {folder.parent.resolve()}, where the work for the URL is done here. Start the command in a "
                "folder on a mount that all machines share, or give --out a folder on it."
            )

    def submit(self, request: Mapping[str, Any]) -> Any:
        """Begin a task on another machine; Ray does it once more where its machine or its process is lost."""
        import ray

        task = ray.remote(build_there).options(
            num_cpus=self.cpus, max_retries=1, retry_exceptions=False, label_selector={"ray.io/node-id": f"!{self.here}"}
        )
        return task.remote({**request, "threads": self.cpus})


class _Member:
    """One task at a time; see `crew.Member`."""

    def __init__(self, cluster: _Cluster, run: Path, given: Mapping[str, Any]) -> None:
        self.deadline: float | None = None
        self._cluster, self._run, self._given = cluster, run, given
        self._task: Any = None
        self._over = False

    def file(self, recipe: Recipe, kind: str) -> Path:
        """Let another machine build a model file, and wait until it is seen here."""
        import ray

        left = None if self.deadline is None else self.deadline - time.monotonic()
        self._task = self._cluster.submit({**self._given, "recipe": recipe.to_plain(), "format": kind, "left_s": left})
        while not self._over and not ray.wait([self._task], timeout=_POLL_S)[0]:
            pass
        if self._over:
            raise WorkerFailed("the run is over")
        try:
            answer = ray.get(self._task)
        except ray.exceptions.RayError as error:
            done = self._run / "models" / (recipe.steps_key or "base") / kind / DONE
            if done.exists():  # it was finished, and only the answer was lost
                return done
            raise WorkerFailed(f"the machine that built it was lost, twice: {type(error).__name__}", "killed") from error
        if "error" in answer:
            raise WorkerFailed(answer["error"], answer["kind"])
        for name, digest in answer["files"].items():
            _see(self._run / name, digest)
        return self._run / str(answer["file"])

    def pause(self) -> None:
        """Do nothing: it computes on another machine."""

    def resume(self) -> None:
        """Do nothing."""

    def kill(self) -> None:
        """Let the task go that is waited for."""
        import ray

        self._over = True
        if self._task is not None:
            with contextlib.suppress(Exception):
                ray.cancel(self._task, force=True)

    def close(self) -> None:
        """Do nothing: processes of tasks end with the job."""


def _given(builder: Builder) -> dict[str, Any]:
    """Return what all tasks of a run are told, paths as they stand in its folder."""
    import sys

    run = builder.folder.parent.resolve()
    return {
        "run": str(run),
        "source": str(builder.source.resolve().relative_to(run)),
        "source_sha256": sha256(builder.source),
        "state": None if builder.state is None else str(builder.state.resolve().relative_to(run)),
        "inputs": {name: str(path.resolve().relative_to(run)) for name, path in builder.inputs.items()},
        "task": builder.task.ref,
        "data": builder.task.data_dir,
        "seed": builder.seed,
        "timeout_s": builder.timeout_s,
        "memory_limit_bytes": builder.memory_limit_bytes,
        "paths": sys.path,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Return what must be the same on all machines of a run."""
    import torch  # here, since the door of the command line need not load it

    return {"laconic": VERSION, "torch": torch.__version__}


def _see(file: Path, digest: str) -> None:
    """Wait until a file that another machine wrote is here as it was written there.

    Raises:
        WorkerFailed: it is not.
    """
    until = time.monotonic() + _SEEN_S
    while not file.exists() or sha256(file) != digest:
        if time.monotonic() > until:
            raise WorkerFailed(
                f"{file} was built on another machine, and is not here as it was written there: the run's folder is not shared with it"
            )
        time.sleep(_POLL_S)


# On the other machine -----------------------------------------------------------------------------------------------------------------------


def _seen(place: str) -> bool:
    """Return whether a file of the run's machine is seen here, in the time that a shared mount may take."""
    until = time.monotonic() + _SEEN_S
    while not Path(place).exists():
        if time.monotonic() > until:
            return False
        time.sleep(_POLL_S)
    return True


_builders: dict[
    str, Builder
] = {}  # of this process, by the run's folder: the next task of the run finds a process that has loaded everything


def build_there(request: Mapping[str, Any]) -> dict[str, Any]:
    """Build one model file of a run, in a process under its limits; the work of a Ray task.

    Returns:
        ``file``, as it stands in the run's folder, and ``files``, the SHA-256 of each that was made; or ``error`` and ``kind``, as of `WorkerFailed`.
    """
    try:
        builder = _builder(request)
        left = request["left_s"]
        builder.deadline = None if left is None else time.monotonic() + left
        file = builder.file(parse(request["recipe"]).recipe, request["format"])
    except WorkerFailed as error:
        return {"error": str(error), "kind": error.kind}
    except LaconicError as error:
        return {"error": str(error), "kind": "error"}
    run, steps = Path(request["run"]), file.parent.parent
    made = [path for folder in (file.parent, steps / "expected") for path in folder.rglob("*") if path.is_file()]
    files = {str(path.relative_to(run)): sha256(path) for path in (*made, steps / "steps.json")}
    return {"file": str(file.relative_to(run)), "files": files}


def _builder(request: Mapping[str, Any]) -> Builder:
    from laconic.tasks.catalog import load

    run = Path(request["run"])
    if request["versions"] != versions():
        raise WorkerFailed(f"another machine has other versions: {versions()} there, {request['versions']} here", UNSENDABLE)
    if request["run"] not in _builders:
        try:
            same = sha256(run / request["source"]) == request["source_sha256"]
        except (OSError, CorruptFile):
            same = False
        if not same:
            raise WorkerFailed(
                f"another machine does not see the run's folder {run}: put it on a mount that all share, with --out", UNSENDABLE
            )
        import_like(request["paths"])
        _builders[request["run"]] = Builder(
            run / request["source"],
            run / "models",
            {name: run / path for name, path in request["inputs"].items()},
            load(request["task"], data=request["data"], seed=request["seed"]),
            timeout_s=request["timeout_s"],
            memory_limit_bytes=request["memory_limit_bytes"],
            seed=request["seed"],
            progress=silent,
            state=None if request["state"] is None else run / request["state"],
            beside=Beside(request["threads"], contextlib.nullcontext()),
        )
    return _builders[request["run"]]
