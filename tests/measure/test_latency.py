from __future__ import annotations

import numpy as np
import pytest

from laconic.core.errors import WorkerFailed
from laconic.measure.latency import MIN_RUNS, interleave, ratio, summarize, throughput


class Machine:
    """A machine that slows down threefold while it works; contenders share it."""

    def __init__(self) -> None:
        self.turns: list[str] = []

    @property
    def slowness(self) -> float:
        return 1 + 0.05 * len(self.turns)


class Fake:
    def __init__(self, name: str, cost_ns: int, machine: Machine, fails_at: int | None = None) -> None:
        self.name, self._cost, self._machine, self._fails_at = name, cost_ns, machine, fails_at
        self.asked: list[tuple[float, int]] = []

    def time(self, seconds: float, min_runs: int) -> list[int]:
        self.asked.append((seconds, min_runs))
        if len(self.asked) == self._fails_at:
            raise WorkerFailed("it died", "crash")
        self._machine.turns.append(self.name)
        return [int(self._cost * self._machine.slowness)] * min_runs


def test_contenders_take_turns_and_who_starts_rotates() -> None:
    machine = Machine()
    a, b, c = (Fake(name, 1000, machine) for name in "abc")
    found = interleave([a, b, c], rounds=4, seconds=0.5)
    assert machine.turns[3:] == [*"abc", *"bca", *"cab", *"abc"]
    assert a.asked[1:] == [(0.5, MIN_RUNS)] * 4
    assert {name: len(rounds) for name, rounds in found.rounds.items()} == {"a": 4, "b": 4, "c": 4}


def test_the_ratio_survives_a_machine_that_drifts() -> None:
    machine = Machine()
    slow, fast = Fake("slow", 2_000_000, machine), Fake("fast", 1_000_000, machine)
    found = interleave([slow, fast], rounds=20, seconds=0.1)
    assert ratio(found.rounds["slow"], found.rounds["fast"]).value == pytest.approx(2.0, rel=0.02)
    first, last = (np.median(found.rounds["slow"][i]) for i in (0, -1))
    assert last > 2 * first


@pytest.mark.parametrize("at", [1, 3])
def test_one_that_fails_is_dropped_and_the_others_go_on(at: int) -> None:
    machine = Machine()
    found = interleave([Fake("good", 10, machine), Fake("bad", 10, machine, fails_at=at)], rounds=5, seconds=0.1)
    assert found.dropped == {"bad": "it died"}
    assert list(found.rounds) == ["good"]
    assert len(found.rounds["good"]) == 5


def test_a_summary_is_numpys_percentiles_in_milliseconds() -> None:
    rng = np.random.default_rng(0)
    rounds = [rng.integers(1_000_000, 9_000_000, n).tolist() for n in (5, 50, 500)]
    flat = np.concatenate(rounds)
    found = summarize(rounds)
    assert (found.p50_ms, found.p95_ms, found.p99_ms) == pytest.approx(tuple(np.percentile(flat, (50, 95, 99)) / 1e6))
    assert (found.n, found.rounds) == (555, 3)


def test_throughput_counts_examples() -> None:
    found = throughput([[2_000_000] * 3, [4_000_000] * 3, [2_000_000]], batch=8)
    assert found.value == 4000.0
    assert (found.low, found.high, found.unit) == (2000.0, 4000.0, "1/s")
