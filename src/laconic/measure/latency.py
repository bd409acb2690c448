"""Latency, compared honestly.

Candidates take turns, A B C A B C …, because these machines drift by a factor of three within minutes; a turn during which something else had the processor is
taken again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from laconic.core.errors import WorkerFailed
from laconic.core.progress import Progress, silent
from laconic.core.records import Measurement
from laconic.core.turn import Turn
from laconic.measure import busy
from laconic.measure.stats import median_of_rounds, ratio_of_rounds
from laconic.measure.ticks import Ticks, stolen_share

MIN_RUNS = 3
WARM_UP_SECONDS = 0.1
# A preempted turn is taken again so often; on a machine that is never quiet, all repeats together are at most this share of the turns.
REPEATS = 2
REPEATS_SHARE = 0.5
# Turns in which processor time is taken where the machine is busy, never more than there were rounds, and the length of one.
WORK_TURNS = 7
WORK_SECONDS = 0.1


class Timed(Protocol):
    """What can be timed: it runs in a process of its own and tells how long each run took."""

    @property
    def name(self) -> str:
        """The name under which its times are kept."""

    def time(self, seconds: float, min_runs: int) -> Turn | list[int]:
        """Run for at least so many seconds and runs. Nanoseconds of each run alone say nothing of the machine."""

    def work(self, turns: int, seconds: float, min_runs: int) -> list[Turn]:
        """Take turns of which the processor time counts. It is asked only for those that tell `Turn`s."""


Nanoseconds = Mapping[str, Sequence[Sequence[int]]]
Stop = Callable[[Nanoseconds], "str | None"]


@dataclass(frozen=True)
class Rounds:
    """Nanoseconds per candidate, per round; the candidates that failed, with the reason; what the machine did meanwhile; why no more rounds were needed; and
    the median processor time of a run, in nanoseconds, per candidate, per round, of those that tell it.

    `machine` has the keys of `busy.summarize`, and on a busy machine `cpu_ns`: per candidate the processor time of each run in some turns.
    """

    rounds: dict[str, list[list[int]]]
    dropped: dict[str, str] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    settled: str = ""
    cpu_ns: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Latency:
    """Milliseconds over all runs: median, 95th and 99th percentile; number of runs; number of rounds."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    n: int
    rounds: int


def interleave(
    candidates: Sequence[Timed],
    rounds: int,
    seconds: float,
    progress: Progress = silent,
    stop: Stop | None = None,
    warm: Collection[str] = (),
) -> Rounds:
    """Warm each candidate up, then let them take turns; who starts a round rotates.

    A turn that was preempted is taken again at once, a bounded number of times; of its tries the least disturbed counts. Where too many remain, the machine was
    busy, and processor times are taken beside.

    Args:
        candidates: at least one. One that fails is dropped with its reason; the others go on.
        rounds: turns of each.
        seconds: length of a turn, at the least; never fewer than three runs.
        progress: advanced once a round.
        stop: asked after each round but the last with the nanoseconds so far; why no more are needed, or None. It is not asked where a candidate failed, and
            not while the machine is busy, whose narrow intervals lie.
        warm: names of those that were timed a moment ago, in the same processes, and need no warming up.
    """
    table, settled = _Table(candidates, rounds), None
    progress.start("timing, interleaved", rounds)
    for candidate in candidates:
        if candidate.name not in warm:
            table.warm_up(candidate)
    for index in range(rounds):
        shift = index % len(candidates)
        for candidate in (*candidates[shift:], *candidates[:shift]):
            table.take(candidate, seconds)
        progress.advance()
        settled = stop(table.times()) if stop is not None and index + 1 < rounds and table.undisturbed() else None
        if settled is not None:
            break
    progress.finish()
    result = replace(table.finish(), settled=settled or "")
    if result.machine["busy"]:
        progress.log(result.machine["busy"])
    return result


class _Table:
    """The turns of all candidates, filled one by one."""

    def __init__(self, candidates: Sequence[Timed], rounds: int) -> None:
        self._candidates = candidates
        self._turns: dict[str, list[Turn]] = {candidate.name: [] for candidate in candidates}
        self._dropped: dict[str, str] = {}
        self._start = Ticks.now()
        self._repeated, self._budget = 0, int(REPEATS_SHARE * rounds * len(candidates))
        self._work_turns = min(WORK_TURNS, rounds)

    def warm_up(self, candidate: Timed) -> None:
        self._try(candidate, WARM_UP_SECONDS)

    def take(self, candidate: Timed, seconds: float) -> None:
        tries: list[Turn] = []
        while candidate.name not in self._dropped:
            turn = self._try(candidate, seconds)
            if turn is None:
                return
            tries.append(turn)
            if not busy.preempted(turn) or len(tries) > REPEATS or self._repeated >= self._budget:
                self._turns[candidate.name].append(min(tries, key=_disturbance))
                return
            self._repeated += 1

    def _try(self, candidate: Timed, seconds: float) -> Turn | None:
        try:
            result = candidate.time(seconds, MIN_RUNS)
        except WorkerFailed as error:
            self._dropped[candidate.name] = str(error)
            return None
        return result if isinstance(result, Turn) else Turn(result)

    def times(self) -> dict[str, list[list[int]]]:
        """Return nanoseconds so far, of those that did not fail."""
        return {name: [list(turn.times_ns) for turn in turns] for name, turns in self._turns.items() if name not in self._dropped}

    def undisturbed(self) -> bool:
        """Return whether nobody failed and hardly a turn was preempted."""
        return not self._dropped and not any(busy.disturbed(turns) for turns in self._turns.values())

    def finish(self) -> Rounds:
        left = {name: turns for name, turns in self._turns.items() if name not in self._dropped}
        machine = busy.summarize(left, self._repeated, stolen_share(self._start, Ticks.now()))
        if machine["busy"]:
            machine["cpu_ns"] = self._work()
        spent = {name: _spent(turns) for name, turns in left.items()}
        return Rounds(self.times(), self._dropped, machine, cpu_ns={name: each for name, each in spent.items() if each})

    def _work(self) -> dict[str, list[list[int]]]:
        """Return processor time per contender, turn and run; none of one that fails at it: its times stand."""
        result = {}
        for candidate in self._candidates:
            if candidate.name not in self._dropped:
                with contextlib.suppress(WorkerFailed):
                    result[candidate.name] = [list(turn.cpu_ns) for turn in candidate.work(self._work_turns, WORK_SECONDS, MIN_RUNS)]
        return result


def _spent(turns: Sequence[Turn]) -> list[float]:
    """Return the median processor time of a run in each turn; nothing where one turn does not tell it, or it tells none."""
    medians = [float(np.median(turn.cpu_ns)) if len(turn.cpu_ns) else 0.0 for turn in turns]
    return medians if all(medians) else []


def _disturbance(turn: Turn) -> float:
    waited = busy.waited_share(turn)
    return waited if waited is not None else float(turn.involuntary or 0)


def summarize(rounds: Sequence[Sequence[int]]) -> Latency:
    """Return percentiles over all runs of all rounds (nanoseconds in, milliseconds out)."""
    runs = np.concatenate([np.asarray(r, dtype=float) for r in rounds]) / 1e6
    p50, p95, p99 = np.percentile(runs, (50, 95, 99))
    return Latency(float(p50), float(p95), float(p99), len(runs), len(rounds))


def measured(rounds: Sequence[Sequence[int]], batch: int) -> dict[str, Measurement]:
    """Return what the times alone tell, by the names of `core.quantities`: median and percentiles over all runs, and examples per second.

    The interval of the median is that of the throughput, turned over: one is the batch size divided by the other.

    Args:
        rounds: nanoseconds of each run, by round.
        batch: examples per run.
    """
    times, rate = summarize(rounds), throughput(rounds, batch)
    low, high = (None if not end or rate.value is None else times.p50_ms * rate.value / end for end in (rate.high, rate.low))
    return {
        "latency_ms": Measurement(times.p50_ms, "ms", times.n, low, high),
        "latency_p95_ms": Measurement(times.p95_ms, "ms", times.n),
        "latency_p99_ms": Measurement(times.p99_ms, "ms", times.n),
        "throughput_per_s": rate,
    }


def processor(cpu_ns: Sequence[float], batch: int) -> Measurement | None:
    """Return the processor time of an example in milliseconds, from the medians of the rounds; None where it was not told.

    Args:
        cpu_ns: processor time of a run, by round.
        batch: examples per run.
    """
    return median_of_rounds([each / batch / 1e6 for each in cpu_ns], "ms") if cpu_ns else None


def ratio(base: Sequence[Sequence[int]], other: Sequence[Sequence[int]]) -> Measurement:
    """Return how many times faster `other` is than `base`, with its interval; see `stats.ratio_of_rounds`."""
    return ratio_of_rounds(base, other)


def mark(machine: Mapping[str, Any], base: str, other: str) -> tuple[str, Measurement | None]:
    """Return the sentence that marks the times of `other` where the machine was busy, and how many times less processor time it takes than `base`.

    Args:
        machine: of `Rounds`.
        base: name of a candidate.
        other: likewise; of `base` itself there is no ratio.

    Returns:
        The sentence, with the ratio in it, and the ratio; an empty one and None where the machine was quiet. None also where processor time does not tell
        what a run costs: on a GPU, or because it could not be taken.
    """
    sentence, spent = machine.get("busy", ""), machine.get("cpu_ns", {})
    if not sentence or other == base or not all(_tells(spent.get(name, [])) for name in (base, other)):
        return sentence, None
    result = ratio_of_rounds(spent[base], spent[other])
    return f"{sentence}; by processor time {times(result)}", result


def _tells(turns: Sequence[Sequence[int]]) -> bool:
    return bool(turns) and all(len(turn) > 0 and np.median(turn) > 0 for turn in turns)


def times(ratio: Measurement, what: str = "") -> str:
    """Write a ratio with its interval.

    >>> times(Measurement(2.0, "x", low=1.5, high=2.25), " as fast")
    '2.00× as fast [1.50, 2.25]'
    """
    interval = "" if ratio.low is None or ratio.high is None else f" [{ratio.low:.2f}, {ratio.high:.2f}]"
    return f"{ratio.value:.2f}×{what}{interval}"


def throughput(rounds: Sequence[Sequence[int]], batch: int) -> Measurement:
    """Return examples per second at this batch size, from the medians of the rounds."""
    return median_of_rounds([float(batch * 1e9 / np.median(r)) for r in rounds], "1/s")
