"""One candidate, one call: with processes that are told apart by their number, and what is kept, resumed and left behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import laconic as lc
from laconic.core.errors import LaconicError, WorkerFailed
from laconic.core.files import read_json, write_json
from laconic.core.progress import silent
from laconic.core.turn import Turn
from laconic.deploy import process
from laconic.deploy.process import WorkerProcess
from laconic.measure import quiet
from laconic.measure.sequential import FIRST_LOOK
from laconic.run import prepare, workers
from laconic.run.evaluate import Evaluator
from laconic.run.ledger import Ledger
from laconic.run.store import RunStore
from laconic.run.timing import TimedWorker
from laconic.search.judge import Judge
from laconic.tasks import metrics
from tests.reference.arena import most_alive
from tests.run import tiny

ROUNDS = 9
RUNTIMES = ("onnxruntime", "openvino", "torchscript")
COSTS = {"torch": 4_000_000, "onnxruntime": 1_000_000, "openvino": 2_000_000, "torchscript": 8_000_000}


class Worker(WorkerProcess):
    """A real process whose times are made up, so that a busy machine decides nothing; it notes who is alive when."""

    live: ClassVar[set[str]] = set()
    most: ClassVar[list[int]] = []
    turns: ClassVar[list[tuple[str, frozenset[str]]]] = []
    dies_at: ClassVar[Mapping[str, int]] = {}

    def __init__(self, artifact: Any, **options: Any) -> None:
        super().__init__(artifact, **options)
        self.name = artifact.target.runtime
        self.live.add(self.name)
        self.most.append(len(self.live))
        self.taken = 0

    def time(self, seconds: float, min_runs: int) -> Turn:
        self.taken += 1
        if self.taken == self.dies_at.get(self.name):
            raise WorkerFailed("it died", "crash")
        self.turns.append((self.name, frozenset(self.live)))
        return Turn([COSTS[self.name] + 1000 * (self.taken % 5)] * 3, wall_ns=1)

    def close(self) -> None:
        self.live.discard(self.name)
        super().close()


# The other side without a model or its runtime, for runs in which every answer is known already.
LIGHT = """
from laconic.deploy.child import answer_requests
FACTS = {"load": {"load_ms": 1.0, "first_ms": 1.0}, "memory": {"rss_bytes": 10**7, "peak_bytes": 10**7}}
answer_requests(lambda request, _: FACTS[request["op"]])
"""


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> type[Worker]:
    """Processes that load their models."""
    Worker.live, Worker.most, Worker.turns, Worker.dies_at = set(), [], [], {}
    monkeypatch.setattr(workers, "WorkerProcess", Worker)
    return Worker


@pytest.fixture
def processes(loaded: type[Worker], monkeypatch: pytest.MonkeyPatch) -> type[Worker]:
    """Processes that load none."""
    monkeypatch.setattr(process, "command", lambda _, *arguments: [sys.executable, "-c", LIGHT, *arguments])
    return loaded


@contextlib.contextmanager
def evaluator(folder: Path, budget: lc.Budget | None = None, **options: Any) -> Iterator[Evaluator]:
    task, ledger = tiny.task(), Ledger()
    with RunStore(folder, {"name": "test"}) as store:
        program, _ = prepare.program(task, store, lc.Options(), ledger, silent)
        chosen = lc.Options(rounds=ROUNDS, turn_seconds=0.0, candidate_timeout_s=120, **options)
        one = Evaluator(store, task, metrics.of(task), program, Judge(budget or lc.Budget(max_drop=50.0)), chosen, ledger)
        with contextlib.closing(one):
            one.baselines([recipe("torch")])
            yield one


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which every recipe was built and checked, and nothing timed."""
    folder = tmp_path_factory.mktemp("built") / "run"
    before, workers.WorkerProcess = workers.WorkerProcess, Worker  # type: ignore[misc]
    try:
        with evaluator(folder) as one:
            for name in RUNTIMES:
                one.evaluate(recipe(name))
    finally:
        workers.WorkerProcess = before  # type: ignore[misc]
    for path in folder.glob("candidates/*/timing.json"):
        path.unlink()
    return folder


@pytest.fixture
def folder(built: Path, tmp_path: Path) -> Path:
    """A run of its own to go on with."""
    return Path(shutil.copytree(built, tmp_path / "run"))


def recipe(runtime: str) -> lc.Recipe:
    return lc.Recipe((), lc.Target(runtime, threads=1))


def turns_of(processes: type[Worker], name: str) -> int:
    return sum(turn == name for turn, _ in processes.turns)


@pytest.mark.slow
def test_one_call_gathers_everything_and_leaves_no_process(tmp_path: Path, loaded: type[Worker]) -> None:
    with evaluator(tmp_path / "run") as one:
        record = one.evaluate(recipe("onnxruntime"))
        assert loaded.live == {"torch"}
        assert record.status == "passed"
        assert record.comparison == "alone"
        assert record.value("speedup") == pytest.approx(4.0, rel=0.01)
        assert {"metric", "drop", "size_bytes", "latency_ms", "peak_memory_bytes", "cold_start_ms", "throughput_per_s"} <= set(
            record.measured
        )
        assert record.drop is not None
        assert record.drop.others == len(tiny.TEST) / len(tiny.VALID) != 1
        assert record.parity is not None
        with FlopCounterMode(display=False) as counted:  # one multiply-add is two of its operations
            one.task.build()(torch.zeros(1, 1, 8, 8))
        assert record.value("macs") == counted.get_total_flops() / 2
        assert record.value("flash_bytes") == record.value("size_bytes")
        program = lc.capture(one.task.build().eval(), torch.zeros(2, 1, 8, 8))
        assert record.value("ram_bytes") == most_alive(program, [torch.zeros(1, 1, 8, 8)])
    assert loaded.live == set()


@pytest.mark.slow
def test_a_further_candidate_times_nobody_again_and_finds_one_other_process(folder: Path, processes: type[Worker]) -> None:
    with evaluator(folder) as one:
        for name in RUNTIMES:
            before = {other: turns_of(processes, other) for other in RUNTIMES if other != name}
            one.evaluate(recipe(name))
            assert {other: turns_of(processes, other) for other in before} == before
    assert max(processes.most) == 2
    assert all(live <= {"torch", name} or name == "torch" for name, live in processes.turns)


@pytest.mark.slow
def test_a_pacer_is_timed_beside_a_candidate_and_tells_the_pace(folder: Path, processes: type[Worker]) -> None:
    with evaluator(folder, early_stop=False) as one:
        other, _ = (one.evaluate(recipe(name)) for name in ("onnxruntime", "openvino"))
        assert other.pace is None
        (folder / "candidates" / recipe("openvino").key / "timing.json").unlink()
        one.pacer = other
        record, before = one.evaluate(recipe("openvino")), turns_of(processes, "onnxruntime")
        assert record.pace == {"by": other.key, "speedup": pytest.approx(0.5, rel=0.01), "latency_ms": pytest.approx(1.0, rel=0.01)}
        assert record.value("speedup") == pytest.approx(2.0, rel=0.01)
        assert processes.live == {"torch"}
        assert one.evaluate(recipe("onnxruntime")) == other  # of itself there is no pace
        # what is kept tells it again, and one that is not there is not timed
        assert one.evaluate(recipe("openvino")) == record
        one.pacer = other.replace(key="elsewhere")
        assert one.evaluate(recipe("torchscript")).pace is None
        assert turns_of(processes, "onnxruntime") == before == 2 * (ROUNDS + 1)


@pytest.mark.slow
def test_clear_cases_end_early_and_say_so(folder: Path, processes: type[Worker]) -> None:
    with evaluator(folder) as one:
        best, behind, slower = (one.evaluate(recipe(name)) for name in RUNTIMES)
    assert (best.status, best.settled, turns_of(processes, "onnxruntime")) == ("passed", "", ROUNDS + 1)
    told = f"settled after {FIRST_LOOK} of {ROUNDS} rounds: "
    assert (behind.status, behind.settled) == ("passed", told + "clearly behind the best so far")
    assert (slower.status, slower.settled) == ("rejected", told + "clearly not faster than the baseline")
    assert turns_of(processes, "torchscript") == FIRST_LOOK + 1


@pytest.mark.slow
def test_early_stopping_can_be_left_out(folder: Path, processes: type[Worker]) -> None:
    with evaluator(folder, early_stop=False) as one:
        records = [one.evaluate(recipe(name)) for name in RUNTIMES]
    assert [record.settled for record in records] == [""] * 3
    assert turns_of(processes, "torchscript") == ROUNDS + 1


@pytest.mark.slow
def test_who_is_rejected_for_another_reason_has_few_rounds_and_a_ratio(folder: Path, processes: type[Worker]) -> None:
    with evaluator(folder, lc.Budget(max_drop=50.0, max_size_mb=1e-6)) as one:
        record = one.evaluate(recipe("onnxruntime"))
    assert record.status == "rejected"
    assert record.settled == f"settled after {FIRST_LOOK} of {ROUNDS} rounds: it was rejected before it was timed"
    assert record.value("speedup") == pytest.approx(4.0, rel=0.01)


@pytest.mark.slow
def test_what_is_finished_is_not_computed_again(folder: Path, processes: type[Worker], monkeypatch: pytest.MonkeyPatch) -> None:
    with evaluator(folder) as one:
        first = [one.evaluate(recipe(name)) for name in RUNTIMES]
    monkeypatch.setattr(workers, "WorkerProcess", None)
    with evaluator(folder) as one:
        assert [one.evaluate(recipe(name)) for name in RUNTIMES] == first
        assert one.passed == [record for record in first if record.status == "passed"]


@pytest.mark.slow
def test_a_failure_of_measuring_is_not_kept(folder: Path, processes: type[Worker]) -> None:
    processes.dies_at = {"onnxruntime": 3}
    with evaluator(folder) as one:
        record = one.evaluate(recipe("onnxruntime"))
        assert (record.status, [reason.rule for reason in record.reasons]) == ("failed", ["crash"])
        assert one.passed == []
        processes.dies_at = {}
        assert one.evaluate(recipe("onnxruntime")).status == "passed"


class Victim(Worker):
    """Is killed, once, by somebody else, when it is asked for something."""

    when: ClassVar[str] = ""

    def asked(self, what: str) -> None:
        if f"{self.name} {what}" == Victim.when:
            Victim.when = ""
            os.kill(self._child._process.pid, signal.SIGKILL)
            self.modules()  # meets the end of it

    def start(self, inputs: Path | None = None) -> dict[str, float]:
        self.asked("start")
        return super().start(inputs)

    def predict(self, source: Path, target: Path) -> dict[str, Any]:
        self.asked("predict")
        return super().predict(source, target)

    def time(self, seconds: float, min_runs: int) -> Turn:
        if self.taken == 3:
            self.asked("time")
        return super().time(seconds, min_runs)


@pytest.mark.slow
def test_a_kill_from_outside_costs_no_candidate(folder: Path, loaded: type[Worker], monkeypatch: pytest.MonkeyPatch) -> None:
    """Real processes, killed with SIGKILL: whose, and at what, makes no difference."""
    monkeypatch.setattr(workers, "WorkerProcess", Victim)
    one_recipe = recipe("onnxruntime")
    with evaluator(folder) as one:
        expected = one.evaluate(one_recipe)
        for when in ("onnxruntime start", "onnxruntime predict", "onnxruntime time", "torch time", "builder"):
            for name in ("check", "timing"):
                (folder / "candidates" / one_recipe.key / f"{name}.json").unlink()
            Victim.when = when
            one._warm.clear()
            if when == "torch time":
                one.workers.drop("torch-fp32-1t")
            one.builder.close()
            if when == "builder":  # while it imports
                shutil.rmtree(folder / "models" / "base" / "onnx")
                threading.Timer(0.3, os.kill, (one.builder._process()._process.pid, signal.SIGKILL)).start()
            record = one.evaluate(one_recipe)
            assert Victim.when in ("", "builder"), f"nothing was killed: {when}"
            assert (record.status, record.measured["metric"], record.measured["drop"]) == (
                "passed",
                expected.measured["metric"],
                expected.measured["drop"],
            ), when


@pytest.mark.slow
def test_a_baseline_whose_process_dies_is_started_again_once(folder: Path, processes: type[Worker]) -> None:
    with evaluator(folder) as one:
        taken = turns_of(processes, "torch")
        processes.dies_at = {"torch": taken + 2}  # of this process only: the next one begins to count anew and is asked for fewer
        record = one.evaluate(recipe("torchscript"))
        assert (record.status, record.comparison) == ("rejected", "alone")
        processes.dies_at = {"torch": 1}
        one.workers.drop("torch-fp32-1t")
        with pytest.raises(LaconicError, match="the baseline itself could not be timed: it died"):
            one.evaluate(recipe("openvino"))


@pytest.mark.slow
def test_finalists_and_the_published_one_are_timed_in_fresh_processes(folder: Path, processes: type[Worker]) -> None:
    with evaluator(folder) as one:
        records = [*one.bases, *(one.evaluate(recipe(name)) for name in RUNTIMES)]
        started = len(processes.most)
        keys = [record.key for record in records[1:3]]
        records, rounds = one.compare(records, keys)
        assert len(processes.most) == started + 3
        assert set(rounds) == {"torch-fp32-1t", *keys}
        assert {len(times) for times in rounds.values()} == {ROUNDS}
        assert processes.live == set()
        assert [record.comparison for record in records] == ["finalists", "finalists", "finalists", "alone"]
        records = one.publish(records, keys[1])
        assert [record.comparison for record in records] == ["published", "finalists", "published", "alone"]
        assert (records[2].settled, len(processes.most)) == ("", started + 5)
        kept = dict(processes.turns)
        assert one.publish(records, keys[1])[2].measured["latency_ms"] == records[2].measured["latency_ms"]
        assert dict(processes.turns) == kept


@pytest.mark.slow
@pytest.mark.parametrize("wanted", [True, False], ids=["asked to", "not asked to"])
def test_it_waits_for_a_quiet_machine_before_each_comparison(
    wanted: bool, folder: Path, processes: type[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the baseline, the candidate, and the one that is published."""
    waits: list[Any] = []
    monkeypatch.setattr(quiet, "wait_quiet", lambda **options: waits.append(options) is None)
    with evaluator(folder, wait_quiet=wanted) as one:
        records = [*one.bases, one.evaluate(recipe("onnxruntime"))]
        one.publish(records, records[1].key)
    assert [sorted(call) for call in waits] == ([["progress"]] * 3 if wanted else [])


@pytest.mark.slow
def test_a_key_that_another_recipe_has_is_not_reused(folder: Path, processes: type[Worker]) -> None:
    with evaluator(folder) as one:
        record = one.evaluate(recipe("onnxruntime"))
        path = folder / "candidates" / record.key / "check.json"
        write_json(path, {**read_json(path), "recipe": {"steps": ["fold_batch_norm"], "deploy": {}}, "title": "the other"})
        again = one.evaluate(recipe("onnxruntime"))
    assert again.status == "failed"
    assert again.reasons[0].rule == "key"
    assert "its key is that of another recipe in this folder, the other" in again.reasons[0].text
    assert read_json(path)["title"] == "the other"


@pytest.mark.slow
def test_what_a_quantity_measures_of_the_process_is_kept(folder: Path, processes: type[Worker], monkeypatch: pytest.MonkeyPatch) -> None:
    from laconic.core import quantities
    from laconic.core.records import Measurement

    asked: list[str] = []

    def carbon(evidence: quantities.Evidence) -> Measurement:
        asked.append(str(evidence.recipe["deploy"]["runtime"]))
        assert (evidence.folder / "lineage.json").parent.exists()
        assert len(evidence.rounds_ns) > 0
        return Measurement(evidence.measured["latency_ms"].value, "mg", n=len(evidence.run(0.0).times_ns))

    monkeypatch.setitem(quantities.QUANTITIES, "carbon_mg", quantities.Quantity("carbon_mg", "Carbon", "mg", measure=carbon))
    with evaluator(folder) as one:
        records = [*one.bases, one.evaluate(recipe("onnxruntime"))]
        assert asked == ["torch", "onnxruntime"]
        assert records[1].value("carbon_mg") == pytest.approx(1.0, rel=0.01)
        assert one.evaluate(recipe("onnxruntime")).value("carbon_mg") == records[1].value("carbon_mg")
        assert asked == ["torch", "onnxruntime"]
        assert one.publish(records, records[1].key)[1].value("carbon_mg") is not None
        assert sorted(asked[2:]) == ["onnxruntime", "torch"]


def test_processor_time_of_a_baseline_is_taken_once() -> None:
    class Busy:
        asked = 0

        def work(self, turns: int, seconds: float, min_runs: int) -> list[Turn]:
            self.asked += 1
            return [Turn([5], [7])] * turns

    worker, spent = Busy(), dict[str, list[Turn]]()
    one = TimedWorker("base", worker, spent)  # type: ignore[arg-type]
    assert one.work(2, 0.1, 1) == TimedWorker("base", worker, spent).work(2, 0.1, 1)  # type: ignore[arg-type]
    assert worker.asked == 1
    assert TimedWorker("new", worker).work(2, 0.1, 1) == one.work(2, 0.1, 1)  # type: ignore[arg-type]
    assert worker.asked == 2
