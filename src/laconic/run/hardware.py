"""Time artifacts on this machine for a record that is compared with those of other machines. Imports no PyTorch: a machine needs what the runtime needs.

What is measured is told as events of plain values, each complete in itself, so that a measurement of which the connection broke goes on where it was.
"""

from __future__ import annotations

import contextlib
import datetime
import platform
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from laconic.core.errors import BadInput, Mistakes, WorkerFailed
from laconic.core.fields import check_types
from laconic.core.machine_record import ArtifactTimes, BatchTiming, MachineRecord
from laconic.core.progress import Progress, silent
from laconic.core.records import Measurement, to_json
from laconic.deploy.portable import Portable
from laconic.deploy.process import WorkerProcess
from laconic.deploy.runtime import packages
from laconic.measure import latency
from laconic.measure.cost import Price, cost
from laconic.measure.energy import Metering, joules
from laconic.measure.environment import environment
from laconic.measure.stats import FEWEST_FOR_ORDER
from laconic.run.inputs import check_lengths, random_inputs, write_arrays
from laconic.run.timed import TimedWorker

Event = dict[str, Any]
CHUNK = 5  # rounds between two events: so many are lost at most with a connection


@dataclass(frozen=True)
class Timing:
    """How artifacts are timed on every machine.

    Args:
        batches: sizes of batches.
        rounds: turns of each artifact at each, six at least: fewer have no interval by order, and another one takes SciPy.
        turn_seconds: length of a turn.
        lengths: sizes of further dynamic dimensions.
        seed: of the random inputs.
        timeout_s: for loading, and for each turn.
        metering: how energy is measured too, a minute or more for each artifact and batch; None: it is not.

    Raises:
        BadInput: names what makes no sense.
    """

    batches: tuple[int, ...] = (1,)
    rounds: int = 15
    turn_seconds: float = 0.2
    lengths: Mapping[str, int] = field(default_factory=dict)
    seed: int = 0
    timeout_s: float = 900.0
    metering: Metering | None = None

    def __post_init__(self) -> None:
        check_types(self, "artifacts cannot be timed so:")
        least = {
            "batches": (min(self.batches, default=0), 1),
            "rounds": (self.rounds, FEWEST_FOR_ORDER),
            "turn_seconds": (self.turn_seconds, 0.0),
        }
        small = [f"{name}: {value:g} must be {limit:g} or more" for name, (value, limit) in least.items() if not value >= limit]
        if not self.timeout_s > 0:
            small.append(f"timeout_s: {self.timeout_s:g} must be above 0")
        if small:
            raise Mistakes("artifacts cannot be timed so:", small)


def record(
    items: Mapping[str, Portable], timing: Timing, machine: str = "", progress: Progress = silent, known: Sequence[Event] = ()
) -> MachineRecord:
    """Time artifacts here, taking turns at each batch size, and return the record.

    Args:
        items: artifacts by a name for people.
        timing: how.
        machine: a name for this one; empty: its host name.
        progress: told of the rounds.
        known: events of an earlier attempt.

    Raises:
        BadInput: none can be timed; says why.
    """
    events = list(known)
    events += measure(items, timing, events, progress)
    return folded(events, items, timing, machine)


def measure(items: Mapping[str, Portable], timing: Timing, known: Sequence[Event] = (), progress: Progress = silent) -> Iterator[Event]:
    """Yield what is measured as it is known: the environment, how each artifact started or why not, rounds of turns by batch size and
    then energy where it is asked for, memory in the end.

    What stands in `known` is not measured again, except that processes are started anew.
    """
    told = {event["name"] for event in known if event["kind"] == "started"}
    failed = {event["name"] for event in known if event["kind"] == "failed"}
    if not any(event["kind"] == "machine" for event in known):
        yield {"kind": "machine", "name": platform.node() or "unnamed", "environment": to_json(environment(None, packages()))}
    with tempfile.TemporaryDirectory(prefix="laconic-bench-") as scratch, contextlib.ExitStack() as stack:
        workers: dict[str, WorkerProcess] = {}
        for name, item in items.items():
            if name in failed:
                continue
            try:
                worker, facts = _started(item, timing, Path(scratch), stack)
            except (BadInput, WorkerFailed) as error:
                yield {"kind": "failed", "name": name, "why": str(error)}
                continue
            workers[name] = worker
            if name not in told:
                yield {"kind": "started", "name": name, **facts}
        for batch in timing.batches:
            yield from _rounds(workers, items, batch, timing, known, Path(scratch), progress)
            if timing.metering is not None:
                yield from _energies(workers, items, batch, timing, timing.metering, known, Path(scratch), progress)
        for name, worker in workers.items():
            with contextlib.suppress(WorkerFailed):
                yield {"kind": "memory", "name": name, "peak_bytes": worker.memory().get("peak_bytes")}


def _started(item: Portable, timing: Timing, scratch: Path, stack: contextlib.ExitStack) -> tuple[WorkerProcess, dict[str, float]]:
    """Start the process of one artifact and let it answer once.

    Raises:
        BadInput, WorkerFailed: it does not run here.
    """
    if (why := item.refusal()) is not None:
        raise BadInput(why)
    inputs = write_arrays(scratch / f"{item.sha256[:12]}.npz", _inputs(item, timing.batches[0], timing))
    worker = WorkerProcess(item, timeout_s=timing.timeout_s)
    stack.callback(worker.close)
    return worker, worker.start(inputs)


def _inputs(item: Portable, batch: int, timing: Timing) -> list[Any]:
    lengths = {name: size for name, size in timing.lengths.items() if any(name in spec.shape for spec in item.inputs)}
    check_lengths(item.inputs, item.file, lengths)
    return random_inputs(item.inputs, batch, lengths, timing.seed)


def _rounds(
    workers: dict[str, WorkerProcess],
    items: Mapping[str, Portable],
    batch: int,
    timing: Timing,
    known: Sequence[Event],
    scratch: Path,
    progress: Progress,
) -> Iterator[Event]:
    """Yield rounds at one batch size until there are enough; who fails is told and left out from then on."""
    done = sum(event["rounds"] for event in known if event["kind"] == "times" and event["batch"] == batch)
    if done >= timing.rounds or not workers:
        return
    for name in list(workers):
        try:
            workers[name].use_inputs(write_arrays(scratch / "inputs.npz", _inputs(items[name], batch, timing)))
        except (BadInput, WorkerFailed) as error:
            workers.pop(name)
            yield {"kind": "failed", "name": name, "why": f"batch {batch}: {error}"}
    warm: Sequence[str] = ()
    while workers and done < timing.rounds:
        count = min(CHUNK, timing.rounds - done)
        run = latency.interleave([TimedWorker(*pair) for pair in workers.items()], count, timing.turn_seconds, progress, warm=warm)
        for name, why in run.dropped.items():
            workers.pop(name)
            yield {"kind": "failed", "name": name, "why": f"batch {batch}: {why}"}
        yield {"kind": "times", "batch": batch, "rounds": count, "times_ns": run.rounds, "busy": run.machine["busy"]}
        done, warm = done + count, tuple(workers)


def _energies(
    workers: dict[str, WorkerProcess],
    items: Mapping[str, Portable],
    batch: int,
    timing: Timing,
    metering: Metering,
    known: Sequence[Event],
    scratch: Path,
    progress: Progress,
) -> Iterator[Event]:
    """Yield the energy of each artifact at one batch size, known or unknown and why; one after the other, for a counter tells of the whole machine."""
    told = {(event["name"], event["batch"]) for event in known if event["kind"] == "energy"}
    for name in [name for name in workers if (name, batch) not in told]:
        worker = workers[name]
        progress.log(f"energy of {name} at batch {batch}")
        try:
            worker.use_inputs(write_arrays(scratch / "inputs.npz", _inputs(items[name], batch, timing)))
            found = joules(lambda seconds, w=worker: w.time(seconds, 1), metering, items[name].target.device, batch)  # type: ignore[misc]
        except (BadInput, WorkerFailed) as error:
            workers.pop(name)
            yield {"kind": "failed", "name": name, "why": f"batch {batch}: {error}"}
        else:
            yield {"kind": "energy", "name": name, "batch": batch, "energy_mj": to_json(found)}


def folded(events: Sequence[Event], items: Mapping[str, Portable], timing: Timing, machine: str = "") -> MachineRecord:
    """Make a record of events.

    Raises:
        BadInput: no artifact could be timed; says why of each.
    """
    about = next(event for event in events if event["kind"] == "machine")
    whys = {event["name"]: str(event["why"]) for event in events if event["kind"] == "failed"}
    if all(name in whys for name in items):
        raise BadInput("nothing could be timed: " + "; ".join(f"{name}: {why}" for name, why in whys.items()))
    cold = {event["name"]: event["cold_start_ms"] for event in events[::-1] if event["kind"] == "started"}  # of the first start
    peaks = {event["name"]: event["peak_bytes"] for event in events if event["kind"] == "memory"}
    day = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    artifacts = tuple(
        ArtifactTimes(
            name=name,
            sha256=item.sha256,
            size_bytes=item.size_bytes,
            numerics=item.numerics,
            target=to_json(item.target),
            cold_start_ms=cold.get(name),
            peak_memory_bytes=peaks.get(name),
            timings=() if name in whys else tuple(_timing(name, batch, events) for batch in timing.batches),
            failed=whys.get(name, ""),
            ram=item.ram,
        )
        for name, item in items.items()
    )
    return MachineRecord(machine or str(about["name"]), about["environment"], day, artifacts)


def _timing(name: str, batch: int, events: Sequence[Event]) -> BatchTiming:
    chunks = [event for event in events if event["kind"] == "times" and event["batch"] == batch and name in event["times_ns"]]
    rounds = [turn for chunk in chunks for turn in chunk["times_ns"][name]]
    busy = next((chunk["busy"] for chunk in chunks if chunk["busy"]), "")
    made = BatchTiming(batch, **latency.measured(rounds, batch), busy=busy)
    used = (event for event in events if event["kind"] == "energy" and (event["name"], event["batch"]) == (name, batch))
    return next((replace(made, energy_mj=Measurement.from_json(event["energy_mj"])) for event in used), made)


def priced(record: MachineRecord, price: Price) -> MachineRecord:
    """Return a record with the money for a million inferences at each batch size, by the price of its machine; unknown, and why, where energy has a price and
    was not measured.
    """

    def paid(one: ArtifactTimes) -> ArtifactTimes:
        timings = (replace(t, cost_per_million=cost(price, t.throughput_per_s, t.energy_mj)) for t in one.timings)
        return replace(one, timings=tuple(timings))

    return replace(record, artifacts=tuple(map(paid, record.artifacts)))


def priced_by_name(records: Sequence[MachineRecord], prices: Mapping[str, Price]) -> list[MachineRecord]:
    """Return records with the money by the prices that bear their machines' names; those of other machines as they are.

    Raises:
        BadInput: no price is called as a machine is.
    """
    names = dict.fromkeys(record.machine for record in records)
    if not set(names) & set(prices):
        raise BadInput(
            f"no price is called as a machine of these records: prices of {', '.join(prices)}, records of {', '.join(names)}. Call its table "
            f'["{next(iter(names), "")}"], or name the machine when it is recorded: --machine NAME'
        )
    return [priced(record, prices[record.machine]) if record.machine in prices else record for record in records]


def items_of(path: Path, best: int = 3, trust: bool = False, **changes: Any) -> dict[str, Portable]:
    """Return what a path stands for: one artifact's folder, or a run's folder and in it what was delivered and the fastest others that passed.

    Args:
        path: of the folder.
        best: how many of a run.
        trust: see `Portable`.
        changes: of targets, see `Portable.with_target`.

    Raises:
        BadInput: neither; a run without artifacts.
    """
    from laconic.run.store import MANIFEST, read_result

    if not (path / MANIFEST).exists():
        one = Portable.of(path, trust=trust).with_target(**changes)
        return {path.resolve().name: one}
    result = read_result(path)
    passed = [row for row in result["candidates"] if row.get("status") == "passed" and row.get("artifact")]
    passed.sort(key=lambda row: (row["key"] != result.get("best"), _median_ms(row)))
    if not passed:
        raise BadInput(f"the run in {path} delivered nothing that passed: there is nothing to time")
    return {
        row["title"]: Portable.of(path / "candidates" / row["key"] / "artifact", trust=trust).with_target(**changes)
        for row in passed[:best]
    }


def _median_ms(row: Mapping[str, Any]) -> float:
    value = (row.get("latency_ms") or {}).get("value")
    return float(value) if value is not None else float("inf")
