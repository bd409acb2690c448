"""The whole of a model of which a part is compressed: made from the user's code, timed with and without the artifact in place, each in its own process.

Whatever the figures of the part are, a user waits for the whole; so both are told, under names that say which.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from laconic.core import quantities
from laconic.core.errors import BadInput, LaconicError
from laconic.core.interface import as_call
from laconic.core.progress import Progress
from laconic.core.records import Measurement
from laconic.core.target import Target
from laconic.core.task import Task
from laconic.core.turn import Turn
from laconic.deploy import whole
from laconic.deploy.artifact import Artifact
from laconic.deploy.child import Channel, Child, answer_requests
from laconic.deploy.runtime import cores
from laconic.deploy.turns import take_turn
from laconic.measure import latency
from laconic.run.isolation import import_like, packed, unpacked
from laconic.run.ledger import Ledger
from laconic.run.options import Options
from laconic.run.record import Record
from laconic.run.store import RunStore
from laconic.tasks import catalog
from laconic.tasks.data import loader

_MODULE = "laconic.run.whole"
STATE = "whole.safetensors"  # the weights of the model as it is given, or as it was trained, in the run's folder


def load_whole(folder: str | Path, model: nn.Module | str) -> nn.Module:
    """Return the whole model that a folder was delivered for, with its artifact in place, in evaluation mode.

    Args:
        folder: of the artifact, written by `optimize` for a `Task(part=…)`.
        model: the model as it was built then, whatever its weights, or ``module:attribute`` that makes it or its task: **that code is imported and run**.

    Raises:
        BadInput: the folder holds no part, or the model is another one.
        CorruptFile: a file is not the one that was delivered.
    """
    return whole.restore(Path(folder), _made(model) if isinstance(model, str) else model)


def _made(ref: str) -> nn.Module:
    target = catalog.attribute(ref)
    try:
        made = target() if callable(target) and not isinstance(target, (nn.Module, Task)) else target
    except TypeError as error:
        raise BadInput(
            f"'{ref}' must be a module, a laconic.Task, or a function without arguments that makes one of them: {error}"
        ) from error
    made = made.build() if isinstance(made, Task) else made
    if not isinstance(made, nn.Module):
        told = f"it makes an object of the class {type(made).__name__}"
        raise BadInput(f"'{ref}' must be a module, a laconic.Task, or a function without arguments that makes one of them; {told}")
    return made


def one_batch(task: Task, size: int) -> Any:
    """Return the inputs of the first examples of the valid data, as the whole model takes them."""
    return task.split(next(iter(loader(task.valid, size, shuffle=False, seed=0, collate=task.collate))))[0]


# Timing ------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """One that is timed: its name, its artifact's folder (None: the model as it is) and how that runs."""

    name: str
    folder: Path | None
    target: Target


class WholeProcess:
    """A whole model in a process of its own. Meets `measure.latency.Timed`.

    Args:
        entry: what is run.
        task: whose model and valid data are used; sent, or loaded there by its `ref`.
        state: file of the model's weights.
        options: batch, time and memory limits.

    Raises:
        LaconicError: the task cannot be sent, or the model does not run there.
    """

    def __init__(self, entry: Entry, task: Task, state: Path, options: Options) -> None:
        self.name = entry.name
        threads = str(entry.target.threads or cores())
        self._child = Child(
            [sys.executable, "-m", _MODULE],
            timeout_s=options.candidate_timeout_s,
            memory_limit_bytes=options.memory_limit_bytes,
            environment={"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
        )
        request = {
            "op": "load",
            "task": task.ref,
            "data": task.data_dir,
            "paths": sys.path,
            "state": str(state),
            "folder": None if entry.folder is None else str(entry.folder),
            "threads": int(threads),
            "batch": options.batch,
        }
        try:
            self._child.ask(request, payload=b"" if task.ref else packed(task))
        except LaconicError:
            self.close()
            raise

    def time(self, seconds: float, min_runs: int) -> Turn:
        """See `latency.Timed`."""
        return Turn.from_json(self._child.ask({"op": "time", "seconds": seconds, "min_runs": min_runs}))

    def work(self, turns: int, seconds: float, min_runs: int) -> list[Turn]:
        """See `latency.Timed`."""
        return [self.time(seconds, min_runs) for _ in range(turns)]

    def close(self) -> None:
        """End it."""
        self._child.close()


def times(task: Task, state: Path, entries: Sequence[Entry], options: Options, progress: Progress) -> dict[str, dict[str, Measurement]]:
    """Time whole models side by side, interleaved.

    Args:
        task: with a part.
        state: file of the model's weights.
        entries: the first is what the others are compared with.
        options: rounds, length of turns, batch.
        progress: told of every round.

    Returns:
        By entry's name: ``whole_latency_ms`` and ``whole_speedup``; without a value where it could not be timed, with the reason.
    """
    with contextlib.ExitStack() as stack:
        started = []
        try:
            for entry in entries:
                started.append(WholeProcess(entry, task, state, options))
                stack.callback(started[-1].close)
        except LaconicError as error:
            return {entry.name: {"whole_latency_ms": Measurement.missing("ms", str(error))} for entry in entries}
        run = latency.interleave(started, options.rounds, options.turn_seconds, progress)
    measured: dict[str, dict[str, Measurement]] = {}
    for entry in entries:
        if entry.name in run.dropped:
            measured[entry.name] = {"whole_latency_ms": Measurement.missing("ms", run.dropped[entry.name])}
            continue
        own = {"whole_latency_ms": latency.measured(run.rounds[entry.name], options.batch)["latency_ms"]}
        if entries[0].name in run.rounds:
            own["whole_speedup"] = latency.ratio(run.rounds[entries[0].name], run.rounds[entry.name])
        measured[entry.name] = own
    return measured


def with_whole(
    task: Task, store: RunStore, records: Sequence[Record], options: Options, ledger: Ledger, progress: Progress
) -> list[Record]:
    """Return records of parts with what the whole model takes with them in place, and write beside the artifacts what runs the whole.

    Args:
        task: without a part, the records come back as they are.
        store: the run's folder.
        records: a baseline, which is compared as the model that was given, in PyTorch, and those that are delivered.
        options: rounds, length of turns, batch.
        ledger: where the time goes.
        progress: told of every round.
    """
    if task.part is None:
        return list(records)
    name = f"timing/whole-{'-'.join(record.key for record in records[1:])}.json"
    if not store.has(name):
        entries = [
            Entry(one.key, store.path(one.artifact) if index and one.artifact else None, _target(one)) for index, one in enumerate(records)
        ]
        with ledger.part("time"):
            measured = times(task, store.path(STATE), entries, options, progress)
        store.write(name, measured)
    known, rest = store.read(name), whole.size_of_rest(task.build(), task.part)
    done = []
    for index, record in enumerate(records):
        if index and record.artifact:
            whole.deliver(Artifact.open(store.path(record.artifact)), task.build(), task.part, one_batch(task, 1), task.ref)
        own = {label: Measurement.from_json(item) for label, item in known.get(record.key, {}).items()}
        size = record.compared(quantities.row("size_bytes"))
        done.append(record.with_measured(**own, whole_size_bytes=None if size is None or size.value is None else size.value + rest))
    return done


def _target(record: Record) -> Target:
    return Target(**record.recipe["deploy"])


class Server:
    """The other side: one whole model and the inputs that are timed."""

    def __init__(self) -> None:
        self._run: Any = None

    def answer(self, request: Mapping[str, Any], channel: Channel) -> dict[str, Any]:
        """Answer one request."""
        if request["op"] == "time":
            return asdict(take_turn(self._run, request["seconds"], request["min_runs"]))
        import_like(request["paths"])
        task = catalog.load(request["task"], data=request["data"]) if request["task"] else unpacked(channel.payload)
        torch.set_num_threads(request["threads"])
        model = task.build().eval()
        whole.read_state(model, Path(request["state"]))
        if request["folder"] is not None:
            assert task.part is not None
            model = whole.place(model, task.part, request["folder"])
        args, kwargs = as_call(one_batch(task, request["batch"]))

        @torch.no_grad()
        def run() -> None:
            model(*args, **kwargs)

        run()
        self._run = run
        return {}


if __name__ == "__main__":
    answer_requests(Server().answer)
