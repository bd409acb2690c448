"""The evidence of candidates: built, checked, timed and tested in processes of their own, each stage written down as soon as it is known."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from laconic.core.axes import resize
from laconic.core.errors import BadInput, LaconicError, WorkerFailed
from laconic.core.program import Program
from laconic.core.progress import Progress, silent
from laconic.core.task import Task
from laconic.core.turn import Turn
from laconic.deploy import runtime
from laconic.deploy.process import WorkerProcess
from laconic.measure import latency, quiet
from laconic.run import agreement
from laconic.run.blind import probed
from laconic.run.build import Builder
from laconic.run.examples import Examples, read_arrays, read_logits, write_arrays, write_examples
from laconic.run.isolation import contained
from laconic.run.ledger import Ledger
from laconic.run.recipe import Recipe
from laconic.run.record import Reason, Record
from laconic.run.score import compare, measure
from laconic.run.store import RunStore
from laconic.run.workers import Workers
from laconic.tasks.metrics import MetricSpec


@dataclass(frozen=True)
class Options:
    """How evidence is gathered.

    Args:
        batch: examples per call when latency is measured.
        rounds: turns that each contender has; each yields one median, and the interval comes from these.
        turn_seconds: how long a turn is, at the least.
        candidate_timeout_s: a candidate that needs longer to build, or to load and answer the valid data, has failed.
        memory_limit_bytes: a process that uses more is ended; None sets no limit.
        seed: of every random choice.
        wait_quiet: wait, a bounded while, until other work on the machine is little before anything is timed.

    Raises:
        BadInput: every option that makes no sense.
    """

    batch: int = 1
    rounds: int = 15
    turn_seconds: float = 0.15
    candidate_timeout_s: float = 900.0
    memory_limit_bytes: int | None = None
    seed: int = 0
    wait_quiet: bool = False

    def __post_init__(self) -> None:
        least = {"batch": 1, "rounds": 1, "turn_seconds": 0.0, "candidate_timeout_s": 0.0, "memory_limit_bytes": 1}
        mistakes = [
            f"{name}: {value} must be {low:g} or more"
            for name, low in least.items()
            if (value := getattr(self, name)) is not None and value < low
        ]
        if mistakes:
            raise BadInput("the options make no sense:\n" + "\n".join(f"  {m}" for m in mistakes))


class Session:
    """Gathers the evidence of recipes for one task, in one run's folder. What is there already is not computed again.

    Args:
        store: the run's folder, open.
        task: with its data.
        metric: how outputs are scored.
        program: the captured model that every recipe starts from.
    """

    def __init__(
        self,
        store: RunStore,
        task: Task,
        metric: MetricSpec,
        program: Program,
        options: Options,
        ledger: Ledger,
        progress: Progress = silent,
    ) -> None:
        self.store, self.task, self.metric, self.program = store, task, metric, program
        self.options, self.ledger, self.progress = options, ledger, progress
        self.valid = write_examples(task, task.valid, program, store.path("examples", "valid"))
        self.parity = agreement.parity_inputs(program, self.valid, store.path("examples", "sizes"))
        self.builder = Builder(
            store.path("program.pt2"),
            store.path("models"),
            self.parity.files,
            task,
            timeout_s=options.candidate_timeout_s,
            memory_limit_bytes=options.memory_limit_bytes,
            seed=options.seed,
            progress=progress,
        )
        self.workers = Workers(self._timing_inputs(), options.candidate_timeout_s, options.memory_limit_bytes)
        self.deadline: float | None = None
        self.rounds: dict[str, list[list[int]]] = {}  # nanoseconds of the first comparison by candidate and round

    # Stage 1: build and check -----------------------------------------------------------------------------------------------------

    def check(self, recipes: Sequence[Recipe], baselines: Sequence[Recipe]) -> list[Record]:
        """Build each recipe's artifact; load it in a fresh process; compare its outputs and score it on the valid data. The baselines come first.

        Raises:
            LaconicError: no baseline can be measured.
        """
        self.progress.start("checking candidates", len(recipes) + len(baselines))
        bases = [self._baseline(recipe) for recipe in baselines]
        if not any(record.status == "baseline" for record in bases):
            raise LaconicError(f"the baseline itself cannot be measured: {bases[0].reasons[-1].text}")
        first = next(i for i, record in enumerate(bases) if record.status == "baseline")
        bases[first] = probed(bases[first], self.metric, self._logits(bases[first].key, "valid"), self.valid, self.task, self.program)
        records = [self._compared(recipe, bases) for recipe in recipes]
        self.progress.finish()
        return [*(record for record in bases if record.status == "baseline"), *records]

    def check_more(self, recipes: Sequence[Recipe], before: Sequence[Record]) -> list[Record]:
        """The same for recipes that the records `before`, the baselines among them, gave reason to try."""
        if not recipes:
            return []
        self.progress.start("checking what the first results suggest", len(recipes))
        records = [self._compared(recipe, before) for recipe in recipes]
        self.progress.finish()
        return records

    def _baseline(self, recipe: Recipe) -> Record:
        record = self._checked(recipe, None)
        if record.status == "passed":
            record = self._with_onnx_size(record.replace(status="baseline"), recipe)
        self.progress.advance(candidate=recipe.title)
        return record

    def _with_onnx_size(self, record: Record, recipe: Recipe) -> Record:
        """The record with the bytes of the model's ONNX file; where there can be none, with a note that says so."""
        try:
            with self.ledger.part("export"):
                return record.with_measured(onnx_size_bytes=self.builder.size(recipe, "onnx"))
        except LaconicError as error:
            return record.replace(notes=(*record.notes, f"sizes are compared with the file that runs, for there is no ONNX file: {error}"))

    def _compared(self, recipe: Recipe, baselines: Sequence[Record]) -> Record:
        base = baseline_of(recipe, baselines)
        if base.status == "baseline":
            record = self._checked(recipe, base).replace(baseline=base.key)
        else:
            told = f"the baseline with its threads on its device cannot be measured: {base.reasons[-1].text}"
            record = Record.of(recipe, baseline=base.key, status=base.status, reasons=(Reason("baseline", told),))
        self.progress.advance(candidate=recipe.title)
        return record

    def _checked(self, recipe: Recipe, baseline: Record | None) -> Record:
        name = f"candidates/{recipe.key}/check.json"
        if self.store.has(name):
            record = Record.from_json(self.store.read(name))
            if record.status not in ("failed", "unavailable", "not_tried"):
                return record
        record = Record.of(recipe)
        why = runtime.runtime(recipe.deploy.runtime).available(recipe.deploy.precision, recipe.deploy.device)
        if why is not None:
            return record.replace(status="unavailable", reasons=(Reason("available", why),))
        if baseline is not None and self.deadline is not None and time.monotonic() > self.deadline:
            return record.not_tried("the time limit was reached before its turn")
        start = time.perf_counter()
        record = self._attempt(record, lambda: self._build_and_answer(recipe, record))
        if record.status == "passed":
            record = self._scored(record, baseline)
        record = record.replace(seconds=time.perf_counter() - start)
        self.store.write(name, record)
        self.ledger.keep(self.store)
        return record

    def _attempt(self, record: Record, work: Callable[[], Record]) -> Record:
        """Let a candidate fail alone: whatever it raises becomes its reason."""
        try:
            return contained(work)
        except WorkerFailed as error:
            return record.failed(error.kind, str(error))

    def _build_and_answer(self, recipe: Recipe, record: Record) -> Record:
        folder = self.store.path("candidates", recipe.key)
        with self.ledger.part("export"):
            built = self.builder.build(recipe, folder / "artifact")
        artifact, outcomes, notes = built.artifact, built.outcomes, (*record.notes, *built.notes)
        record = record.replace(artifact=f"candidates/{recipe.key}/artifact", outcomes=outcomes, notes=notes).with_measured(
            size_bytes=artifact.size_bytes
        )
        with self.ledger.part("check"):
            facts = self.workers.start(recipe.key, artifact)
            worker = self.workers.get(recipe.key, folder / "artifact")
            memory = worker.memory()
            worker.predict(self.valid.folder, folder / "valid")
            self._predict_sizes(worker, folder / "sizes")
        rounded = any(outcome.rounds for outcome in outcomes)
        evidence, reason = agreement.compare(self.parity, folder, built.expected, artifact.outputs, recipe.deploy.precision, rounded)
        record = record.replace(parity=evidence)
        record = record.with_measured(cold_start_ms=facts["cold_start_ms"], peak_memory_bytes=memory.get("peak_bytes"))
        return record if reason is None else record.rejected(reason)

    def _predict_sizes(self, worker: WorkerProcess, folder: Path) -> None:
        if not self.parity.resized:
            return
        try:
            worker.predict(self.parity.folder, folder)
        except WorkerFailed as error:
            raise WorkerFailed(f"it answers the valid data, but not {self.parity.other_sizes}: {error}", error.kind) from error

    def _scored(self, record: Record, baseline: Record | None) -> Record:
        return self._with_scores(record, self.valid, "valid", "metric", "drop", baseline)

    def _with_scores(self, record: Record, examples: Examples, data: str, metric: str, drop: str, baseline: Record | None) -> Record:
        """The record with its metric on some examples and the paired drop against the baseline's answers."""
        logits = self._logits(record.key, data)
        score = measure(self.metric, logits, examples.target)
        if score.value is None:
            return record.failed("nan", f"its answers on the {data} data are not finite, so the {self.metric.name} cannot be computed")
        base = logits if baseline is None else self._logits(baseline.key, data)
        return record.with_measured(**{metric: score, drop: compare(self.metric, base, logits, examples.target, self.options.seed)})

    def _artifact(self, key: str) -> Path:
        return self.store.path("candidates", key, "artifact")

    def _logits(self, key: str, data: str) -> Tensor:
        return read_logits(self.task, self.program, self.store.path("candidates", key, data))

    # Stage 2: time ----------------------------------------------------------------------------------------------------------------

    def time(self, records: Sequence[Record]) -> list[Record]:
        """Time the baselines and all that passed so far, interleaved, each in its own process; each is held against its own baseline."""
        entered = [record for record in records if record.status in ("baseline", "passed")]
        with self.ledger.part("time"):
            timings = self.store.once(f"timing/{self._timing_key(entered)}.json", lambda: self._interleaved(entered))
        self.rounds = timings["rounds"]
        return [_timed(record, timings, self.options).replace(timing="first") if record in entered else record for record in records]

    def time_again(self, records: Sequence[Record], keys: Collection[str]) -> list[Record]:
        """Time these few and their baselines once more, in fresh processes, after they were chosen: what is published comes from here alone.

        The best of many looks faster than it is in the comparison that chose it; this one knows of no choice.
        """
        opponents = {record.baseline for record in records if record.key in keys}
        entered = [record for record in records if record.key in keys or record.key in opponents]

        def work() -> dict[str, Any]:
            self.workers.close()
            found = self._interleaved(entered)
            for baseline in opponents:
                _check_baseline(found, baseline)  # before it is kept: another try may go well
            return found

        with self.ledger.part("time"):
            timings = self.store.once(f"timing/finalists-{self._timing_key(entered)}.json", work)
        return [_again(record, timings, self.options) if record in entered else record for record in records]

    def _timing_key(self, entered: Sequence[Record]) -> str:
        return hashlib.sha256(" ".join([*sorted(r.key for r in entered), str(self.options.batch)]).encode()).hexdigest()[:12]

    def _interleaved(self, entered: Sequence[Record]) -> dict[str, Any]:
        self.workers.keep(record.key for record in entered)
        if self.options.wait_quiet:
            quiet.wait_quiet(progress=self.progress)
        contenders, failed = [], {}
        for record in entered:
            try:
                contenders.append(TimedWorker(record.key, self.workers.get(record.key, self._artifact(record.key))))
            except LaconicError as error:
                failed[record.key] = str(error)
        run = latency.interleave(contenders, self.options.rounds, self.options.turn_seconds, progress=self.progress)
        return {"rounds": run.rounds, "failed": failed | run.dropped, "batch": self.options.batch, "machine": run.machine}

    def _timing_inputs(self) -> Path:
        """One batch of real examples, repeated or cut to the size that is timed."""
        sized = resize(self.program.inputs, read_arrays(self.valid.first), {"batch": self.options.batch})
        return write_arrays(self.store.path("examples", f"timing-{self.options.batch}.npz"), sized)

    # Stage 3: test ----------------------------------------------------------------------------------------------------------------

    def test(self, baseline: Record, chosen: Sequence[Record]) -> list[Record]:
        """The chosen records with their metric on the test data, and the baseline's first. The test data is read here and nowhere else."""
        if self.task.test is None:
            return [baseline, *chosen]
        examples = write_examples(self.task, self.task.test, self.program, self.store.path("examples", "test"))
        tested: list[Record] = []
        self.progress.start("final table on test data", len(chosen) + 1)
        for record in (baseline, *chosen):
            before = tested[0] if tested else None
            tested.append(self._attempt(record, lambda r=record, b=before: self._tested(r, examples, b)))  # type: ignore[misc]
            self.progress.advance(candidate=record.title)
        self.progress.finish()
        return tested

    def _tested(self, record: Record, examples: Examples, baseline: Record | None) -> Record:
        folder = self.store.path("candidates", record.key)
        if not (folder / "test.json").exists():
            with self.ledger.part("test"):
                self.workers.get(record.key, self._artifact(record.key)).predict(examples.folder, folder / "test")
            self.store.write(f"candidates/{record.key}/test.json", {"n": examples.n})
        return self._with_scores(record, examples, "test", "test_metric", "test_drop", baseline)

    def close(self) -> None:
        """End the processes."""
        self.builder.close()
        self.workers.close()


@dataclass(frozen=True)
class TimedWorker:
    """A worker under the name by which timings are kept."""

    name: str
    worker: WorkerProcess

    def time(self, seconds: float, min_runs: int) -> Turn:
        """See `latency.Timed`."""
        return self.worker.time(seconds, min_runs)

    def work(self, turns: int, seconds: float, min_runs: int) -> list[Turn]:
        """See `latency.Timed`."""
        return self.worker.work(turns, seconds, min_runs)


def baseline_of(recipe: Recipe, records: Sequence[Record]) -> Record:
    """Return the baseline with the recipe's threads and device; the first where there is none such. Baselines name no baseline themselves."""
    baselines = [record for record in records if record.baseline is None]
    place = (recipe.deploy.threads, recipe.deploy.device)
    return next((r for r in baselines if (r.recipe["deploy"]["threads"], r.recipe["deploy"]["device"]) == place), baselines[0])


def _timed(record: Record, timings: Any, options: Options) -> Record:
    baseline = record.baseline or record.key
    _check_baseline(timings, baseline)
    if record.key not in timings["rounds"]:
        return record.failed("crash", timings["failed"].get(record.key, "it was not timed"))
    rounds = timings["rounds"][record.key]
    busy, speedup_cpu = latency.mark(timings.get("machine", {}), baseline, record.key)
    ratio = latency.ratio(timings["rounds"][baseline], rounds)
    return record.replace(busy=busy).with_measured(speedup=ratio, speedup_cpu=speedup_cpu, **latency.measured(rounds, options.batch))


def _check_baseline(timings: Any, baseline: str | None) -> None:
    if baseline not in timings["rounds"]:
        raise LaconicError(f"the baseline itself could not be timed: {timings['failed'].get(baseline, 'it left no times')}")


def _again(record: Record, timings: Any, options: Options) -> Record:
    """The record with the figures of the second comparison, which remembers what the first one said."""
    first = record.measured.get("first_speedup") or record.speedup
    return _timed(record, timings, options).replace(timing="finalists").with_measured(first_speedup=first)
