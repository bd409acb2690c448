"""The whole evidence of one candidate: `evaluate(recipe) -> Record`. Each part is written down as soon as it is known, and no process of it is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from laconic.core.axes import resize
from laconic.core.errors import TIME_LIMIT, LaconicError, WorkerFailed
from laconic.core.program import Program
from laconic.core.progress import Progress, silent
from laconic.core.records import to_json
from laconic.core.task import Task
from laconic.core.turn import Turn
from laconic.deploy.process import WorkerProcess
from laconic.measure import latency, quiet
from laconic.run import agreement, gate, packing, repeats
from laconic.run.blind import probed
from laconic.run.build import Builder
from laconic.run.consumed import energy_beside
from laconic.run.crew import NoCrew
from laconic.run.examples import Examples, read_arrays, read_logits, typical, write_arrays, write_examples
from laconic.run.isolation import contained, persistent
from laconic.run.judge import Judge, stop_rule
from laconic.run.ledger import Ledger
from laconic.run.measured import CandidateEvidence, measured_by_rows
from laconic.run.options import Options
from laconic.run.recipe import Recipe, unavailable
from laconic.run.record import Reason, Record, baseline_of, opponent
from laconic.run.score import compare, measure, with_others
from laconic.run.store import RunStore
from laconic.run.timing import ALONE, FINALISTS, PUBLISHED, TimedWorker, check_timed, digest, timed
from laconic.run.whole import STATE
from laconic.run.workers import Workers
from laconic.tasks.metrics import MetricSpec


class Evaluator:
    """Gathers the evidence of recipes for one task, in one run's folder, one after the other. What is there already is not computed again.

    Live processes, whatever the number of recipes: this one, the builder, one of each baseline, and the candidate's until its evidence is complete. Nothing
    is built or trained while something is timed.

    Args:
        store: the run's folder, open.
        task: with its data.
        metric: how outputs are scored.
        program: the captured model that every recipe starts from.
        judge: what is asked of candidates.
        options: how evidence is gathered.
        ledger: where the time goes.
        progress: told of every stage.
        crew: makes whoever builds ahead, of the run's own builder; None: nobody does.
    """

    def __init__(
        self,
        store: RunStore,
        task: Task,
        metric: MetricSpec,
        program: Program,
        judge: Judge,
        options: Options,
        ledger: Ledger,
        progress: Progress = silent,
        crew: Callable[[Builder], NoCrew] | None = None,
    ) -> None:
        self.store, self.task, self.metric, self.program, self.judge = store, task, metric, program, judge
        self.options, self.ledger, self.progress = options, ledger, progress
        self.builder = Builder(
            store.path("program.pt2"),
            store.path("models"),
            {},
            task,
            timeout_s=options.candidate_timeout_s,
            memory_limit_bytes=options.memory_limit_bytes,
            seed=options.seed,
            progress=progress,
            state=None if task.part is None else store.path(STATE),
        )
        try:
            self.valid = self._examples("valid")
        except BaseException:
            self.builder.close()
            raise
        self.parity = agreement.parity_inputs(program, self.valid, store.path("examples", "sizes"))
        self.builder.inputs = self.parity.files
        self.workers = Workers(self._timing_inputs(), options.candidate_timeout_s, options.memory_limit_bytes)
        self.deadline: float | None = None
        self.bases: list[Record] = []
        self.passed: list[Record] = []
        self.published: dict[str, latency.Nanoseconds] = {}  # by the key of a chosen one, the rounds of its published figures
        self.fetch: Callable[[Record], bool] = lambda record: False  # brings the files of a candidate that another driver computed
        self.pacer: Record | None = None  # timed beside each candidate, whose `Record.pace` it tells
        self._spent: dict[str, list[Turn]] = {}
        self._warm: dict[str, WorkerProcess] = {}  # baselines' processes that have been timed
        self.crew = self.builder.crew = NoCrew() if crew is None else crew(self.builder)
        self._waits = options.wait_quiet  # whoever waited in vain once does not wait for each candidate

    def _examples(self, name: str) -> Examples:
        """The batches of some of the task's data as files; a user's dataset is read by the process that builds."""
        folder = self.store.path("examples", name)
        self.builder.read_data(name, folder)
        return write_examples(self.task, getattr(self.task, name), self.program, folder)

    # The baselines ------------------------------------------------------------------------------------------------------------------

    def baselines(self, recipes: Sequence[Recipe]) -> list[Record]:
        """The evidence of what candidates are compared with, in the order of the recipes, without those that cannot be measured. To be called first.

        Raises:
            LaconicError: none can be measured.
        """
        self.progress.start("the baseline", len(recipes))
        self.bases = [self._baseline(recipe) for recipe in recipes]
        self.progress.finish()
        sound = [record for record in self.bases if record.status == "baseline"]
        if not sound:
            raise LaconicError(f"the baseline itself cannot be measured: {self.bases[0].reasons[-1].text}")
        first = self.bases.index(sound[0])
        self.bases[first] = probed(sound[0], self.metric, self._logits(sound[0].key, "valid"), self.valid, self.task, self.program)
        known = self.store.once("repeats.json", lambda: repeats.repeated(self.task, self.metric))
        self.bases[first] = repeats.noted(self.bases[first], known, self.metric, self.progress)
        return [record for record in self.bases if record.status == "baseline"]

    def _baseline(self, recipe: Recipe) -> Record:
        record = self._checked(recipe, None)
        if record.status == "passed":
            record = self._with_onnx_size(record.replace(status="baseline", notes=(*record.notes, *self._timed_at())), recipe)
            record = self._with_times(record, record)
        self.progress.advance(candidate=recipe.title)
        return record

    def _timed_at(self) -> list[str]:
        """A note on the lengths at which everything is timed, where lengths may differ."""
        if not self.lengths:
            return []
        told = ", ".join(f"{name} = {size}" for name, size in self.lengths.items())
        return [f"latency is measured at one length, {told}, that of a batch in the middle of the valid data; at others the times differ"]

    def _with_onnx_size(self, record: Record, recipe: Recipe) -> Record:
        """The record with the bytes of the model's ONNX file; where there can be none, with a note that says so."""
        try:
            with self.ledger.part("export", record.key):
                record = record.with_measured(onnx_size_bytes=self.builder.size(recipe, "onnx"))
            if not self.judge.asks("packed_size_bytes"):
                return record
            with self.ledger.part("pack", record.key):
                return record.with_measured(onnx_packed_size_bytes=packing.packed_size(self.builder.file(recipe, "onnx")))
        except LaconicError as error:
            return record.replace(notes=(*record.notes, f"sizes are compared with the file that runs, for there is no ONNX file: {error}"))

    # One candidate ------------------------------------------------------------------------------------------------------------------

    def evaluate(self, recipe: Recipe) -> Record:
        """Build a candidate, let a fresh process answer with it, score it, time it against its baseline, judge it, and end its process.

        It fails alone, whatever goes wrong with it; its record says why.

        Raises:
            LaconicError: its baseline could not be timed, twice.
        """
        base = baseline_of(recipe, self.bases)
        if base.key == recipe.key:
            return base
        if base.status != "baseline":
            told = f"the baseline with its threads on its device cannot be measured: {base.reasons[-1].text}"
            return Record.of(recipe, baseline=base.key, status=base.status, reasons=(Reason("baseline", told),))
        try:
            record = with_others(self._checked(recipe, base).replace(baseline=base.key), self.task)
            if record.status == "passed":
                record = self._with_times(record, base)
        finally:
            for key in (recipe.key, *([] if self.pacer is None else [self.pacer.key])):
                self.workers.drop(key)
        return self.heard(gate.gate(record, self.judge.rules(base)))

    def heard(self, record: Record) -> Record:
        """Take note of a judged candidate, which others are held against; returns it."""
        if record.status == "passed":
            self.passed.append(record)
        return record

    def _checked(self, recipe: Recipe, baseline: Record | None) -> Record:
        name = f"candidates/{recipe.key}/check.json"
        record = Record.of(recipe)
        if self.store.has(name):
            known = self.store.read_as(name, Record.from_json)
            if to_json(known.recipe) != to_json(record.recipe):
                told = f"its key is that of another recipe in this folder, {known.title}; nothing of that one was used for it. Try it in a folder of its own"
                return record.failed("key", told)
            if known.status not in ("failed", "unavailable", "not_tried"):
                return known
        why = unavailable(recipe)
        if why is not None:
            return record.replace(status="unavailable", reasons=(Reason("available", why),))
        if baseline is not None and self.deadline is not None and time.monotonic() > self.deadline:
            return record.not_tried("the time limit was reached before its turn")
        start = time.perf_counter()
        self.builder.deadline = None if baseline is None else self.deadline
        try:
            record = self._attempt(record, lambda: self._answered_and_scored(recipe, record, baseline))
        finally:
            self.builder.deadline = None
        record = record.replace(seconds=time.perf_counter() - start)
        self.store.write(name, record)
        self.ledger.keep(self.store)
        return record

    def _attempt(self, record: Record, work: Callable[[], Record]) -> Record:
        """Let a candidate fail alone: whatever it raises becomes its reason. What something else did to its processes is no reason, the first time."""
        try:
            return contained(lambda: persistent(work, self.progress.log))
        except WorkerFailed as error:
            if error.kind == TIME_LIMIT:
                return record.not_tried("the time limit was reached while it was built")
            return record.failed(error.kind, str(error))

    def _answered_and_scored(self, recipe: Recipe, record: Record, baseline: Record | None) -> Record:
        record = self._build_and_answer(recipe, record)
        return record if record.status != "passed" else self._with_scores(record, self.valid, "valid", "metric", "drop", baseline)

    def _build_and_answer(self, recipe: Recipe, record: Record) -> Record:
        folder = self.store.path("candidates", recipe.key)
        with self.ledger.part("export", recipe.key) as part:
            built = self.builder.build(recipe, folder / "artifact")
            part.also("recover", built.fit_s)
        artifact, outcomes, notes = built.artifact, built.outcomes, (*record.notes, *built.notes)
        record = record.replace(artifact=f"candidates/{recipe.key}/artifact", outcomes=outcomes, notes=notes).with_measured(
            size_bytes=artifact.size_bytes, macs=built.macs, flash_bytes=artifact.size_bytes, ram_bytes=artifact.ram
        )
        with self.ledger.part("check", recipe.key):
            with self.crew.paused():  # how long it takes to start is a figure, too
                facts = self.workers.start(recipe.key, artifact)
            worker = self.workers.get(recipe.key, folder / "artifact")
            memory = worker.memory()
            worker.predict(self.valid.folder, folder / "valid")
            self._predict_sizes(worker, folder / "sizes")
        rounded = any(outcome.rounds for outcome in outcomes)
        evidence, reason = agreement.compare(self.parity, folder, built.expected, artifact.outputs, recipe.deploy.precision, rounded)
        record = record.replace(parity=evidence)
        record = record.with_measured(cold_start_ms=facts["cold_start_ms"], peak_memory_bytes=memory.get("peak_bytes"))
        if self.judge.asks("packed_size_bytes"):
            with self.ledger.part("pack", recipe.key), self.crew.paused():
                record = packing.with_packed(record, artifact, self.workers)
        if reason is not None and not repeats.steady(self.program, read_arrays(self.valid.first)):
            return repeats.not_compared(record, reason)
        return record if reason is None else record.rejected(reason)

    def _predict_sizes(self, worker: WorkerProcess, folder: Path) -> None:
        if not self.parity.resized:
            return
        try:
            worker.predict(self.parity.folder, folder)
        except WorkerFailed as error:
            raise WorkerFailed(f"it answers the valid data, but not {self.parity.other_sizes}: {error}", error.kind) from error

    def _with_scores(self, record: Record, examples: Examples, data: str, metric: str, drop: str, baseline: Record | None) -> Record:
        """The record with its metric on some examples and the paired drop against the baseline's answers."""
        if baseline is None:
            self.builder.try_metric(data, self.store.path("candidates", record.key, data), examples.folder)
        logits = self._logits(record.key, data)
        score = measure(self.metric, logits, examples.target)
        if score.value is None:
            endless = f"its answers on the {data} data are not finite, so the {self.metric.name} cannot be computed"
            return record.failed("nan", score.note if bool(logits.isfinite().all()) else endless)
        base = logits if baseline is None else self._logits(baseline.key, data)
        return record.with_measured(**{metric: score, drop: compare(self.metric, base, logits, examples.target, self.options.seed)})

    def _artifact(self, key: str) -> Path:
        return self.store.path("candidates", key, "artifact")

    def _logits(self, key: str, data: str) -> Tensor:
        return read_logits(self.task, self.program, self.store.path("candidates", key, data), getattr(self.task, data))

    # Times --------------------------------------------------------------------------------------------------------------------------

    def _with_times(self, record: Record, base: Record) -> Record:
        """The record with its times against the baseline alone, and what quantities measure of its process. What went wrong is not kept."""
        name = f"candidates/{record.key}/timing.json"
        if self.store.has(name):
            timings = self.store.read(name)
        else:
            start = time.perf_counter()
            with self.ledger.part("time", record.key):
                timings = {**self._alone(record, base), "seconds": time.perf_counter() - start}
            if record.key in timings["rounds"]:
                self.store.write(name, timings)
            self.ledger.keep(self.store)
        return self._timed(record.replace(seconds=record.seconds + timings.get("seconds", 0.0)), timings, ALONE)

    def _alone(self, record: Record, base: Record) -> dict[str, Any]:
        early = self.options.early_stop and record is not base  # nothing ends a baseline's rounds
        stop = stop_rule(record, base, self.judge, self.passed, self.options.rounds) if early else None
        pacing = [self.pacer] if self.pacer is not None and self._artifact(self.pacer.key).exists() else []
        timings = self._persistently([*{one.key: one for one in (base, record, *pacing)}.values()], stop, silent)
        check_timed(timings, base.key)
        return {**timings, "pacer": pacing[0].key if pacing else None, "measured": {record.key: self._beside(record, timings)}}

    def _timed(self, record: Record, timings: dict[str, Any], comparison: str) -> Record:
        return timed(record, timings, comparison, self.options.price)

    def _beside(self, record: Record, timings: dict[str, Any]) -> dict[str, Any]:
        """What quantities measure by themselves, and the energy where it is asked for, in plain values; one that cannot says so in its place."""
        if record.key not in timings["rounds"]:
            return {}
        evidence = CandidateEvidence(
            self._timed(record, timings, ALONE),
            self._artifact(record.key),
            self.options.batch,
            timings["rounds"][record.key],
            self.workers.get(record.key, self._artifact(record.key)),
        )
        with self.crew.paused():
            return dict(to_json({**measured_by_rows(evidence), **energy_beside(evidence, self.judge, self.options, self.bases)}))

    def compare(self, records: Sequence[Record], keys: Collection[str]) -> tuple[list[Record], latency.Nanoseconds]:
        """Time these finalists and their baselines together, interleaved, in fresh processes: for the ranking.

        Returns:
            All records, and the nanoseconds of these by key and round.
        """
        entered = self._with_baselines(records, keys)
        timings = self._kept(f"timing/finalists-{digest(sorted(record.key for record in entered))}.json", entered, beside=False)
        self.workers.close()
        return [self._timed(record, timings, FINALISTS) if record in entered else record for record in records], timings["rounds"]

    def publish(self, records: Sequence[Record], key: str, beside: Collection[str] = ()) -> list[Record]:
        """Time a chosen one and its baseline once more, in fresh processes: what is published comes from here, since this comparison knows of no choice.

        Their processes stay, for the final table. `beside` are keys of what other budgets chose: all are timed in one comparison, only `key` has its figures.
        """
        chosen = sorted({key, *beside})
        timings = self._kept(f"timing/published-{digest(chosen)}.json", self._with_baselines(records, chosen), beside=True)
        self.published[key] = timings["rounds"]
        entered = self._with_baselines(records, [key])
        return [self._timed(record, timings, PUBLISHED) if record in entered else record for record in records]

    def _with_baselines(self, records: Sequence[Record], keys: Collection[str]) -> list[Record]:
        baselines = {record.baseline for record in records if record.key in keys}
        return [record for record in records if record.key in keys or record.key in baselines]

    def _kept(self, name: str, entered: Sequence[Record], beside: bool) -> dict[str, Any]:
        """A comparison in fresh processes, computed unless it is there, with what is measured beside. One in which something could not be timed is not kept."""
        if self.store.has(name):
            return dict(self.store.read(name))
        for record in entered:
            self._bring(record)
        with self.ledger.part("time"):
            self.workers.close()
            timings = self._persistently(entered, stop=None, progress=self.progress)
            for record in entered:
                check_timed(timings, record.baseline or record.key)
            timings["measured"] = {record.key: self._beside(record, timings) for record in entered if beside}
        if not timings["failed"]:
            self.store.write(name, timings)
        self.ledger.keep(self.store, at_once=True)
        return timings

    def _bring(self, record: Record) -> None:
        """Let a candidate's files be here that another driver computed: fetched from where it did, or built once more."""
        if not self._is_checked(record.made_by) and not self.fetch(record):
            self.deadline = None
            self._checked(record.made_by, opponent(record, self.bases))
            self.workers.drop(record.key)

    def _persistently(self, entered: Sequence[Record], stop: latency.Stop | None, progress: Progress) -> dict[str, Any]:
        """A comparison, made once more where something else ended a process in it, or where a baseline that could be timed before could not."""
        with self.crew.paused():
            timings = self._interleaved(entered, stop, progress)
        bases = {record.baseline for record in entered} - {None, *timings["rounds"]}
        lost = {*bases, *timings["killed"]}
        if not lost:
            return timings
        self.progress.log(f"a process was ended while it was timed ({', '.join(sorted(map(str, lost)))}); the comparison is made once more")
        for key in lost:
            self.workers.drop(str(key))
        with self.crew.paused():
            return self._interleaved(entered, stop, progress)

    def _interleaved(self, entered: Sequence[Record], stop: latency.Stop | None, progress: Progress) -> dict[str, Any]:
        """Let processes take turns. What was ended early says after how many rounds, and why."""
        if self._waits:
            self._waits = quiet.wait_quiet(progress=self.progress)
        folders = {record.key: self._artifact(record.key) for record in entered}
        failed = self.workers.start_together(folders)
        workers = [
            TimedWorker(record.key, self.workers.get(record.key, folders[record.key]), self._spent if record.baseline is None else None)
            for record in entered
            if record.key not in failed
        ]
        if not workers:
            return {"rounds": {}, "failed": failed, "killed": []}
        warm = {one.name for one in workers if self._warm.get(one.name) is one.worker}
        run = latency.interleave(workers, self.options.rounds, self.options.turn_seconds, progress, None if failed else stop, warm)
        self._warm |= {one.name: one.worker for one in workers if one.spent is not None}
        taken = max(map(len, run.rounds.values()), default=0)
        told = f"settled after {taken} of {self.options.rounds} rounds: {run.settled}" if run.settled else ""
        failed |= run.dropped
        killed = [key for key in failed if self.workers.killed(key)]
        known = {"rounds": run.rounds, "cpu_ns": run.cpu_ns, "failed": failed, "killed": killed}
        return {**known, "batch": self.options.batch, "machine": run.machine, "settled": told}

    def _timing_inputs(self) -> Path:
        """One batch of real examples, repeated or cut to the size that is timed."""
        batch, self.lengths = typical(self.program.inputs, self.valid)
        sized = resize(self.program.inputs, read_arrays(batch), {"batch": self.options.batch})
        return write_arrays(self.store.path("examples", f"timing-{self.options.batch}.npz"), sized)

    # The test data ------------------------------------------------------------------------------------------------------------------

    def test(self, baseline: Record, chosen: Sequence[Record]) -> list[Record]:
        """The chosen records with their metric on the test data, and the baseline's first. The test data is read here and nowhere else."""
        if self.task.test is None:
            return [baseline, *chosen]
        examples = self._examples("test")
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
            with self.ledger.part("test", record.key):
                self.workers.get(record.key, self._artifact(record.key)).predict(examples.folder, folder / "test")
            self.store.write(f"candidates/{record.key}/test.json", {"n": examples.n})
        return self._with_scores(record, examples, "test", "test_metric", "test_drop", baseline)

    def expect(self, recipes: Iterable[Recipe]) -> None:
        """Let the crew build what is not there of recipes that will be evaluated in this order."""
        self.crew.expect((recipe for recipe in recipes if not self._is_checked(recipe) and not unavailable(recipe)), self.deadline)

    def _is_checked(self, recipe: Recipe) -> bool:
        return self.store.has(f"candidates/{recipe.key}/check.json")

    def close(self) -> None:
        """End the processes."""
        self.crew.close()
        self.builder.close()
        self.workers.close()
