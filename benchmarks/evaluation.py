"""Does evidence of one candidate at a time keep its promises? `python -m benchmarks.evaluation PART [NUMBER]`.

- `memory [candidates]`: so many candidates (60) of the digits net, int8 from ever more examples of calibration, evaluated one after the other as
  `optimize` does. Told by candidate 5, 10, …: the most processes and the most memory that this process and all it started had at once since the line
  before. Wanted: from candidate 5 to the last within ± 10 %. Memory is PSS: pages that several processes share are counted once, by their shares. On a busy
  machine a further process takes processor times now and then.
- `early [runs]`: `optimize digits` without early stopping, so many times (10); what is built is built once, what is timed is timed anew in each run. Then
  the rule that stops early is applied to the rounds of that same run, one by one as they came. Told: the seconds that it would have saved, and whether the
  winner of full timing is among the finalists of early stopping. Both see the same rounds, so that nothing but the rule makes a difference.
- `pace FOLDER [times]`: of a finished run the baseline, candidates whose sizes were solved for, and the model as it is beside which they were timed
  (`Record.pace`), so many times (8) in one interleaved comparison of 15 rounds, on random inputs (texts of 24 tokens). Told by comparison: milliseconds of the
  model as it is, how many times faster than the baseline all are, and how many times faster than the model as it is the candidates are.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import laconic as lc
from benchmarks.command import command
from laconic.core.files import read_json
from laconic.core.progress import silent
from laconic.core.target import Target
from laconic.deploy.artifact import Artifact
from laconic.deploy.process import WorkerProcess
from laconic.measure import latency
from laconic.measure.quiet import others_share
from laconic.run import prepare
from laconic.run.evaluate import Evaluator
from laconic.run.gate import gate
from laconic.run.inputs import lengths_of, random_inputs, write_arrays
from laconic.run.judge import stop_rule
from laconic.run.ledger import FILE as LEDGER
from laconic.run.ledger import Ledger
from laconic.run.record import Record
from laconic.run.store import RESULT, RunStore
from laconic.run.timing import ALONE, TimedWorker, timed
from laconic.search.judge import Judge
from laconic.search.select import finalists
from laconic.search.space import baseline_recipe
from laconic.tasks import metrics

LOOK_SECONDS = 0.1
ROUNDS, TURN_SECONDS, LENGTH = 15, 0.2, 24
STEP = 5
RUNTIMES = ("onnxruntime", "openvino")
BUDGET = lc.Budget(max_drop=0.5)


class Watch(threading.Thread):
    """Looks at this process and all it started, ten times a second; `most` tells the highest numbers and forgets them."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._ended = threading.Event()
        self._processes, self._bytes = 0, 0

    def run(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            tree = family(os.getpid())
            self._processes = max(self._processes, len(tree))
            self._bytes = max(self._bytes, sum(map(pss_bytes, tree)))

    def most(self) -> tuple[int, int]:
        """Processes and bytes, the most since it was asked last."""
        most = self._processes, self._bytes
        self._processes = self._bytes = 0
        return most

    def end(self) -> None:
        self._ended.set()


def family(pid: int) -> list[int]:
    """A process and all that it started, and they."""
    found = [pid]
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in path.read_text(encoding="ascii").split():
                found += family(int(child))
    return found


def pss_bytes(pid: int) -> int:
    """The proportional set size of a process; 0 where it has ended."""
    with contextlib.suppress(OSError, IndexError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                return 1024 * int(line.split()[1])
    return 0


def recipes(n: int) -> Iterator[lc.Recipe]:
    """So many recipes that cost about the same."""
    for index in range(n):
        target = RUNTIMES[index % len(RUNTIMES)]
        yield lc.Recipe((lc.Quantize(target=target, examples=64 + index),), Target(target, threads=1))


def memory(arguments: list[str]) -> None:
    """Processes and memory over many candidates."""
    n = int(arguments[0]) if arguments else 60
    task = lc.load_task("digits")
    assert task.plan is not None
    task.plan = dataclasses.replace(task.plan, epochs=2)
    watch, ledger, told = Watch(), Ledger(), []
    with tempfile.TemporaryDirectory() as folder, RunStore(Path(folder) / "run", {"benchmark": "memory"}) as store:
        program, _ = prepare.program(task, store, lc.Options(), ledger, silent)
        evaluator = Evaluator(
            store, task, metrics.of(task), program, Judge(lc.Budget(max_drop=100.0)), lc.Options(turn_seconds=0.02), ledger
        )
        with contextlib.closing(evaluator):
            evaluator.baselines([baseline_recipe(1, "cpu")])
            watch.start()
            start = time.perf_counter()
            for index, recipe in enumerate(recipes(n), 1):
                record = evaluator.evaluate(recipe)
                if record.status not in ("passed", "rejected"):
                    print(f"  {record.title}: {record.status}: {record.reasons[-1].text}")
                if index % STEP == 0 or index == n:
                    told.append(watch.most())
                    seconds = (time.perf_counter() - start) / index
                    print(
                        f"candidate {index:3}: {told[-1][0]} processes, {told[-1][1] / 1e6:.0f} MB (PSS), {seconds:.1f} s each", flush=True
                    )
            watch.end()
    for name, values in zip(("processes", "bytes"), zip(*told, strict=True), strict=True):
        middle = statistics.median(values)
        spread = max(abs(value / middle - 1) for value in values)
        print(f"{name}: within ± {100 * spread:.0f} % of the median; the last over the first {values[-1] / values[0]:.3f}")


def early(arguments: list[str]) -> None:
    """The winner with full timing, and whether early stopping would have kept it."""
    runs = int(arguments[0]) if arguments else 10
    others = others_share()
    print(f"others use {100 * others:.0f} % of the processors" if others is not None else "it is not known what else the machine does")
    kept = same = 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        for run in range(1, runs + 1):
            data = lc.optimize(lc.load_task("digits"), BUDGET, out=folder, options=lc.Options(early_stop=False)).data
            full, stopped = replay(folder, data, early_stop=False), replay(folder, data, early_stop=True)
            names = [{record.key for record in finalists(one.records, one.budget)} for one in (full, stopped)]
            kept += data["best"] in names[1]
            same += names[0] == names[1]
            among = "among" if data["best"] in names[1] else "NOT among"
            print(
                f"run {run}: winner {data['best']}, {among} the finalists of early stopping ({', '.join(sorted(names[1]))}); "
                f"{stopped.settled} of {len(stopped.records) - 1} settled early, {stopped.turns} of {full.turns} turns taken; "
                f"{sum(bool(record.busy) for record in full.records)} marked busy",
                flush=True,
            )
            for path in (*folder.glob("candidates/*/timing.json"), *folder.glob("timing/*"), folder / RESULT, folder / LEDGER):
                path.unlink(missing_ok=True)
    print(
        f"the winner of full timing is among the finalists of early stopping in {kept} of {runs} runs; the finalists are the same in {same}"
    )


def pace(arguments: list[str]) -> None:
    """What a runtime gains over the baseline and what sizes gain within it, again and again."""
    folder, times = Path(arguments[0]), int(arguments[1]) if arguments[1:] else 8
    records = [Record.from_json(item) for item in read_json(folder / RESULT)["candidates"]]
    paced = [record for record in records if record.pace and record.artifact and record.status in ("passed", "rejected")]
    if not paced:
        raise SystemExit(f"no candidate in {folder} was timed beside the model as it is")
    by, base = paced[0].pace["by"], paced[0].baseline  # type: ignore[index]
    keys = [str(base), by, *(record.key for record in paced if record.pace and record.pace["by"] == by and record.baseline == base)]
    with contextlib.ExitStack() as stack:
        workers = []
        for key in keys:
            artifact = Artifact.open(folder / "candidates" / key / "artifact", trust=True)
            arrays = random_inputs(artifact.inputs, 1, dict.fromkeys(lengths_of(artifact.inputs), LENGTH), 0)
            worker = WorkerProcess(artifact, timeout_s=600)
            stack.callback(worker.close)
            worker.start(write_arrays(Path(stack.enter_context(tempfile.TemporaryDirectory())) / "inputs.npz", arrays))
            workers.append(TimedWorker(key, worker))
        for number in range(1, times + 1):
            rounds = latency.interleave(workers, ROUNDS, TURN_SECONDS).rounds
            over_base, over_whole = ([f"{latency.ratio(rounds[one], rounds[key]).value:.2f}" for key in keys] for one in keys[:2])
            whole_ms = latency.summarize(rounds[by]).p50_ms
            print(
                f"{number}: {whole_ms:.3f} ms; over the baseline {', '.join(over_base[1:])}; over the model as it is {', '.join(over_whole[2:])}",
                flush=True,
            )


@dataclasses.dataclass
class Replay:
    """What becomes of a run's rounds: its records, how many candidates settled early, and how many turns were taken."""

    budget: lc.Budget
    records: list[Record]
    settled: int = 0
    turns: int = 0


def replay(folder: Path, data: Mapping[str, Any], *, early_stop: bool) -> Replay:
    """Judge each candidate by its rounds in the order in which they came, as the evaluator does."""
    metric = metrics.of(lc.load_task("digits"))
    budget = BUDGET.filled(metric.name, metric.scale == 100)
    judge = Judge(budget)
    base = Record.from_json(data["baseline"])
    base = timed(base, read_json(folder / "candidates" / base.key / "timing.json"), ALONE)
    result = Replay(budget, [base])
    for item in data["candidates"]:
        check, times = (folder / "candidates" / item["key"] / name for name in ("check.json", "timing.json"))
        if not times.exists():
            continue
        record = Record.from_json(read_json(check)).replace(baseline=base.key)
        timings = read_json(times)
        if early_stop:
            passed = [one for one in result.records if one.status == "passed"]
            timings = shortened(timings, record, base, judge, passed)
        result.settled += bool(timings["settled"])
        result.turns += len(timings["rounds"][record.key])
        record = gate(timed(record, timings, ALONE), judge.rules(base))
        result.records.append(record)
    return result


def shortened(timings: dict[str, Any], record: Record, base: Record, judge: Judge, passed: Sequence[Record]) -> dict[str, Any]:
    """The timings up to the round after which no more would have been taken."""
    planned, stop = len(timings["rounds"][record.key]), stop_rule(record, base, judge, passed, len(timings["rounds"][record.key]))
    for n in range(1, planned):
        so_far = {key: rounds[:n] for key, rounds in timings["rounds"].items()}
        if (why := stop(so_far)) is not None:
            return {**timings, "rounds": so_far, "settled": why}
    return timings


if __name__ == "__main__":
    command(__doc__, {"memory": memory, "early": early, "pace": pace})
