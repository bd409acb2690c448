from __future__ import annotations

import math
from typing import Any

import pytest

from laconic.core.errors import BadInput
from laconic.core.records import Measurement
from laconic.run.gate import gate, parity
from laconic.run.record import Reason, Record
from laconic.search.budget import Budget
from laconic.search.select import choose, confirm, frontier


def record(key: str, speed: float = 2.0, drop: float = 0.0, size: int = 1_000_000, status: str = "passed", **more: Any) -> Record:
    return Record(
        key,
        key.title(),
        {},
        status=status,
        size_bytes=size,
        latency={"p50_ms": 10 / speed},
        speedup=Measurement(speed, "x", low=speed * 0.9, high=speed * 1.1),
        drop=Measurement(drop, "points", n=100, low=drop - 1, high=drop + 1),
        peak_memory_bytes=size * 2,
        **more,
    )


BASE = record("base", speed=1.0, status="baseline")


def judged(budget: Budget, *records: Record) -> list[Record]:
    return [BASE, *(gate(r, budget.rules(BASE)) for r in records)]


@pytest.mark.parametrize(
    ("limits", "mistakes"),
    [
        ({"max_drop": -1}, ["max_drop: -1"]),
        ({"max_drop": math.nan}, ["max_drop: nan"]),
        ({"min_speedup": 0}, ["min_speedup: 0"]),
        ({"max_latency_ms": "fast"}, ["max_latency_ms: 'fast'"]),
        ({"max_size_mb": True}, ["max_size_mb: True"]),
        ({"objective": "beauty", "min_speedup": math.inf}, ["objective: 'beauty'", "min_speedup: inf"]),
    ],
    ids=str,
)
def test_nonsense_is_refused_all_at_once(limits: dict[str, Any], mistakes: list[str]) -> None:
    with pytest.raises(BadInput) as caught:
        Budget(**limits)
    assert all(m in str(caught.value) for m in mistakes)


def test_unknown_limits_name_the_nearest() -> None:
    with pytest.raises(BadInput, match=r"budget\.max_dorp: unknown limit\. Did you mean 'max_drop'"):
        Budget.from_plain({"max_dorp": 1})


@pytest.mark.parametrize(
    ("budget", "good", "bad", "rule"),
    [
        (Budget(max_drop=0.5), record("a", drop=0.5), record("a", drop=0.51), "metric"),
        (Budget(min_speedup=1.8), record("a", speed=2.0), record("a", speed=1.9), "budget:min_speedup"),
        (Budget(max_latency_ms=5), record("a", speed=2.0), record("a", speed=1.9), "budget:max_latency_ms"),
        (Budget(max_size_mb=1), record("a"), record("a", size=1_000_001), "budget:max_size_mb"),
        (Budget(), record("a", speed=1.2), record("a", speed=1.05), "better"),
        (Budget(objective="size"), record("a", size=999_999), record("a"), "better"),
        (Budget(objective="memory"), record("a", size=999_999), record("a"), "better"),
    ],
    ids=["drop", "speedup", "latency", "size", "not-faster", "not-smaller", "not-leaner"],
)
def test_each_limit_alone(budget: Budget, good: Record, bad: Record, rule: str) -> None:
    found = judged(budget, good, bad)
    assert found[1].status == "passed"
    assert (found[2].status, [reason.rule for reason in found[2].reasons]) == ("rejected", [rule])


def test_all_limits_together_are_all_told() -> None:
    budget = Budget(max_drop=0.1, min_speedup=4, max_latency_ms=1, max_size_mb=0.5)
    _, found = judged(budget, record("a", speed=0.5, drop=1))
    assert [reason.rule for reason in found.reasons] == [
        "metric",
        "budget:min_speedup",
        "budget:max_latency_ms",
        "budget:max_size_mb",
        "better",
    ]


def test_what_was_not_measured_meets_no_limit() -> None:
    budget = Budget(max_drop=1, min_speedup=1.1, max_latency_ms=100, max_size_mb=100)
    _, found = judged(budget, Record("a", "A", {}))
    assert len(found.reasons) == 5
    assert all("not" in reason.text for reason in found.reasons)


@pytest.mark.parametrize(("objective", "best"), [("latency", "fast"), ("size", "small"), ("memory", "small")])
def test_the_objective_decides_among_those_that_hold(objective: Any, best: str) -> None:
    records = judged(
        Budget(objective=objective),
        record("fast", speed=4, size=900_000),
        record("small", speed=2, size=500_000),
        record("bad", speed=9, drop=9),
    )
    choice = choose(records, Budget(objective=objective))
    assert choice.best is not None
    assert choice.best.key == best


def test_the_nearest_miss_comes_with_its_reasons() -> None:
    budget = Budget(min_speedup=4)
    records = judged(budget, record("a", speed=3), record("b", speed=2), record("c", speed=3.9, status="failed"))
    choice = confirm(choose(records, budget), records, budget, "%")
    assert choice.best is None
    assert choice.nearest is not None
    assert choice.nearest.key == "a"
    assert "3.00×" in choice.reason
    assert choice.verdict.startswith("Budget not met (lose at most 0.5 points; at least 4× faster; best latency): the nearest, A, is 3.00×")


def test_a_broken_model_is_never_the_nearest_miss() -> None:
    budget = Budget()
    wrong = record("wrong", speed=9, status="rejected", reasons=(Reason("parity", "differs"),))
    choice = choose([BASE, wrong], budget)
    assert (choice.best, choice.nearest) == (None, None)
    assert choice.reason == "no candidate could be measured (1 rejected); the first reason: differs"


@pytest.mark.parametrize(("test_drop", "met"), [(0.4, True), (0.6, False)])
def test_test_data_confirms_the_choice(test_drop: float, met: bool) -> None:
    budget = Budget(max_drop=0.5)
    records = judged(budget, record("a", test_drop=Measurement(test_drop, "points", n=50, low=0.1, high=0.9)))
    choice = confirm(choose(records, budget), records, budget, "%")
    assert (choice.best is not None) == met
    if not met:
        assert choice.nearest is not None
        assert "held the budget on the valid data, but the drop is 0.6 points on the test data" in choice.verdict


def test_the_frontier_keeps_what_nothing_beats() -> None:
    records = [
        BASE,
        record("a", speed=3, drop=0.2),
        record("b", speed=2, drop=0.3),
        record("c", speed=1.5, drop=-0.1),
        record("d", speed=9, status="failed"),
    ]
    assert [r.key for r in frontier(records, Budget()) if r.frontier] == ["a", "c"]


@pytest.mark.parametrize(
    ("rel", "precision", "ok"),
    [(9e-4, "fp32", True), (2e-3, "fp32", False), (5e-2, "bf16", True), (0.2, "bf16", False), (math.inf, "bf16", False)],
)
def test_parity_by_precision(rel: float, precision: str, ok: bool) -> None:
    evidence, reason = parity({"max_abs": 1.0, "max_rel": rel, "sqnr_db": 0.0, "n": 3}, precision)
    assert (reason is None) == ok
    assert evidence["tolerance"] in (1e-3, 1e-1)


def test_records_round_trip() -> None:
    from laconic.core.records import to_json

    found = record("a", reasons=(Reason("better", "no"),), notes=("n",))
    assert Record.from_json(to_json(found)) == found


@pytest.mark.parametrize(("decibels", "passes"), [(11.9, False), (12.0, True), (math.inf, True), (-math.inf, False)])
def test_a_rounded_program_is_compared_by_signal_to_noise(decibels: float, passes: bool) -> None:
    evidence, reason = parity({"max_abs": 1.0, "max_rel": 0.5, "sqnr_db": decibels, "n": 3}, "fp32", rounded=True)
    assert (reason is None) is passes
    assert evidence["tolerance_sqnr_db"] == 12.0
    assert reason is None or "12 dB" in reason.text
