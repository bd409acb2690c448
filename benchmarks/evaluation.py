"""Does evidence of one candidate at a time keep its promises? `python -m benchmarks.evaluation PART [NUMBER]`.

- `memory [candidates]`: so many candidates (60) of the digits net, int8 from ever more examples of calibration, evaluated one after the other as
  `optimize` does. Told by candidate 5, 10, …: the most processes and the most memory that this process and all it started had at once since the line
  before. Wanted: from candidate 5 to the last within ± 10 %. Memory is PSS: pages that several processes share are counted once, by their shares. On a busy
  machine a further process takes processor times now and then.
- `early [runs]`: `optimize digits` with early stopping of timing and without it, so many times (10) each, in turn. Told: the winners and the seconds.
  Wanted: the same winner, or one that is tied with it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import laconic as lc
from benchmarks.command import command
from laconic.core.progress import silent
from laconic.core.target import Target
from laconic.measure.quiet import others_share
from laconic.run import prepare
from laconic.run.evaluate import Evaluator
from laconic.run.ledger import Ledger
from laconic.run.store import RunStore
from laconic.search.judge import Judge
from laconic.search.space import baseline_recipe
from laconic.tasks import metrics

LOOK_SECONDS = 0.1
STEP = 5
RUNTIMES = ("onnxruntime", "openvino")


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
        program, _ = prepare.program(task, store, ledger, silent)
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
    """The winner and the seconds with and without early stopping."""
    runs = int(arguments[0]) if arguments else 10
    others = others_share()
    print(f"others use {100 * others:.0f} % of the processors" if others is not None else "it is not known what else the machine does")
    seconds: dict[bool, list[float]] = {True: [], False: []}
    timed: dict[bool, list[float]] = {True: [], False: []}
    same = alike = 0
    for run in range(runs):
        winners, ties = {}, {}
        for stop in (True, False) if run % 2 == 0 else (False, True):
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                options = lc.Options(early_stop=stop)
                result = lc.optimize(lc.load_task("digits"), lc.Budget(max_drop=0.5), out=Path(folder) / "run", options=options)
                seconds[stop].append(time.perf_counter() - start)
                timed[stop].append(result.data["spent"]["time"])
                winners[stop], ties[stop] = result.data["best"], set(result.data["tied"])
                settled = sum(bool(record["settled"]) for record in result.data["candidates"])
                print(
                    f"run {run + 1}, {'with' if stop else 'without'} early stopping: {winners[stop]}, {seconds[stop][-1]:.0f} s, of these timing "
                    f"{timed[stop][-1]:.0f} s; {settled} of {len(result.data['candidates'])} settled early",
                    flush=True,
                )
        same += winners[True] == winners[False]
        alike += winners[True] == winners[False] or winners[True] in ties[False] or winners[False] in ties[True]
    print(f"the same winner in {same} of {runs} runs; the same or one that is tied with it in {alike}")
    for stop, name in ((True, "with"), (False, "without")):
        print(f"{name}: median {statistics.median(seconds[stop]):.0f} s, timing {statistics.median(timed[stop]):.0f} s")


if __name__ == "__main__":
    command(__doc__, {"memory": memory, "early": early})
