"""Is one artifact really faster than another? Interleaved, in processes of their own, on the same inputs, with an interval."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from laconic.core.capture import capture
from laconic.core.console import for_console
from laconic.core.errors import BadInput, Mistakes, WorkerFailed, nearest
from laconic.core.fields import typed
from laconic.core.interface import argument_names
from laconic.core.model import as_module
from laconic.core.program import Program, TensorSpec
from laconic.core.progress import Progress
from laconic.core.records import Measurement
from laconic.core.target import Target
from laconic.deploy import runtime as runtimes
from laconic.deploy.artifact import Artifact, save_artifact
from laconic.deploy.process import WorkerProcess
from laconic.display import shown
from laconic.measure import latency, quiet
from laconic.measure.cost import Price, best, cost
from laconic.measure.energy import Metering, joules, source
from laconic.run.inputs import check_lengths, write_arrays
from laconic.run.inputs import random_inputs as random_inputs
from laconic.run.timing import TimedWorker


@dataclass(frozen=True)
class Timing:
    """What one candidate took at one batch size."""

    name: str
    batch: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    n: int
    throughput_per_s: Measurement
    speedup: Measurement | None
    cold_start_ms: float
    peak_memory_bytes: int | None
    size_bytes: int
    ram: Measurement
    threads: int | None = None
    device: str = "cpu"
    busy: str = ""
    speedup_cpu: Measurement | None = None
    cpu_ms: Measurement | None = None
    energy_mj: Measurement | None = None
    cost_per_million: Measurement | None = None


@dataclass(frozen=True)
class Comparison:
    """Timings of all candidates at all batch sizes; the first candidate is what the others are compared with.

    `busy` marks the figures where something else used the processors so much that they do not hold; `Timing.speedup_cpu` is then the ratio of processor times.
    `cheapest` is the batch size at which each candidate takes least money, where there is a price.
    """

    timings: tuple[Timing, ...]
    busy: str = ""
    cheapest: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        rows = [
            f"{t.name}, batch {t.batch}: {t.p50_ms:.3g} ms (p95 {t.p95_ms:.3g}, p99 {t.p99_ms:.3g}, n {t.n}), {t.throughput_per_s}"
            + (f", {latency.times(t.speedup, ' as fast')}" if t.speedup else "")
            + "".join(f", {known}" for known in (t.energy_mj, t.cost_per_million) if known is not None)
            + (f" ({t.busy})" if t.busy else "")
            for t in self.timings
        ]
        return for_console("\n".join(rows))


@typed("artifact", "baseline", "progress")
def bench(
    artifact: Artifact | str | Path,
    baseline: Artifact | Program | nn.Module | str | Path | None = None,
    *,
    runtime: str | None = None,
    precision: str | None = None,
    device: str | None = None,
    threads: int | None = None,
    baseline_threads: int | None = None,
    batch: int | Sequence[int] = 1,
    rounds: int = 15,
    turn_seconds: float = 0.2,
    lengths: dict[str, int] | None = None,
    seed: int = 0,
    timeout_s: float = 900.0,
    wait_quiet: bool = False,
    energy: bool = False,
    metering: Metering | None = None,
    price: Price | None = None,
    trust: bool = False,
    progress: Progress | bool = False,
) -> Comparison:
    """Compare latency, throughput, cold start and memory.

    Args:
        artifact: an artifact, its folder or its model file.
        baseline: what it is compared with: another artifact, or a program or module, which is run in PyTorch eager.
        runtime: run the artifact in this runtime instead of its own; the baseline keeps its own.
        precision: likewise.
        device: likewise, as the runtime calls it (`cuda`, `openvino:GPU`, …).
        threads: for both; None means those of the artifact.
        baseline_threads: of the baseline, where it is to have others.
        batch: one batch size or several.
        rounds: turns per candidate and batch size.
        turn_seconds: length of a turn.
        lengths: sizes of further dynamic dimensions, e.g. `{"length": 64}`.
        seed: of the random inputs.
        timeout_s: for loading, and for each turn.
        wait_quiet: wait, ten minutes at most, until other work on the machine is little before anything is timed.
        energy: measure joules of an inference too, a minute or more for each candidate and batch size.
        metering: how; None: as `Metering` has it.
        price: of the machine, for the money that a million inferences take; the batch size at which it is least is marked.
        trust: run files that are code (TorchScript) from a path too: whoever made them may do here what you may.
        progress: True shows every round live; or what is told of it (`core.progress.Progress`). The logger `laconic` is told in any case.

    Raises:
        BadInput: the two take different inputs, a runtime cannot run here, or a file is code and nobody said that it may run.
        WorkerFailed: one of them crashed, hung or was not loaded.
    """
    sizes = [batch] if isinstance(batch, int) else list(batch)
    _check_numbers(
        {"batch": min(sizes, default=0), "rounds": rounds, "turn_seconds": turn_seconds, "timeout_s": timeout_s, "threads": threads}
    )
    new = Artifact.open(Path(artifact), trust=trust) if isinstance(artifact, (str, Path)) else artifact
    if not isinstance(new, Artifact):
        raise BadInput(
            f"bench takes an artifact, its folder or its file; it was given an object of the class {type(new).__name__}. Export it: laconic.export."
        )
    new = new.with_target(runtime=runtime, precision=precision, threads=threads, device=device)
    check_lengths(new.inputs, new.file, lengths or {})
    if device is not None and device not in (known := runtimes.devices()):
        raise BadInput(f"'{device}' is not a device." + nearest(device, known))
    metering = (metering or Metering()) if energy or (price is not None and price.per_kwh is not None) else None
    with tempfile.TemporaryDirectory(prefix="laconic-bench-") as scratch, contextlib.ExitStack() as stack:
        told = stack.enter_context(shown(progress))
        baseline = Artifact.open(Path(baseline), trust=trust) if isinstance(baseline, (str, Path)) else baseline
        old = _baseline(baseline, new, Path(scratch), baseline_threads, lengths or {})
        candidates = [(name, item) for name, item in (("baseline", old), ("artifact", new)) if item is not None]
        workers = []
        for name, item in candidates:
            item.check_trusted()
            _check_available(item)
            if metering is not None:
                source(metering, item.target.device)
            worker = WorkerProcess(item, timeout_s=timeout_s)
            stack.callback(worker.close)
            facts = worker.start()
            workers.append((TimedWorker(name, worker), item, facts))
        timings = []
        for size in sizes:
            inputs = write_arrays(Path(scratch) / f"{size}.npz", random_inputs(new.inputs, size, lengths or {}, seed))
            if wait_quiet:
                quiet.wait_quiet(progress=told)
            timings += _timed(workers, inputs, size, rounds, turn_seconds, told, metering, price)
    return Comparison(tuple(timings), next((timing.busy for timing in timings if timing.busy), ""), _cheapest(timings))


def _cheapest(timings: Sequence[Timing]) -> dict[str, int]:
    """Return of each candidate the batch size at which a million inferences cost least; nothing of those whose cost is not known."""
    costs: dict[str, dict[int, Measurement]] = {}
    for timing in timings:
        if timing.cost_per_million is not None:
            costs.setdefault(timing.name, {})[timing.batch] = timing.cost_per_million
    return {name: size for name, known in costs.items() if (size := best(known)) is not None}


_LEAST = {"batch": 1, "rounds": 1, "turn_seconds": 0.0, "timeout_s": 1e-3, "threads": 1}


def _check_numbers(given: Mapping[str, float | None]) -> None:
    small = [
        f"{name}: {value} must be {_LEAST[name]:g} or more" for name, value in given.items() if value is not None and value < _LEAST[name]
    ]
    if small:
        raise Mistakes("bench cannot be called so:", small)


def _timed(
    workers: list[tuple[Any, Artifact, Any]],
    inputs: Path,
    size: int,
    rounds: int,
    seconds: float,
    progress: Progress,
    metering: Metering | None = None,
    price: Price | None = None,
) -> list[Timing]:
    for candidate, _, _ in workers:
        candidate.worker.use_inputs(inputs)
    run = latency.interleave([candidate for candidate, _, _ in workers], rounds, seconds, progress=progress)
    if run.dropped:
        name, text = next(iter(run.dropped.items()))
        raise WorkerFailed(f"{name} could not be timed: {text}")
    first = run.rounds[workers[0][0].name]
    timings = []
    for candidate, item, facts in workers:
        times = run.rounds[candidate.name]
        title = f"{candidate.name} ({item.target.runtime}, {item.numerics}{_threads(item, workers)})"
        ratio = None if times is first else latency.ratio(first, times)
        memory = candidate.worker.memory().get("peak_bytes")
        timing = _timing(title, item, times, size, ratio, facts["cold_start_ms"], memory)
        timings.append(_with_consumption(timing, candidate.worker, run.cpu_ns.get(candidate.name, ()), metering, price))
    base = workers[0][0].name
    marks = [latency.mark(run.machine, base, candidate.name) for candidate, _, _ in workers]
    return [replace(timing, busy=mark, speedup_cpu=ratio) for timing, (mark, ratio) in zip(timings, marks, strict=True)]


def _timing(
    title: str, item: Artifact, times: Any, size: int, ratio: Measurement | None, cold_start_ms: float, peak_bytes: int | None
) -> Timing:
    summary = latency.summarize(times)
    return Timing(
        name=title,
        batch=size,
        p50_ms=summary.p50_ms,
        p95_ms=summary.p95_ms,
        p99_ms=summary.p99_ms,
        n=summary.n,
        throughput_per_s=latency.throughput(times, size),
        speedup=ratio,
        cold_start_ms=cold_start_ms,
        peak_memory_bytes=peak_bytes,
        size_bytes=item.size_bytes,
        ram=item.ram,
        threads=item.target.threads,
        device=item.target.device,
    )


def _with_consumption(
    timing: Timing, worker: WorkerProcess, cpu_ns: Sequence[float], metering: Metering | None, price: Price | None
) -> Timing:
    """Return a timing with processor time, and with energy and money where they are asked for."""
    used = None if metering is None else joules(lambda seconds: worker.time(seconds, 1), metering, timing.device, timing.batch)
    money = None if price is None else cost(price, timing.throughput_per_s, used)
    return replace(timing, cpu_ms=latency.processor(cpu_ns, timing.batch), energy_mj=used, cost_per_million=money)


def _threads(item: Artifact, workers: list[tuple[Any, Artifact, Any]]) -> str:
    """Write the threads of one candidate, where they are not those of all."""
    if len({other.target.threads for _, other, _ in workers}) == 1:
        return ""
    threads = item.target.threads
    return ", all cores" if threads is None else f", {threads} thread{'s' * (threads != 1)}"


def _check_available(artifact: Artifact) -> None:
    target = artifact.target
    why = runtimes.runtime(target.runtime).available(target.precision, target.device)
    if why is not None:
        raise BadInput(f"{artifact.file} cannot run in {target.runtime} with {target.precision} on {target.device}: {why}")


def _baseline(baseline: Any, new: Artifact, scratch: Path, threads: int | None, lengths: dict[str, int]) -> Artifact | None:
    """Return what the artifact is compared with; unless told otherwise with its threads, and a module on its device too."""
    if baseline is None:
        return None
    threads = new.target.threads if threads is None else threads
    if not isinstance(baseline, (Artifact, Program)):
        baseline = as_module(baseline, "bench, as the baseline,")
    if isinstance(baseline, nn.Module):
        program = baseline if isinstance(baseline, Program) else _captured(baseline, new.inputs, lengths)
        baseline = save_artifact(
            program, scratch / "baseline", Target(runtimes.BASELINE, "fp32", threads, runtimes.baseline_device(new.target.device)), {}
        )
    else:
        baseline = replace(baseline, target=replace(baseline.target, threads=threads))
    mine, theirs = ([spec.shape for spec in item.inputs] for item in (new, baseline))
    if [len(shape) for shape in mine] != [len(shape) for shape in theirs]:
        raise BadInput(f"the two take different inputs: {new.file} takes {mine}, the baseline {theirs}")
    return baseline


def _captured(module: nn.Module, specs: Sequence[TensorSpec], lengths: dict[str, int]) -> Program:
    """Capture a module on random inputs of these shapes, with the same dynamic dimensions; sizes of 1 would be fixed."""
    example = tuple(torch.from_numpy(array) for array in random_inputs(specs, 2, {name: max(2, size) for name, size in lengths.items()}, 0))
    dynamic = {
        name: {axis: size for axis, size in enumerate(spec.shape) if isinstance(size, str) and (axis, size) != (0, "batch")}
        for name, spec in zip(argument_names(module, example, {}), specs, strict=True)
    }
    return capture(module, example, dynamic={name: axes for name, axes in dynamic.items() if axes})
