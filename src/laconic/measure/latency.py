"""Latency, compared honestly: contenders take turns, A B C A B C …, because these machines drift by a factor of three within minutes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from laconic.core.errors import WorkerFailed
from laconic.core.records import Measurement
from laconic.core.task import Progress, silent
from laconic.measure.stats import ratio_of_rounds

MIN_RUNS = 3
WARM_UP_SECONDS = 0.3


class Contender(Protocol):
    """What can be timed: it runs in a process of its own and tells how long each run took."""

    @property
    def name(self) -> str:
        """The name under which its times are kept."""

    def time(self, seconds: float, min_runs: int) -> list[int]:
        """Nanoseconds of each run, for at least so many seconds and runs."""


@dataclass(frozen=True)
class Rounds:
    """Nanoseconds per contender, per round; and the contenders that failed, with the reason."""

    rounds: dict[str, list[list[int]]]
    dropped: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Latency:
    """Milliseconds over all runs: median, 95th and 99th percentile; number of runs; number of rounds."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    n: int
    rounds: int


def interleave(contenders: Sequence[Contender], rounds: int, seconds: float, progress: Progress = silent) -> Rounds:
    """Warm each contender up, then let them take turns; who starts a round rotates.

    Args:
        contenders: at least one. One that fails is dropped with its reason; the others go on.
        rounds: turns of each.
        seconds: length of a turn, at the least; never fewer than three runs.
        progress: advanced once a round.
    """
    times: dict[str, list[list[int]]] = {c.name: [] for c in contenders}
    dropped: dict[str, str] = {}

    def turn(contender: Contender, length: float) -> list[int]:
        try:
            return contender.time(length, MIN_RUNS)
        except WorkerFailed as error:
            dropped[contender.name] = str(error)
            return []

    progress.start("timing, interleaved", rounds)
    for contender in contenders:
        turn(contender, WARM_UP_SECONDS)
    for index in range(rounds):
        shift = index % len(contenders)
        for contender in (*contenders[shift:], *contenders[:shift]):
            if contender.name not in dropped:
                times[contender.name].append(turn(contender, seconds))
        progress.advance()
    progress.finish()
    return Rounds({name: found for name, found in times.items() if name not in dropped}, dropped)


def summarize(rounds: Sequence[Sequence[int]]) -> Latency:
    """Percentiles over all runs of all rounds (nanoseconds in, milliseconds out)."""
    runs = np.concatenate([np.asarray(r, dtype=float) for r in rounds]) / 1e6
    p50, p95, p99 = np.percentile(runs, (50, 95, 99))
    return Latency(float(p50), float(p95), float(p99), len(runs), len(rounds))


def ratio(base: Sequence[Sequence[int]], other: Sequence[Sequence[int]]) -> Measurement:
    """How many times faster `other` is than `base`, with its interval; see `stats.ratio_of_rounds`."""
    return ratio_of_rounds(base, other)


def throughput(rounds: Sequence[Sequence[int]], batch: int) -> Measurement:
    """Examples per second at this batch size, from the medians of the rounds."""
    rates = np.array([batch * 1e9 / np.median(r) for r in rounds])
    picks = np.random.default_rng(0).integers(0, len(rates), (1000, len(rates)))
    low, high = np.percentile(np.median(rates[picks], axis=1), (2.5, 97.5))
    return Measurement(float(np.median(rates)), "1/s", n=len(rates), low=float(low), high=float(high))
