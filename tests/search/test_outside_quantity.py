"""A quantity from another package, without a line about it in this one: in budget, gate, choice, verdict, report and on the command line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

import laconic as lc
from laconic.core import quantities
from laconic.core.errors import BadInput
from laconic.core.records import Measurement, to_json
from laconic.report.charts import charts
from laconic.report.facts import facts
from laconic.report.page import page
from laconic.run.gate import gate
from laconic.run.recipe import read_recipe
from laconic.run.record import Record
from laconic.search.budget import Budget
from laconic.search.select import Selection, frontier, ranking
from laconic.search.verdict import Scale, verdict
from laconic.tasks import metrics
from tests.quantities import OUTSIDE, PRICE_PER_HOUR
from tests.report.results import Json, measurement, named
from tests.report.test_summary import told
from tests.run import tiny
from tests.search.records import BASE, record


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for row in OUTSIDE:
        monkeypatch.setitem(quantities.QUANTITIES, row.name, row)


def grams(value: float, half: float = 0.0, n: int = 9) -> Measurement:
    return Measurement(value, "mg", n, value - half, value + half)


def held(budget: Budget, *records: Record) -> list[Record]:
    base = BASE.with_measured(carbon_mg=grams(6.0, 0.5))
    return [base, *(gate(one, budget.rules(base)) for one in records)]


def test_a_limit_is_given_in_three_ways() -> None:
    budget = Budget(limits={"max_carbon_mg": 5})
    assert Budget.from_plain({"max_carbon_mg": 5}) == budget == Budget.from_plain({"limits": {"max_carbon_mg": 5}})
    assert json.loads(json.dumps(budget.to_plain()))["max_carbon_mg"] == 5
    assert Budget.from_plain(json.loads(json.dumps(budget.to_plain()))) == budget
    assert str(budget) == "at most 5 mg; best latency"


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"max_carbn_mg": 5}, "'max_carbn_mg' is no limit. Did you mean 'max_carbon_mg'"),
        ({"max_carbon_mg": -1}, "max_carbon_mg: -1 must be more than 0"),
        ({"max_carbon_mg": "any"}, "max_carbon_mg: 'any' is not a number"),
        ({"max_carbon_mg": math.inf}, "max_carbon_mg: inf is not a number"),
    ],
    ids=str,
)
def test_a_wrong_limit_is_told(limits: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput) as caught:
        Budget(limits=limits)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("found", "confident", "reason"),
    [
        (grams(4.0, 0.5), False, None),
        (grams(5.5, 0.2), False, "the carbon of an inference is 5.5 mg; at most 5 mg is asked for"),
        (grams(4.8, 0.5), False, None),
        (
            grams(4.8, 0.5),
            True,
            "the carbon of an inference is 4.8 mg, but a true carbon of an inference of up to 5.3 mg cannot be excluded; at most 5 mg is asked for",
        ),
        (Measurement(4.8, "mg", 9), True, "the carbon of an inference is 4.8 mg, but its interval is not known; at most 5 mg is asked for"),
        (None, False, "the carbon of an inference was not measured; at most 5 mg is asked for"),
        (
            Measurement.missing("mg", "no counter"),
            False,
            "the carbon of an inference was not measured: no counter; at most 5 mg is asked for",
        ),
    ],
    ids=["holds", "broken", "value alone", "bad end", "no interval", "unknown", "missing"],
)
def test_the_gate_reads_it(found: Measurement | None, confident: bool, reason: str | None) -> None:
    one = record("a", drop=-2.0).with_measured(carbon_mg=found)
    _, after = held(Budget(max_drop=0.5, limits={"max_carbon_mg": 5}, confident=confident), one)
    assert [(why.rule, why.text) for why in after.reasons] == ([] if reason is None else [("budget:max_carbon_mg", reason)])


def test_it_is_read_twice_and_adds_to_the_shortfall() -> None:
    budget = Budget(limits={"max_carbon_mg": 5})
    one = record("a").with_measured(carbon_mg=grams(4.8, 0.5))
    found = next(reading for reading in budget.readings(one) if reading.limit == "max_carbon_mg")
    assert (found.measured, found.held, found.bad_end, found.bad_end_held, found.unit) == (4.8, True, 5.3, False, "mg")
    far = budget.shortfall(record("b").with_measured(carbon_mg=grams(10.0)))
    assert (budget.shortfall(one), far) == (0.0, pytest.approx(math.log(2)))
    assert budget.shortfall(record("c")) > far


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (grams(4.0, 0.4), None),
        (
            grams(5.2, 0.4),
            "its carbon of an inference is not less than the baseline's: 5.20 mg (95 % interval 4.80 to 5.60) against 6.00 mg",
        ),
        (None, "its carbon of an inference could not be measured"),
    ],
    ids=["less", "intervals overlap", "unknown"],
)
def test_as_the_objective_it_must_be_surely_better(found: Measurement | None, reason: str | None) -> None:
    _, after = held(Budget(objective="carbon"), record("a").with_measured(carbon_mg=found))
    texts = [why.text.replace("\xa0", " ") for why in after.reasons]
    assert texts == [] if reason is None else texts[0].startswith(reason)


def test_the_order_goes_by_it_and_overlapping_intervals_tie() -> None:
    budget = Budget(objective="carbon")
    some = [
        record("least", drop=0.4).with_measured(carbon_mg=grams(3.0, 0.2)),
        record("near", drop=0.1).with_measured(carbon_mg=grams(3.1, 0.2)),
        record("far", drop=0.0).with_measured(carbon_mg=grams(4.0, 0.2)),
    ]
    order = list(ranking(held(budget, *some), budget, {}))
    assert [(one.key, tied) for one, tied in order] == [("near", ("least", "near")), ("least", ("least",)), ("far", ("far",))]
    marked = {one.key for one in frontier(held(budget, *some), budget) if one.frontier}
    assert marked == {"least", "near", "far"}


def test_more_may_be_better() -> None:
    budget = Budget(limits={"min_answers": 100}, objective="yield")
    base = BASE.with_measured(answers_per_ct=90)
    good, bad = (
        record(key).with_measured(answers_per_ct=Measurement(value, "1/ct", 5, value, value)) for key, value in (("a", 120), ("b", 95))
    )
    reasons = {one.key: [why for rule in budget.rules(base) if (why := rule(one)) is not None] for one in (good, bad)}
    assert reasons["a"] == []
    assert reasons["b"][0].text == "the answers for a cent is 95 1/ct; at least 100 1/ct is asked for"
    assert min((good, bad), key=budget.order) is good


def test_the_verdict_says_what_was_won() -> None:
    budget = Budget(max_drop=0.5, objective="carbon")
    records = held(budget, record("a").with_measured(carbon_mg=grams(3.0, 0.2)))
    text = verdict(Selection(records[1], tied=("a",)), records, budget, Scale.of(metrics.resolve("accuracy", None))).headline.replace(
        "\xa0", " "
    )
    assert ", its carbon of an inference is 3.00 mg (95 % interval 2.80 to 3.20) against 6.00 mg (95 % interval 5.50 to 6.50)" in text


def test_records_keep_it_and_a_reader_without_the_row_does_too(monkeypatch: pytest.MonkeyPatch) -> None:
    one = record("a").with_measured(carbon_mg=grams(3.0, 0.2))
    data = json.loads(json.dumps(to_json(one)))
    assert data["measured"]["carbon_mg"] == to_json(grams(3.0, 0.2))
    monkeypatch.delitem(quantities.QUANTITIES, "carbon_mg")
    assert Record.from_json(data) == one


@pytest.fixture
def result() -> Json:
    met = named("met")
    met["baseline"]["measured"]["carbon_mg"] = measurement(6.0, "mg", 0.5, n=9)
    for i, one in enumerate(met["candidates"]):
        if one["measured"]:
            one["measured"]["carbon_mg"] = measurement(2.0 + i, "mg", 0.25, n=9)
    met["budget"].update(max_carbon_mg=5, objective="carbon")
    return met


class TestReport:
    def test_tables(self, result: Json) -> None:
        found = facts(result)
        column = found.table.columns[0]
        assert (column.title, column.unit, column.hint, column.terminal) == ("Carbon", "mg", "milligrams of one call, by a counter", True)
        cell = next(cell for row in found.table.rows if row.marked for cell in row.cells if cell.key == "carbon_mg")
        assert (cell.text, cell.interval, cell.sort) == ("2.00", "1.75 to 2.25", 2.0)
        assert "carbon_mg" in [one.key for one in found.final.columns]

    def test_the_figure_comes_first(self, result: Json) -> None:
        first = facts(result).figures[0]
        assert (first.label, first.amount.full.replace("\xa0", " ")) == ("Carbon of an inference", "2.00 mg (1.75 to 2.25)")
        assert (first.before.replace("\xa0", " "), first.remark.replace("\xa0", " "), first.tone) == (
            "6.00 → 2.00 mg",
            "3.00× less",
            "good",
        )

    def test_the_line_of_the_budget(self, result: Json) -> None:
        result["readings"] = [
            {"limit": "max_carbon_mg", "unit": "mg", "data": "", "measured": 2.0, "bad_end": 2.25, "bad_end_held": True},
        ]
        line = facts(result).budget[-1]
        assert (
            line.asked.replace("\xa0", " "),
            line.reached.replace("\xa0", " "),
            line.held,
            line.worst.replace("\xa0", " "),
            line.surely,
        ) == (
            "Carbon of an inference at most 5 mg",
            "reached 2.00 mg (1.75 to 2.25)",
            True,
            "2.25 mg",
            True,
        )

    def test_the_axis_of_the_frontier(self, result: Json) -> None:
        found = facts(result).frontier
        assert (found.x.label, found.x.unit, found.x.better) == ("Carbon of an inference", "mg", "lower")
        best = next(point for point in found.points if point.role == "chosen")
        assert (best.x, best.x_low, best.x_high) == (2.0, 1.75, 2.25)
        assert ("Carbon", "2.00\xa0mg (1.75 to 2.25)") in best.facts
        assert [limit.text.replace("\xa0", " ") for limit in found.limits if limit.axis == "x"] == ["max carbon of an inference 5 mg"]
        assert charts(facts(result))["frontier"]["data"][0]["line"]["shape"] == "hv"

    def test_an_axis_on_which_more_is_better(self, result: Json) -> None:
        for one in (result["baseline"], *result["candidates"]):
            if one["measured"]:
                one["measured"]["answers_per_ct"] = measurement(100 / one["measured"]["carbon_mg"]["value"], "1/ct")
        result["budget"].update(objective="yield")
        found = facts(result)
        assert (found.frontier.x.better, found.figures[0].remark.replace("\xa0", " ")) == ("higher", "3.00× more")
        assert "answers_per_ct" in [one.key for one in found.final.columns]
        assert charts(found)["frontier"]["data"][0]["line"]["shape"] == "vh"

    def test_page_and_terminal(self, result: Json) -> None:
        assert "Carbon of an inference" in page(result)
        text = told(result, 200)
        assert "Carbon of an inference  2.00 mg" in text
        assert "held    Carbon of an inference at most 5 mg" in text

    def test_what_was_not_measured_says_so_and_is_not_zero(self, result: Json) -> None:
        result["candidates"][0]["measured"]["carbon_mg"] = {"value": None, "unit": "mg", "n": 0, "note": "no counter"}
        found = facts(result)
        assert found.figures[0].amount.text == "Not measured: no counter"
        assert found.frontier.undrawn[0] == "OpenVINO · bf16"
        assert found.budget[-1].reached == "nothing was measured"

    def test_it_can_be_read_where_nobody_knows_the_row(self, result: Json, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delitem(quantities.QUANTITIES, "carbon_mg")
        found = facts(result)
        column = next(one for one in found.table.columns if one.key == "carbon_mg")
        assert (column.title, column.unit) == ("Carbon mg", "mg")
        assert (found.budget[-1].asked, found.budget[-1].held) == ("max_carbon_mg 5", None)
        assert "not installed here" in found.budget[-1].reached


def test_a_recipes_budget_names_it(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("steps: []\ndeploy: {runtime: onnxruntime}\nbudget: {max_carbon_mg: 5, objective: carbon}\n", encoding="utf-8")
    budget = read_recipe(path).budget
    assert Budget.from_plain(budget) == Budget(limits={"max_carbon_mg": 5}, objective="carbon")


@pytest.mark.slow
def test_a_run_measures_limits_and_aims_at_it(tmp_path: Path) -> None:
    """Money per million answers, by a row from outside: measured by the evaluator, held by the gate, the objective of the choice."""
    recipes = [lc.Recipe((), lc.Target(runtime, threads=1)) for runtime in ("onnxruntime", "torchscript")]
    budget = Budget(max_drop="any", objective="bill", limits={"max_bill_ct": 1e9})
    options = lc.Options(rounds=3, turn_seconds=0.02, candidate_timeout_s=120)
    result = lc.optimize(tiny.task(), budget, out=tmp_path / "run", recipes=recipes, options=options)
    records = [result.data["baseline"], *result.data["candidates"]]
    for one in records:
        rate, cost = (one["measured"][name]["value"] for name in ("throughput_per_s", "bill_ct"))
        assert cost == pytest.approx(1e6 / 3600 * 100 * PRICE_PER_HOUR / rate, rel=1e-6)
    assert result.data["budget"]["max_bill_ct"] == 1e9
    assert {reading["limit"] for reading in result.data["readings"]} == {"max_bill_ct"}
    assert "its bill of a million is" in result.data["headline"]
    assert "max_bill_ct: 1000000000.0" in result.data["reproduce"]["recipe_yaml"]
    assert facts(result.data).figures[0].label == "Bill of a million"
