from __future__ import annotations

import numpy as np
import pytest

from laconic.core.errors import WorkerFailed
from laconic.core.turn import Turn
from laconic.measure.latency import MIN_RUNS, REPEATS, REPEATS_SHARE, WORK_TURNS, interleave, mark, ratio, summarize, throughput


class Machine:
    """A machine that slows down threefold while it works; candidates share it."""

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

    def work(self, turns: int, seconds: float, min_runs: int) -> list[Turn]:
        raise AssertionError("times alone tell nothing of the machine")


def test_candidates_take_turns_and_who_starts_rotates() -> None:
    machine = Machine()
    a, b, c = (Fake(name, 1000, machine) for name in "abc")
    found = interleave([a, b, c], rounds=4, seconds=0.5)
    assert machine.turns[3:] == [*"abc", *"bca", *"cab", *"abc"]
    assert a.asked[1:] == [(0.5, MIN_RUNS)] * 4
    assert {name: len(rounds) for name, rounds in found.rounds.items()} == {"a": 4, "b": 4, "c": 4}


def test_who_was_timed_a_moment_ago_is_not_warmed_up_again() -> None:
    machine = Machine()
    base, new = Fake("base", 1000, machine), Fake("new", 1000, machine)
    interleave([base, new], rounds=2, seconds=0.5, warm={"base"})
    assert machine.turns == ["new", "base", "new", "new", "base"]


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
    assert (found.value, found.unit, found.n) == (4000.0, "1/s", 3)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 4000.0 < found.high


# A busy machine -------------------------------------------------------------------------------------------------------------------------

MS = 1_000_000


class Shared:
    """A candidate whose turns wait for a core as a script says: shares of the turn, one for each time that it is asked; then none."""

    def __init__(self, name: str, cost_ns: int, waits: list[float] | float) -> None:
        self.name, self._cost = name, cost_ns
        self._waits = waits
        self.turns = self.worked = 0

    def time(self, seconds: float, min_runs: int) -> Turn:
        index = self.turns - 1  # the first is to warm up
        self.turns += 1
        waits = self._waits if isinstance(self._waits, list) else [self._waits] * 1000
        share = waits[index] if 0 <= index < len(waits) else 0.0
        slow = int(self._cost * (1 + 10 * share))
        return Turn([slow + self.turns] * min_runs, [self._cost] * min_runs, wall_ns=100 * MS, wait_ns=int(100 * MS * share))

    def work(self, turns: int, seconds: float, min_runs: int) -> list[Turn]:
        self.worked += 1
        return [Turn([1], [self._cost + i]) for i in range(turns)]


def test_a_quiet_machine_is_not_marked_and_nothing_is_repeated() -> None:
    slow, fast = Shared("slow", 20 * MS, 0.01), Shared("fast", 2 * MS, 0.002)
    found = interleave([slow, fast], rounds=10, seconds=0.1)
    assert (found.machine["busy"], found.machine["repeated"], found.machine["turns"]) == ("", 0, 20)
    assert (slow.turns, slow.worked, fast.worked) == (11, 0, 0)
    assert mark(found.machine, "slow", "fast") == ("", None)


def test_a_preempted_turn_is_taken_out_and_repeated() -> None:
    slow, fast = Shared("slow", 20 * MS, [0, 0.5, 0, 0.6, 0.4]), Shared("fast", 2 * MS, 0.0)
    found = interleave([slow, fast], rounds=8, seconds=0.1)
    assert (found.machine["busy"], found.machine["repeated"]) == ("", 3)
    assert (slow.turns, fast.turns) == (8 + 3 + 1, 8 + 1)
    assert max(max(times) for times in found.rounds["slow"]) < 20 * MS + 100
    assert [len(found.rounds[name]) for name in ("slow", "fast")] == [8, 8]
    assert ratio(found.rounds["slow"], found.rounds["fast"]).value == pytest.approx(10, rel=1e-3)


def test_of_tries_that_all_were_preempted_the_least_disturbed_counts() -> None:
    slow = Shared("slow", 20 * MS, [0.5, 0.1, 0.3])
    found = interleave([slow], rounds=10, seconds=0.1)
    assert found.machine["repeated"] == REPEATS
    assert found.rounds["slow"][0][0] == pytest.approx(20 * MS * 2, rel=1e-3)
    assert found.machine["preempted"] == {"slow": 0.1}
    assert found.machine["busy"] == ""


@pytest.mark.parametrize(("rounds", "turns"), [(10, WORK_TURNS), (4, 4)], ids=["many rounds", "few rounds"])
def test_a_machine_that_stays_busy_is_marked_with_the_ratio_of_processor_times_beside(rounds: int, turns: int) -> None:
    """Long runs are preempted and short ones are not: times say 110, the processor 10."""
    slow, fast = Shared("slow", 20 * MS, 1.0), Shared("fast", 2 * MS, 0.0)
    found = interleave([slow, fast], rounds=rounds, seconds=0.1)
    assert ratio(found.rounds["slow"], found.rounds["fast"]).value == pytest.approx(110, rel=1e-3)
    sentence, by_cpu = mark(found.machine, "slow", "fast")
    assert sentence.startswith(f"machine busy: in {rounds} of {2 * rounds} turns other work had the processor")
    assert by_cpu is not None
    assert by_cpu.value == pytest.approx(10, rel=1e-3)
    assert "by processor time 10.00× [10.00, 10.00]" in sentence
    assert mark(found.machine, "slow", "slow") == (found.machine["busy"], None)
    assert (slow.worked, fast.worked) == (1, 1)
    assert len(found.machine["cpu_ns"]["slow"]) == turns


def test_repeats_are_bounded_on_a_machine_that_stays_busy() -> None:
    candidates = [Shared(name, MS, 0.5) for name in "abc"]
    found = interleave(candidates, rounds=10, seconds=0.1)
    assert found.machine["repeated"] == REPEATS_SHARE * 30
    assert sum(c.turns for c in candidates) == 3 + 30 + 15


def test_a_candidate_that_cannot_tell_its_processor_time_keeps_its_times() -> None:
    class Dies(Shared):
        def work(self, turns: int, seconds: float, min_runs: int) -> list[Turn]:
            raise WorkerFailed("no memory left", "memory")

    class OnGpu(Shared):
        def work(self, turns: int, seconds: float, min_runs: int) -> list[Turn]:
            return [Turn([1])] * turns

    found = interleave([Shared("base", 9 * MS, 1.0), Dies("dies", MS, 1.0), OnGpu("gpu", MS, 1.0)], rounds=4, seconds=0.1)
    assert list(found.rounds) == ["base", "dies", "gpu"]
    assert found.dropped == {}
    for name in ("dies", "gpu"):
        assert mark(found.machine, "base", name) == (found.machine["busy"], None)
