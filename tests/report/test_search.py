"""What the report says of a search: when the time was spent, what mattered, candidates as lines, what fell out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from scipy import stats

from laconic.core.errors import MissingExtra
from laconic.report import mattered as of_mattered
from laconic.report.charts import charts
from laconic.report.facts import Facts, facts
from laconic.report.levels import ABSENT, parameters
from laconic.report.mattered import explained
from laconic.report.page import page
from tests.report.results import Json, measured, named, record


@pytest.fixture(scope="module")
def searched() -> Facts:
    return facts(named("searched"))


def run(steps: list[Any], runtime: str = "openvino", **deploy: Any) -> Json:
    return {"recipe": {"steps": steps, "deploy": {"runtime": runtime, "precision": "fp32", "threads": None, "device": "cpu", **deploy}}}


class TestParameters:
    def test_what_is_the_same_everywhere_is_none(self) -> None:
        assert parameters([run(["fold_batch_norm"]), run(["fold_batch_norm"])]) == []

    def test_a_step_without_options_is_there_or_not(self) -> None:
        (one,) = parameters([run(["fold_batch_norm"]), run([])])
        assert (one.name, one.levels) == ("fold batch norm", ("yes", ABSENT))

    def test_options_that_vary_stand_for_their_step_also_inside_a_plan(self) -> None:
        steps: list[list[Any]] = [[], [{"prune": {"macs": 0.5}}], [{"prune": {"macs": 0.3, "fit": {"epochs": 4}}}]]
        made = {one.name: one.levels for one in parameters([run(each) for each in steps])}
        assert made == {"prune macs": (ABSENT, "0.5", "0.3"), "prune epochs": (ABSENT, "default", "4")}

    def test_an_option_that_follows_from_the_runtime_is_none(self) -> None:
        records = [run([{"quantize": {"target": name}}] * there, name) for name in ("openvino", "onnxruntime") for there in (0, 1)]
        assert [one.name for one in parameters(records)] == ["runtime", "quantize"]

    def test_many_numbers_are_put_together_in_thirds(self) -> None:
        made = parameters([run([{"prune": {"macs": share / 10}}]) for share in range(1, 10)])
        assert made[0].levels == ("0.1 to 0.3",) * 3 + ("0.4 to 0.6",) * 3 + ("0.7 to 0.9",) * 3
        assert made[0].numbers == tuple(share / 10 for share in range(1, 10))


class TestMattered:
    @pytest.mark.parametrize("spread", [0.1, 1.0, 3.0])
    def test_main_effects_are_those_of_an_analysis_of_variance(self, spread: float) -> None:
        """Epsilon squared from scipy's F: df (F - 1) / (df F + the degrees of freedom within)."""
        groups = [[k + spread * x for x in (0.1, -0.3, 0.5, 0.9)] for k in range(3)]
        f = stats.f_oneway(*groups).statistic
        levels, costs = [str(k) for k, group in enumerate(groups) for _ in group], [cost for group in groups for cost in group]
        assert explained(levels, costs) == pytest.approx(max(0.0, 2 * (f - 1) / (2 * f + 9)), abs=1e-12)

    def test_enough_candidates_are_judged_by_optuna(self, searched: Facts) -> None:
        pytest.importorskip("optuna")
        assert searched.mattered is not None
        assert "PED-ANOVA over 30 measured" in searched.mattered.method
        assert searched.mattered.weights[0].name == "quantize"  # twice as fast, and nothing else does that
        assert sum(one.share for one in searched.mattered.weights) == pytest.approx(1)

    def test_without_optuna_main_effects_stand_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def absent(*_: str) -> None:
            raise MissingExtra("no optuna")

        monkeypatch.setattr(of_mattered, "need", absent)
        found = facts(named("searched")).mattered
        assert found is not None
        assert "Main effects of 30 measured" in found.method

    def test_few_candidates_have_main_effects_and_one_has_none(self, met: Json) -> None:
        found = facts(met).mattered
        assert found is not None
        assert "Main effects of 6" in found.method
        assert found.weights[0].name == "runtime"
        rows = {(one.name, one.level): (one.n, one.worth) for one in found.levels}
        assert rows["runtime", "OpenVINO"] == ("2", "5.01×")  # between 6.93 and 3.1
        met["candidates"] = met["candidates"][:1]
        assert facts(met).mattered is None


class TestParallel:
    def test_each_measured_candidate_is_a_line_over_choices_objective_and_loss(self, searched: Facts) -> None:
        assert searched.parallel is not None
        assert [axis.title for axis in searched.parallel.axes[-2:]] == ["Speed-up", "Drop"]
        assert len(searched.parallel.lines) == 30
        (best,) = [line for line in searched.parallel.lines if line.role == "chosen"]
        assert best.heights[-1] == 1.0  # it loses least
        assert all(0 <= height <= 1 for line in searched.parallel.lines for height in line.heights)

    def test_faster_is_higher_and_numbers_stand_by_their_size(self, searched: Facts) -> None:
        assert searched.parallel is not None
        place = [axis.title for axis in searched.parallel.axes].index("prune macs")
        pruned = {line.texts[place]: line.heights for line in searched.parallel.lines if line.texts[place] != ABSENT}
        assert pruned["0.3"][place] < pruned["0.5"][place] < pruned["0.76"][place]
        assert pruned["0.3"][-2] > pruned["0.36"][-2]  # both rounded
        assert {line.heights[place] for line in searched.parallel.lines if line.texts[place] == ABSENT} == {0.0}

    def test_a_run_of_one_choice_has_none(self, met: Json) -> None:
        met["candidates"] = met["candidates"][:2]
        assert facts(met).parallel is None


class TestTimeline:
    def test_rows_stand_in_the_order_of_their_turns_with_their_sums(self, searched: Facts) -> None:
        line = searched.timeline
        assert line is not None
        assert [row.title for row in line.rows[:3]] == [
            "The run as a whole",
            "PyTorch eager · fp32",
            "prune to 30 % of MACs, quantize · OpenVINO · fp32",
        ]
        first = dict(zip(line.parts, line.rows[2].parts, strict=True))
        assert {part for part, text in first.items() if text} == {"Building: steps and export", "Training candidates", "Timing"}
        assert first["Training candidates"] == "2.50\u00a0s"
        bars = charts(searched)["timeline"]["data"]
        assert sum(len(bar["x"]) for bar in bars) == 3 + 3 * 24

    def test_time_in_which_nothing_ran_is_told_once_where_stretches_overlap(self, met: Json) -> None:
        met["spent"] = {"total": 10.0}
        met["timeline"] = [
            {"part": "recover", "of": "a", "start_s": 0.0, "seconds": 6.0},
            {"part": "recover", "of": "b", "start_s": 1.0, "seconds": 4.0},
            {"part": "time", "of": "b", "start_s": 8.0, "seconds": 1.0},
        ]
        found = facts(met).timeline
        assert found is not None
        assert found.lead.startswith("In 3\u00a0s of 10\u00a0s (30.0\u00a0%)")

    @pytest.mark.parametrize("kept", [None, [], [{"part": "unheard of", "start_s": 0, "seconds": 1}], [{"part": "time"}], "text"])
    def test_what_was_not_recorded_is_not_drawn(self, met: Json, kept: Any) -> None:
        met["timeline"] = kept
        assert facts(met).timeline is None


def test_what_fell_stands_in_one_place_by_status_and_rule() -> None:
    result = named("searched")
    result["candidates"][0].update(status="not_tried", reasons=[{"rule": "outraced", "text": "too slow to win"}])
    told = [(group.heading, group.label, len(group.rows)) for group in facts(result).fallen]
    assert told == [
        ("Failed", "did not run", 1),
        ("Measured, and not good enough", "metric", 4),
        ("Measured, and not good enough", "not better", 2),
        ("Not tried", "outraced", 1),
        ("Not possible on this machine", "not available", 1),
    ]


def test_the_charts_of_a_search_are_json_without_a_mark_of_a_users_names() -> None:
    result = named("searched")
    result["candidates"][-1]["title"] = "<b>mine</b>"
    drawn = json.dumps({name: charts(facts(result))[name] for name in ("timeline", "parallel")})
    assert "<b>mine" not in drawn
    assert "&lt;b&gt;mine" in drawn


def test_the_page_tells_how_the_time_was_planned(met: Json) -> None:
    met["plan"] = [{"at_s": 5.0, "text": "plan after 5 s, with 60 s left: <much>"}, {"at_s": 9.0}]
    text = page(met)
    assert "<li>Plan after 5 s, with 60 s left: &lt;much&gt;.</li>" in text
    assert "How it was planned" not in page(named("met"))


class TestWaterfall:
    def test_each_quantity_goes_from_the_baseline_to_the_end(self, met: Json) -> None:
        steps = ({"prune": {"macs": 0.5}}, "quantize")
        made = []
        for n, (speed, drop, size) in enumerate([(2.0, 0.0, 1_000_000), (4.0, 1.0, 500_000), (8.0, 1.5, 125_000)]):
            one = record(
                f"w{n}", f"w{n}", "passed", "onnxruntime", "fp32", **measured(2.44 / speed, (speed,) * 3, 87.0, (drop,) * 3, size, 9e7, 1.0)
            )
            one["recipe"]["steps"] = list(steps[:n])
            made.append(one)
        met.update(candidates=made, best="w2")
        falls = {one.id: one for one in facts(met).waterfalls}
        assert set(falls) == {"payoff-speedup", "payoff-size-bytes", "payoff-drop"}
        times = falls["payoff-speedup"]
        assert [bar.title for bar in times.bars] == ["Baseline", "ONNX Runtime fp32, 2 threads", "prune", "quantize", "Chosen"]
        assert [bar.value for bar in times.bars] == pytest.approx([2.44, -1.22, -0.61, -0.305, 0.305])
        assert sum(bar.value for bar in times.bars[:-1]) == pytest.approx(times.bars[-1].value)
        assert [bar.value for bar in falls["payoff-drop"].bars] == pytest.approx([0, 0, 1.0, 0.5, 1.5])
        drawn = charts(facts(met))["payoff-drop"]["data"][0]
        assert drawn["measure"] == ["absolute", "relative", "relative", "relative", "total"]

    def test_one_part_is_none(self, met: Json) -> None:
        met["candidates"] = met["candidates"][1:2]
        met.update(best=met["candidates"][0]["key"])
        assert facts(met).waterfalls == ()


class TestAxes:
    def test_each_quantity_has_every_candidate_that_was_measured(self, met: Json) -> None:
        found = facts(met).axes
        assert found is not None
        assert (found.x, found.y) == ("latency_ms", "metric")
        by_name = {one.name: one for one in found.quantities}
        assert by_name["latency_ms"].values["openvino-bf16"] == (0.351,) * 3
        assert by_name["drop"].values["openvino-bf16"] == (-0.04, -0.22, 0.14)
        assert by_name["speedup"].values["baseline"] == (1.0,) * 3  # what it has with itself
        assert by_name["size_bytes"].values["torch-bf16"][0] == pytest.approx(1.196032)
        assert by_name["size_bytes"].title == "File size, MB (lower is better)"
        assert by_name["speedup"].title == "Speed-up, × (higher is better)"
        assert "onnxruntime-bf16" not in by_name["latency_ms"].values

    def test_a_run_of_the_baseline_alone_has_no_choice(self) -> None:
        assert facts(named("only-baseline")).axes is None
