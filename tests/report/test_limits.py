"""The budget line by line, read twice; losses in the metric's own words; what was not tried; where times come from."""

from __future__ import annotations

import re
from typing import Any

import pytest

from laconic.report.candidates import candidate
from laconic.report.facts import facts
from laconic.report.page import page
from laconic.report.words import Words
from tests.report.results import Json, named, reason, record
from tests.report.test_summary import told

READINGS = [
    {"limit": "max_drop", "asked": 0.5, "unit": "points", "data": "valid", "measured": -0.04, "held": True, "bad_end": 0.14, "bad_end_held": True},
    {"limit": "max_drop", "asked": 0.5, "unit": "points", "data": "test", "measured": 0.05, "held": True, "bad_end": 0.52, "bad_end_held": False},
    {"limit": "min_speedup", "asked": 6, "unit": "×", "data": "", "measured": 6.93, "held": True, "bad_end": 6.71, "bad_end_held": True},
    {"limit": "max_size_mb", "asked": 2, "unit": "MB", "data": "", "measured": 1.12, "held": True, "bad_end": 1.12, "bad_end_held": True},
    {"limit": "max_latency_ms", "asked": 1, "unit": "ms", "data": "", "measured": 0.35, "held": True, "bad_end": None, "bad_end_held": None},
]  # fmt: skip


@pytest.fixture
def read(met: Json) -> Json:
    met["budget"].update(min_speedup=6, max_size_mb=2, max_latency_ms=1)
    return {**met, "readings": READINGS}


def test_each_line_of_the_budget_is_read_twice(read: Json) -> None:
    found = {rule.name: (rule.held, rule.worst.replace("\xa0", " "), rule.surely) for rule in facts(read).budget}
    assert found == {
        "max_drop": (True, "0.14 points on validation data, 0.52 points on test data", False),
        "min_speedup": (True, "6.71×", True),
        "max_latency_ms": (True, "", None),
        "max_size_mb": (True, "", None),
    }


def test_both_readings_are_shown(read: Json) -> None:
    for text in (" ".join(told(read).split()), " ".join(re.sub(r"<[^>]+>", " ", page(read).replace("\xa0", " ")).split())):
        assert "at the bad end of the interval 0.14 points on validation data, 0.52 points on test data: not held" in text
        assert "at the bad end of the interval 6.71×: holds too" in text


def test_the_first_sentence_is_the_heading_and_the_others_stand_below(met: Json) -> None:
    met.update(verdict="It is fast. It may lose a point.", headline="It is fast.", certainty=["It may lose a point."])
    found = facts(met).heading
    assert (found.verdict, found.certainty, found.whole) == ("It is fast.", ("It may lose a point.",), "It is fast. It may lose a point.")
    made = page(met)
    assert re.search(r"<h1[^>]*>It is fast\.</h1>", made)
    assert '<p class="reason">It may lose a point.</p>' in made
    assert "It is fast. It may lose a point." in made
    assert told(met).splitlines()[1] == "It may lose a point."


@pytest.mark.parametrize(
    ("metric", "noun", "unit"),
    [
        ({"direction": "max", "unit": "%", "scale": 100}, "drop", "points"),
        ({"direction": "min", "unit": "", "scale": 1}, "rise", ""),
        ({"direction": "min", "unit": "kg", "scale": 1}, "rise", "kg"),
        ({}, "drop", ""),
    ],
)
def test_a_loss_in_the_metrics_own_words(metric: dict[str, Any], noun: str, unit: str) -> None:
    assert Words.of(metric) == Words("Metric", noun, unit)


def test_an_error_rises_in_its_own_unit(met: Json) -> None:
    met["task"]["metric"] = {"name": "mae", "direction": "min", "unit": "kg", "scale": 1}
    for one in met["candidates"]:
        for name in ("drop", "test_drop"):
            if name in one["measured"]:
                one["measured"][name]["unit"] = "kg"
    found = facts(met)
    shown = next(one for one in found.figures if one.key == "drop")
    assert (shown.label, shown.amount.unit) == ("MAE rise", "kg")
    assert next((c.title, c.unit) for c in found.table.columns if c.key == "drop") == ("Rise", "kg")
    assert found.budget[0].asked == "MAE rise at most 0.5\xa0kg"
    assert [limit.text for limit in found.frontier.limits] == ["max rise 0.5"]
    assert "points" not in told(met)


def late(key: str) -> Json:
    return record(key, key, "not_tried", "torch", "fp32", reasons=[reason("time_limit", "the time limit was reached before its turn")])


def test_what_was_not_tried_has_not_failed(met: Json) -> None:
    met["candidates"].append(late("slow"))
    row = next(row for row in facts(met).table.rows if row.key == "slow")
    assert (row.status, row.state) == ("not_tried", "not tried")
    assert row.gap == "Not measured: the time limit was reached before its turn"
    assert 'data-status="not_tried"' in page(met)
    assert '<span class="status not_tried">not tried</span>' in page(met)
    assert "not tried" in told(met)


def test_nothing_tried_is_not_a_budget_missed() -> None:
    result = named("all-failed")
    result["candidates"] = [late("a"), late("b")]
    assert (facts(result).heading.kind, facts(result).heading.badge) == ("untried", "Nothing was tried")
    result["candidates"].append(record("c", "C", "failed", "torch", "fp32"))
    assert facts(result).heading.badge == "Nothing to hand over"


def test_figures_say_which_comparison_they_come_from(met: Json) -> None:
    assert facts(met).timing_note == ""
    met["candidates"][0].update(comparison="published")
    met["candidates"][0]["measured"]["first_speedup"] = {"value": 7.4, "unit": "x", "n": 12, "low": 7.2, "high": 7.6}
    met["candidates"][1].update(comparison="alone")
    found = facts(met)
    assert found.timing_note.startswith("Figures of time of OpenVINO · bf16 and of the baseline come from a comparison made anew")
    assert found.final_note.endswith("Timings were measured anew after the choice.")
    assert found.candidates[1].amount("first_speedup").text == "7.40×"
    assert "a comparison made anew" in page(met)
    met["candidates"][1].update(comparison="finalists", settled="settled after 4 of 15 rounds: clearly behind the best so far")
    found = facts(met)
    assert f"Those of {found.candidates[2].title} come from the comparison of finalists" in found.timing_note
    assert "settled after 4 of 15 rounds" in next(row for row in found.table.rows if row.key == found.candidates[2].key).note
    assert "settled after 4 of 15 rounds" in page(met)


def test_a_busy_machine_is_marked_at_the_figure_and_in_the_row(met: Json) -> None:
    met["candidates"][0]["busy"] = "machine busy: 40 % of the turns were preempted"
    found = facts(met)
    assert found.figures[0].remark == "machine busy"
    assert "Machine busy: 40 % of the turns were preempted." in found.timing_note  # the whole sentence, once for all rows
    met["candidates"][0]["measured"]["speedup_cpu"] = {"value": 5.5, "unit": "x", "n": 7, "low": 5.0, "high": 6.0}
    assert facts(met).figures[0].remark == "machine busy; by processor time 5.50× (5.00 to 6.00)"
    assert "machine busy" in next(row for row in found.table.rows if row.marked).note
    assert "machine busy" in page(met)
    assert "machine busy" in told(met)


def test_an_int8_artifact_is_called_int8() -> None:
    outcome = {"step": "quantize", "bits": 8, "changed": {"mode": "static"}, "skipped": [], "notes": []}
    one = record("q", "Q", "passed", "openvino", "fp32", outcomes=[outcome])
    assert candidate(one).recipe.endswith("OpenVINO int8, 2 threads")
    outcome["bits"] = 4
    one["recipe"]["deploy"]["precision"] = "bf16"
    assert candidate(one).recipe.endswith("OpenVINO int4 with bf16, 2 threads")


@pytest.mark.parametrize("value", [-0.0, -0.001, -0.004])
def test_zero_has_no_sign_anywhere(met: Json, value: float) -> None:
    for one in met["candidates"]:
        for name in ("drop", "test_drop"):
            if name in one["measured"]:
                one["measured"][name].update(value=value, low=value, high=value)
    for text in (told(met), page(met).partition("application/json")[0]):
        assert not re.search(r"[-−]0\.00(?!\d)", text)
