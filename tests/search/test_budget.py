from __future__ import annotations

import json
import math
from typing import Any

import pytest

from laconic.core.errors import BadInput
from laconic.core.records import Measurement
from laconic.run.gate import parity
from laconic.run.record import Reason, Record
from laconic.search.budget import Budget
from tests.search.records import judged, record


@pytest.mark.parametrize(
    ("limits", "mistakes"),
    [
        ({"max_drop": -1}, ["max_drop: -1"]),
        ({"max_drop": math.nan}, ["max_drop: nan"]),
        ({"min_speedup": 0}, ["min_speedup: 0"]),
        ({"max_latency_ms": "fast"}, ["max_latency_ms: 'fast'"]),
        ({"max_size_mb": True}, ["max_size_mb: True"]),
        ({"max_drop": "some"}, ["max_drop: 'some' is not a number, nor 'any'"]),
        ({"max_size_mb": math.inf, "confident": "yes"}, ["max_size_mb: inf", "confident: 'yes' must be true or false"]),
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
        (Budget(limits={"max_memory_mb": 2}), record("a"), record("a", size=1_100_000), "budget:max_memory_mb"),
        (Budget(limits={"max_mmacs": 3}), record("a", macs=3e6), record("a", macs=3e6 + 1), "budget:max_mmacs"),
        (Budget(limits={"max_flash_kb": 3}), record("a", flash_bytes=3000), record("a", flash_bytes=3001), "budget:max_flash_kb"),
        (Budget(limits={"max_ram_kb": 3}), record("a", ram_bytes=3000), record("a", ram_bytes=3001), "budget:max_ram_kb"),
        (
            Budget(limits={"max_latency_p95_ms": 3}),
            record("a", latency_p95_ms=3.0),
            record("a", latency_p95_ms=3.1),
            "budget:max_latency_p95_ms",
        ),
        (
            Budget(limits={"min_throughput_per_s": 9}),
            record("a", throughput_per_s=9.0),
            record("a", throughput_per_s=8.9),
            "budget:min_throughput_per_s",
        ),
    ],
    ids=[
        "drop",
        "speedup",
        "latency",
        "size",
        "not-faster",
        "not-smaller",
        "not-leaner",
        "memory",
        "macs",
        "flash",
        "ram",
        "p95",
        "throughput",
    ],
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


def test_a_drop_that_was_given_is_no_default() -> None:
    given = Budget(max_drop=0.5)
    assert given.filled("mae", percentage=False) == given
    with pytest.raises(BadInput, match="'mae' has no fixed scale.*Give max_drop"):
        Budget(min_speedup=1.1).filled("mae", percentage=False)


def test_left_out_it_is_half_a_point_of_a_percentage() -> None:
    assert Budget().max_drop is None
    assert Budget(min_speedup=2).filled("accuracy", percentage=True) == Budget(max_drop=0.5, min_speedup=2)


@pytest.mark.parametrize("limit", ["any", math.inf])
def test_any_drop_sets_no_limit_and_survives_a_file(limit: Any) -> None:
    budget = Budget(max_drop=limit)
    assert budget.filled("mae", percentage=False) == budget
    assert judged(budget, record("a", drop=99.0))[1].status == "passed"
    assert str(budget) == "no limit; best latency"
    assert json.loads(json.dumps(budget.to_plain()))["max_drop"] == "any"
    assert Budget.from_plain(budget.to_plain()) == budget


@pytest.mark.parametrize(
    ("high", "ok"), [(0.5, True), (0.51, False), (None, False)], ids=["the end holds", "the end breaks it", "no interval"]
)
def test_who_is_confident_wants_the_bad_end_of_the_drop_within_the_limit(high: float | None, ok: bool) -> None:
    one = record("a").with_measured(drop=Measurement(-0.2, "points", n=100, low=-0.9, high=high))
    assert judged(Budget(max_drop=0.5), one)[1].status == "passed"
    found = judged(Budget(max_drop=0.5, confident=True), one)[1]
    assert (found.status == "passed") is ok
    if not ok:
        assert "the gain is 0.2 points on the valid data, but" in found.reasons[0].text


def test_who_is_confident_wants_it_of_the_test_data_too() -> None:
    one = record("a", test_drop=Measurement(0.1, "points", n=50, low=-0.9, high=1.1))
    assert Budget(max_drop=0.5).drop_reason(one, "test") is None
    found = Budget(max_drop=0.5, confident=True).drop_reason(one, "test")
    assert found is not None
    assert found.text == (
        "the drop is 0.1 points on the test data, but a true drop of up to 1.1 points cannot be excluded; at most 0.5 may be lost for certain"
    )


@pytest.mark.parametrize(("limit", "ok"), [(6.26, True), (6.24, False)])
def test_who_is_confident_wants_the_median_latency_with_its_interval(limit: float, ok: bool) -> None:
    one = record("a", latency_ms=Measurement(5.0, "ms", n=450, low=4.0, high=6.25)).with_measured(
        drop=Measurement(0.0, "points", n=100, low=-0.1, high=0.1)
    )
    assert judged(Budget(max_latency_ms=limit), one)[1].status == "passed"
    found = judged(Budget(max_drop=0.5, max_latency_ms=limit, confident=True), one)[1]
    assert (found.status, [reason.rule for reason in found.reasons]) == (("passed", []) if ok else ("rejected", ["budget:max_latency_ms"]))


def test_each_limit_is_read_twice() -> None:
    one = record(
        "a",
        speed=2.0,
        drop=0.4,
        latency_ms=Measurement(5.0, "ms", n=450, low=4.0, high=6.25),
        test_drop=Measurement(0.1, "points", n=50, low=-0.2, high=0.4),
    )
    budget = Budget(max_drop=0.5, min_speedup=1.9, max_latency_ms=6, max_size_mb=1)
    found = {(r.limit, r.data): (r.measured, r.held, r.bad_end and round(r.bad_end, 6), r.bad_end_held) for r in budget.readings(one)}
    assert found == {
        ("max_drop", "valid"): (0.4, True, 1.4, False),
        ("max_drop", "test"): (0.1, True, 0.4, True),
        ("min_speedup", ""): (2.0, True, 1.8, False),
        ("max_latency_ms", ""): (5.0, True, 6.25, False),
        ("max_size_mb", ""): (1.0, True, 1.0, True),
    }


@pytest.mark.parametrize(("budget", "sized"), [(Budget(), False), (Budget(max_size_mb=1), True), (Budget(objective="size"), True)], ids=str)
def test_a_budget_knows_what_it_names(budget: Budget, sized: bool) -> None:
    assert (budget.names("size_bytes") or budget.names("packed_size_bytes")) is sized
    assert budget.names("speedup") is (budget.objective == "latency")


def test_what_was_not_measured_is_not_read() -> None:
    assert Budget(max_drop=1, min_speedup=1.1, max_latency_ms=100, max_size_mb=100).readings(Record("a", "A", {})) == []


def test_what_yaml_takes_for_a_text_is_read_as_a_number() -> None:
    assert Budget.from_plain({"max_drop": "5e-1", "min_speedup": "2"}) == Budget(max_drop=0.5, min_speedup=2.0)
    assert Budget.from_plain({"max_drop": "any"}) == Budget(max_drop="any")
    with pytest.raises(BadInput, match="max_drop: 'much' is not a number"):
        Budget.from_plain({"max_drop": "much"})
