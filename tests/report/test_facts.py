from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from laconic.core.errors import BadInput
from laconic.report.candidates import candidate, recipe_text
from laconic.report.facts import Facts, facts
from tests.report.results import RESULTS, Json, measured, measurement, named, reason, record


def cells(found: Facts, key: str) -> dict[str, Any]:
    row = next(row for row in found.table.rows if row.key == key)
    return {cell.key: cell for cell in row.cells}


def figure(found: Facts, key: str) -> Any:
    return next(one for one in found.figures if one.key == key)


def test_every_result_can_be_read(any_result: Json) -> None:
    found = facts(any_result)
    assert len(found.candidates) == 1 + len(any_result["candidates"])
    assert [row.key for row in found.table.rows] == ["baseline", *(c["key"] for c in any_result["candidates"])]
    assert all(len(row.cells) == len(found.table.columns) or row.gap for row in found.table.rows)


def test_big_figures(met: Json) -> None:
    found = facts(met)
    shown = {
        one.key: (one.amount.text.replace("\xa0", " "), one.amount.interval, one.before.replace("\xa0", " "), one.remark)
        for one in found.figures
    }
    assert shown == {
        "speedup": ("6.93×", "6.71 to 7.18", "median 2.44 → 0.351 ms", ""),
        "drop": ("0.05 points", "−0.07 to 0.17", "test data 87.36 → 87.31 %", ""),
        "size_bytes": ("1.12 MB", "", "1.20 → 1.12 MB", "1.08× smaller"),
        "peak_memory_bytes": ("96.5 MB", "", "283 → 96.5 MB", "2.93× less"),
        "cold_start_ms": ("312 ms", "", "2.18 → 0.312 s", "6.99× faster"),
    }


def test_the_drop_is_of_validation_data_where_test_data_was_not_used(met: Json) -> None:
    del met["candidates"][0]["measured"]["test_drop"]
    shown = figure(facts(met), "drop")
    assert (shown.amount.text, shown.amount.interval) == ("−0.04\xa0points", "−0.22 to 0.14")
    assert shown.before.startswith("validation 87.44 → 87.48")


@pytest.mark.parametrize(
    ("size", "remark", "tone"),
    [(2_404_352, "2.00× larger", "bad"), (1_202_176, "the same", "plain"), (601_088, "2.00× smaller", "good")],
)
def test_a_figure_that_got_worse_says_so(met: Json, size: int, remark: str, tone: str) -> None:
    met["candidates"][0]["measured"]["size_bytes"]["value"] = size
    shown = figure(facts(met), "size_bytes")
    assert (shown.remark, shown.tone) == (remark, tone)


@pytest.mark.parametrize(("low", "high", "tone"), [(1.02, 7.0, "good"), (0.9, 7.0, "plain"), (0.5, 0.9, "bad")])
def test_a_speedup_is_good_only_with_its_whole_interval(met: Json, low: float, high: float, tone: str) -> None:
    met["candidates"][0]["measured"]["speedup"].update(low=low, high=high)
    assert figure(facts(met), "speedup").tone == tone


def test_a_drop_within_the_budget_is_not_painted_bad(met: Json) -> None:
    met["candidates"][0]["measured"]["test_drop"].update(value=0.4, low=0.2, high=0.6)
    assert figure(facts(met), "drop").tone == "plain"
    met["candidates"][0]["reasons"] = [reason("metric", "the drop is 0.6 points")]
    assert figure(facts(met), "drop").tone == "bad"


@pytest.mark.parametrize(("objective", "first"), [("latency", "speedup"), ("size", "packed_size_bytes"), ("memory", "peak_memory_bytes")])
def test_the_objective_comes_first(met: Json, objective: str, first: str) -> None:
    met["budget"]["objective"] = objective
    if objective == "size":
        for one in (met["baseline"], *met["candidates"]):
            one["measured"]["packed_size_bytes"] = {"value": 1e5, "unit": "B"}
    found = facts(met)
    assert found.figures[0].key == first
    assert {one.key for one in found.figures} == {first, "speedup", "drop", "size_bytes", "peak_memory_bytes", "cold_start_ms"}


@pytest.mark.parametrize(
    ("name", "kind", "label", "chosen"),
    [
        ("met", "met", "Best", "openvino-bf16"),
        ("not-met", "missed", "Nearest miss", "openvino-bf16"),
        ("all-failed", "nothing", "Nearest miss", None),
        ("nothing-available", "untried", "Nearest miss", None),
        ("only-baseline", "untried", "Nearest miss", None),
    ],
)
def test_what_kind_of_end_a_run_had(name: str, kind: str, label: str, chosen: str | None) -> None:
    found = facts(named(name))
    assert (found.heading.kind, found.label, found.chosen and found.chosen.key) == (kind, label, chosen)


def test_without_limits_a_run_improves_and_meets_nothing(met: Json) -> None:
    met["budget"] = {"objective": "latency"}
    assert facts(met).heading.badge == "Improved"
    assert facts(met).budget == ()


def test_the_baseline_as_best_is_kept(met: Json) -> None:
    met["best"] = "baseline"
    found = facts(met)
    assert (found.heading.kind, found.chosen) == ("kept", None)
    assert [one.key for one in found.figures] == ["latency_ms", "metric", "size_bytes", "peak_memory_bytes", "cold_start_ms"]


def test_a_missed_budget_shows_each_line_as_the_gate_judged_it(missed: Json) -> None:
    found = facts(missed)
    assert [(rule.name, rule.held) for rule in found.budget] == [
        ("max_drop", True),
        ("min_speedup", False),
        ("max_latency_ms", False),
        ("max_size_mb", True),
    ]
    reached = [rule.reached.replace("\xa0", " ") for rule in found.budget]
    assert reached == [
        "reached −0.04 points (−0.22 to 0.14) on validation data, 0.05 points (−0.07 to 0.17) on test data",
        "reached 6.93× (6.71 to 7.18)",
        "reached 0.351 ms",
        "reached 1.12 MB",
    ]
    assert found.heading.reason.startswith("The fastest candidate reaches 6.93×")


def test_a_drop_that_broke_only_on_test_data_is_missed(missed: Json) -> None:
    missed["candidates"][0]["measured"]["test_drop"].update(value=0.3, low=0.1, high=0.5)
    assert facts(missed).budget[0].held is False
    met = named("met")
    met["candidates"][0]["measured"]["test_drop"].update(value=0.3, low=0.1, high=0.5)
    assert facts(met).budget[0].held is True


def test_a_budget_nobody_was_measured_against_is_unknown() -> None:
    rule = facts(named("all-failed")).budget[0]
    assert (rule.held, rule.reached) == (None, "nothing was measured")


def test_a_reason_that_the_verdict_tells_already_is_not_repeated(missed: Json) -> None:
    missed["verdict"] = f"Budget not met: {missed['reason']}."
    assert facts(missed).heading.reason == ""


def test_a_null_measurement_says_why(met: Json) -> None:
    cell = cells(facts(met), "torch.compile-fp32")["throughput_per_s"]
    assert (cell.text, cell.sort, cell.reason) == ("Not measured", None, "the throughput round ran out of time (30 s)")


def test_a_null_without_a_note_still_says_something(met: Json) -> None:
    del met["candidates"][0]["measured"]["peak_memory_bytes"]
    found = facts(met)
    assert cells(found, "openvino-bf16")["peak_memory_bytes"].reason == "no reason was recorded"
    assert figure(found, "peak_memory_bytes").amount.text == "Not measured: no reason was recorded"


def test_rows_without_any_measurement_tell_the_reason_once(met: Json) -> None:
    rows = {row.key: row for row in facts(met).table.rows}
    assert rows["onnxruntime-bf16"].gap == "Not measured: CPUExecutionProvider has no bf16 kernels for Conv"
    assert rows["torchscript-bf16"].gap.startswith("Not measured: timeout: no answer within 60 s")
    assert (rows["onnxruntime-bf16"].cells, rows["onnxruntime-bf16"].note) == ((), "")


def test_columns_share_a_unit_and_sort_by_the_raw_number(met: Json) -> None:
    found = facts(met)
    assert {c.key: c.unit for c in found.table.columns} == {
        "speedup": "×", "latency_ms": "ms", "latency_p95_ms": "ms", "metric": "%", "drop": "points", "size_bytes": "MB", "peak_memory_bytes": "MB",
        "cold_start_ms": "s", "throughput_per_s": "per s", "seconds": "s",
    }  # fmt: skip
    best = cells(found, "openvino-bf16")
    assert (best["latency_ms"].text, best["latency_ms"].sort) == ("0.351", pytest.approx(0.351))
    assert (best["drop"].text, best["drop"].interval) == ("−0.04", "−0.22 to 0.14")
    assert cells(found, "torch-bf16")["speedup"].text == "0.94"


@pytest.mark.parametrize("name", ["met", "not-met"], ids=["as null", "as 1 and 0"])
def test_the_baseline_is_the_reference(name: str) -> None:
    own = cells(facts(named(name)), "baseline")
    assert [(own[key].text, own[key].sort) for key in ("speedup", "drop")] == [("reference", 1.0), ("reference", 0.0)]


def test_what_the_machine_could_not_do(met: Json) -> None:
    assert facts(met).unavailable == (("ONNX Runtime · bf16", "CPUExecutionProvider has no bf16 kernels for Conv"),)


def test_the_final_table_has_only_who_met_the_test_data(met: Json) -> None:
    found = facts(met)
    assert [row.key for row in found.final.rows] == ["baseline", "openvino-bf16"]
    best = {cell.key: cell.text for cell in found.final.rows[1].cells}
    assert best == {"test_metric": "87.31", "test_drop": "0.05", "speedup": "6.93", "latency_ms": "0.351", "size_bytes": "1.12"}
    assert found.final_note.startswith("10\u202f000 test examples, used once")


def test_layers_add_up(met: Json) -> None:
    found = facts(met).layers
    # He et al. 2015, table 6: ResNet-20 has 0.27 M parameters; 40.6 M multiply-adds are the usual count of its option-A form.
    assert (found.params.text, found.macs.text) == ("269\xa0k params", "40.6\xa0M MACs")
    assert math.isclose(sum(row.macs_share for row in found.rows), 1)
    assert found.unknown == (("aten.grid_sampler_2d", 2),)


def test_layers_without_totals_are_summed_and_uncounted_ones_named(met: Json) -> None:
    met["totals"] = {}
    met["layers"] = [{"path": "a", "type": "Odd", "params": 10, "macs": None}, {"path": "", "type": "Linear", "params": 30, "macs": 60}]
    found = facts(met).layers
    assert (found.params.text, found.macs.text) == ("40\xa0params", "60\xa0MACs")
    assert (found.rows[0].macs_text, found.rows[1].path, found.rows[0].params_share) == ("not counted", "(whole model)", 0.25)


def test_training_tells_the_last_epoch_not_the_best(met: Json) -> None:
    met["training"][-1]["metric"] = 80.0
    assert "80.00\xa0% after the last epoch" in facts(met).training.alt  # type: ignore[union-attr]
    met["training"] = []
    assert facts(met).training is None


def test_the_ledger_adds_up_and_names_its_own_cost(met: Json) -> None:
    found = facts(met).ledger
    assert found is not None
    assert math.isclose(sum(row.share for row in found.rows), 1)
    assert [row.label for row in found.rows][:2] == ["Timing", "Training the model"]
    assert found.own.replace("\xa0", " ") == "Laconic itself, without running the model: 4.30 s, 4.4 % of the wall time."
    assert found.total.replace("\xa0", " ") == "1 min 37 s"


def test_a_ledger_whose_own_cost_overlaps_its_parts_does_not_count_it_twice(met: Json) -> None:
    met["spent"] = {"time": 9.0, "report": 1.0, "own": 1.0, "total": 10.0}
    found = facts(met).ledger
    assert found is not None
    assert [row.label for row in found.rows] == ["Timing", "This report"]
    met["spent"] = {"time": 6.0, "own": 1.0, "total": 10.0}
    found = facts(met).ledger
    assert found is not None
    assert {row.label: row.seconds for row in found.rows} == {"Timing": 6.0, "Not in any phase": 3.0, "Laconic itself": 1.0}


def test_the_machine(met: Json) -> None:
    shown = {feature.label: feature for feature in facts(met).environment}
    assert shown["Instructions"].has == ("avx2", "avx512_vnni", "amx_int8", "amx_bf16", "avx512_bf16")
    assert shown["Instructions"].lacks == ("avx512_fp16",)
    assert (shown["GPU"].text, shown["Operating system"].text) == ("none", "Linux 6.1.0 (Debian 12)")


def test_how_each_was_made(met: Json) -> None:
    best = facts(met).candidates[1]
    assert best.recipe == "fold_batch_norm → OpenVINO bf16, 2 threads"
    assert best.outcomes[0].changed == (("batch_norms_folded", "21"), ("parameters", "272 474 → 271 098"))
    assert best.parity == "largest difference to the program 3.8e−6 absolute and 8.1e−7 relative over 256 outputs, tolerance 0.0001"
    measured = {facts(met).words.full(row): (amount.full, amount.n) for row, amount in best.measured}
    assert measured["99th percentile of latency"] == ("562\xa0µs", 1840)
    assert measured["Accuracy on test data"] == ("87.31\xa0% (86.65 to 87.97)", 10000)


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        ([], "PyTorch fp32"),
        (["fold_batch_norm"], "fold_batch_norm → PyTorch fp32"),
        ([{"prune": {"macs": 0.5, "criterion": "taylor"}}], "prune (macs 0.5, criterion taylor) → PyTorch fp32"),
        ([{"step": "fit", "epochs": 3}, "fold_batch_norm"], "fit (epochs 3) → fold_batch_norm → PyTorch fp32"),
    ],
    ids=["none", "a name", "a name with options", "a table"],
)
def test_a_recipe_in_one_line(steps: list[Any], text: str) -> None:
    assert (
        recipe_text(
            {"steps": steps, "deploy": {"runtime": "torch", "precision": "fp32", "threads": None, "device": "cpu"}}, title="PyTorch"
        )
        == text
    )


def test_a_recipe_names_a_device_that_is_not_the_cpu() -> None:
    assert (
        recipe_text({"deploy": {"runtime": "torch", "precision": "bf16", "threads": 1, "device": "cuda"}}) == "torch bf16, 1 thread, cuda"
    )


class TestFrontier:
    def test_points_are_in_the_unit_of_the_axis(self, met: Json) -> None:
        found = facts(met).frontier
        assert (found.x.label, found.x.unit, found.x.log, found.y.better) == ("Median latency", "ms", True, "higher")
        best = next(p for p in found.points if p.role == "chosen")
        assert (best.x, best.y) == (pytest.approx(0.351), 87.48)
        assert best.facts[0] == ("Recipe", "fold_batch_norm → OpenVINO bf16, 2 threads")
        assert found.undrawn == ("ONNX Runtime · bf16", "TorchScript · bf16")
        assert "On the frontier: OpenVINO · bf16 at 0.351\xa0ms" in found.alt

    def test_error_bars(self, met: Json) -> None:
        best = next(p for p in facts(met).frontier.points if p.role == "chosen")
        # latency = baseline / speed-up: the interval 6.71 to 7.18 of 6.93 turns around
        assert (best.x_low, best.x_high) == (pytest.approx(0.351 * 6.93 / 7.18), pytest.approx(0.351 * 6.93 / 6.71))
        # a drop of −0.04 (−0.22 to 0.14) is an accuracy of 87.44 − drop
        assert (best.y_low, best.y_high) == (pytest.approx(87.44 - 0.14), pytest.approx(87.44 + 0.22))

    def test_a_metric_that_is_better_when_lower(self, met: Json) -> None:
        met["task"]["metric"]["direction"] = "min"
        best = next(p for p in facts(met).frontier.points if p.role == "chosen")
        assert (best.y_low, best.y_high) == (pytest.approx(87.48 - 0.18), pytest.approx(87.48 + 0.18))
        assert facts(met).frontier.limits[0].value == pytest.approx(87.44 + 0.5)

    def test_budget_lines(self, missed: Json) -> None:
        limits = {limit.text: limit.value for limit in facts(missed).frontier.limits}
        assert limits == {
            "max drop 0.1": pytest.approx(87.34),
            "max latency 0.3\xa0ms": pytest.approx(0.3),
            "min speed-up 8×": pytest.approx(2.44 / 8),
        }

    def test_the_objective_chooses_the_axis(self, met: Json) -> None:
        met["budget"].update(objective="size", max_packed_mb=2.0, max_latency_ms=1.0)
        for one in (met["baseline"], *met["candidates"]):
            if "size_bytes" in one["measured"]:
                one["measured"]["packed_size_bytes"] = one["measured"]["size_bytes"]
        found = facts(met).frontier
        assert (found.x.label, found.x.unit) == ("Packed size", "MB")
        assert [limit.text for limit in found.limits] == ["max drop 0.5", "max packed size 2\xa0MB"]
        assert found.limits[1].value == pytest.approx(2.0)
        assert all(p.x == p.x_low == p.x_high for p in found.points)
        met["budget"]["objective"] = "memory"
        assert facts(met).frontier.x.label == "Peak memory"

    def test_a_ruined_candidate_does_not_squash_the_rest(self, met: Json) -> None:
        ruined = measured(0.32, (7.6, 7.5, 7.7), 49.59, (37.85, 36.0, 39.0), 300_000, 9_000_000, 300.0)
        met["candidates"].append(record("bad", "Static int8", "rejected", "onnxruntime", "int8", **ruined))
        found = facts(met).frontier
        point = next(p for p in found.points if p.key == "bad")
        assert point.off
        assert found.y.low < point.shown < 87
        assert found.y.low > 86
        assert point.y == 49.59
        assert found.outside == ("Static int8 (49.59\xa0%)",)

    def test_all_that_counts_is_within_the_axes(self, missed: Json) -> None:
        found = facts(missed).frontier
        assert all(found.y.low < v < found.y.high for p in found.points for v in (p.y_low, p.y_high, p.shown))
        assert all(found.x.low < v < found.x.high for p in found.points for v in (p.x_low, p.x_high))
        assert all(
            (found.x.low < limit.value < found.x.high) if limit.axis == "x" else (found.y.low < limit.value < found.y.high)
            for limit in found.limits
        )

    @pytest.mark.parametrize("name", ["all-failed", "only-baseline"])
    def test_nothing_to_compare_is_said(self, name: str) -> None:
        assert (
            facts(named(name)).frontier.alt
            == "Only PyTorch eager · fp32 has both median latency and accuracy, so there is nothing to compare."
        )


class TestFormat:
    def test_a_newer_format_is_refused_with_the_next_move(self, met: Json) -> None:
        met.update(format=3, laconic="0.9.0")
        with pytest.raises(BadInput, match=r"format 3 \(written by Laconic 0\.9\.0\).*up to 2.*pip install --upgrade laconic"):
            facts(met)

    def test_an_older_format_is_read_with_a_notice(self, met: Json) -> None:
        met["format"] = 1
        assert "older than 2" in facts(met).heading.notice
        met["format"] = 2
        assert facts(met).heading.notice == ""

    @pytest.mark.parametrize("bad", [{}, {"format": "1"}, {"format": True}, [], None, "text"], ids=repr)
    def test_what_is_no_result_is_refused(self, bad: Any) -> None:
        with pytest.raises(BadInput, match=r"result\.json"):
            facts(bad)

    def test_fields_of_another_kind_are_all_named(self, met: Json) -> None:
        met.update(task=["x"], candidates={"a": 1})
        with pytest.raises(BadInput, match="task, candidates should hold"):
            facts(met)

    def test_a_best_that_is_nowhere_is_refused(self, met: Json) -> None:
        met["best"] = "ghost"
        with pytest.raises(BadInput, match=r"'ghost'.*openvino-bf16"):
            facts(met)

    def test_a_result_of_nothing_but_a_format_is_read(self) -> None:
        found = facts({"format": 2})
        assert (found.heading.task, found.heading.finished, found.layers.rows, found.training, found.ledger) == (
            "task",
            "not finished",
            (),
            None,
            None,
        )

    @pytest.mark.parametrize(
        "name", ["task", "budget", "baseline", "candidates", "layers", "spent", "training", "environment", "reproduce", "totals"]
    )
    @pytest.mark.parametrize(
        "change", [lambda made, name: made.pop(name), lambda made, name: made.update({name: None})], ids=["absent", "null"]
    )
    def test_any_part_may_be_missing(self, met: Json, name: str, change: Callable[[Json, str], Any]) -> None:
        change(met, name)
        if name == "candidates":
            met["best"] = None
        assert facts(met).heading.verdict == named("met")["verdict"]

    @pytest.mark.parametrize("key", [key for key in record("k", "t", "passed", "r", "p") if key not in ("key", "status")])
    def test_any_field_of_a_record_may_be_missing(self, met: Json, key: str) -> None:
        for one in met["candidates"]:
            one.pop(key, None)
        assert facts(met).chosen is not None


def test_numbers_that_are_not_finite_are_not_measured(met: Json) -> None:
    met["candidates"][0]["measured"]["latency_ms"]["value"] = math.nan
    assert facts(met).candidates[1].amount("latency_ms").raw is None


def test_facts_change_nothing(any_result: Json) -> None:
    before = json.dumps(any_result)
    facts(any_result)
    assert json.dumps(any_result) == before


@pytest.mark.parametrize(
    ("finished", "text"),
    [
        ("2026-11-23T08:43:47+00:00", "23 Nov 2026, 08:43 UTC"),
        ("2026-11-23T08:43:47Z", "23 Nov 2026, 08:43 UTC"),
        ("2026-11-23T08:43:47+02:00", "23 Nov 2026, 08:43 +0200"),
        ("yesterday", "yesterday"),
        (None, "not finished"),
    ],
)
def test_when_it_finished(met: Json, finished: Any, text: str) -> None:
    met["finished"] = finished
    assert facts(met).heading.finished == text


@pytest.mark.parametrize(("name", "heading"), [("accuracy", "Accuracy"), ("mse", "MSE"), ("f1", "F1"), ("perplexity", "Perplexity")])
def test_metric_names(met: Json, name: str, heading: str) -> None:
    met["task"]["metric"]["name"] = name
    assert figure(facts(met), "drop").label == f"{heading} drop"


def test_a_record_reads_by_itself() -> None:
    one = candidate({"key": "x", "status": "failed", "reasons": [reason("process", "timeout")]})
    assert (one.title, one.amount("latency_ms").text, one.measured) == ("x", "Not measured: timeout", ())
    assert re.fullmatch("did not run", one.reasons[0].label)


def test_reading_needs_neither_torch_nor_plotly() -> None:
    rooms = ", ".join(f"laconic.report.{name}" for name in ("facts", "charts", "page"))
    code = f"import sys, {rooms}; print({{'torch', 'plotly', 'jinja2', 'rich', 'numpy'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_all_results_are_json() -> None:
    for make in RESULTS.values():
        assert json.loads(json.dumps(make(), allow_nan=False)) == make()


def outputs(*rows: Json) -> Json:
    common = {"max_abs": 1e-3, "n": 640}
    found = {
        "outputs": [{**common, **row} for row in rows],
        "max_abs": 2e-3,
        "max_rel": 3e-4,
        "sqnr_db": 41.0,
        "n": 1280,
        "worst": "scores",
    }
    return {**found, "batches": 4, "sizes": {"batch": [64, 1, 3], "length": [20, 10]}, "left_out": ["batch 3, length 5: too short"]}


def test_parity_is_told_output_by_output(met: Json) -> None:
    boxes = {"name": "boxes", "max_rel": 2e-7, "sqnr_db": None}
    channel = {"channel_axis": 1, "channels": 6, "worst_channel": 3, "worst_channel_db": 22.0, "dead_channels": []}
    met["candidates"][0]["parity"] = {**outputs(boxes, {"name": "scores", "max_rel": 3e-4, "sqnr_db": 41.0, **channel}), "tolerance": 1e-3}
    best = facts(met).candidates[1]
    assert best.outputs == (
        "boxes: 2.0e−7 of the largest value",
        "scores: 0.00030 of the largest value, 41.0 dB, worst channel 3 of 6 (dimension 1) 22.0 dB",
        "not compared, since the model itself does not answer it: batch 3, length 5: too short",
    )
    assert best.parity.endswith("over 1280 outputs, tolerance 0.001, 4 batches of validation data, batch 64 and 1 and 3, length 20 and 10")


def test_parity_of_a_rounded_program_is_told_in_decibels(met: Json) -> None:
    dead = {"channel_axis": 1, "channels": 6, "worst_channel": 3, "worst_channel_db": -0.5, "dead_channels": [3, 4]}
    limits = {"tolerance_sqnr_db": 12.0, "tolerance_channel_db": 3.0}
    met["candidates"][0]["parity"] = {**outputs({"name": "scores", "max_rel": 0.2, "sqnr_db": 41.0, **dead}), **limits}
    best = facts(met).candidates[1]
    assert "41.0 dB signal to noise, at least 12 dB, of each channel at least 3 dB" in best.parity
    assert best.outputs[0].endswith("worst channel 3 of 6 (dimension 1) −0.500 dB, constant in the file alone: 3, 4")


def test_the_size_of_the_baseline_is_that_of_its_onnx_file_and_both_are_named(met: Json) -> None:
    met["baseline"]["measured"].update(onnx_size_bytes=measurement(2_236_416, "B"), size_bytes=measurement(9_000_000, "B"))
    met["candidates"][0]["measured"]["size_bytes"] = measurement(1_118_208, "B")
    found = facts(met)
    shown = figure(found, "size_bytes")
    assert shown.remark.replace("\u00a0", "").replace("\u2009", "").startswith("2.00×")
    assert shown.before.startswith("fp32 ONNX file 2.24")
    assert found.baseline.amount("size_bytes").raw == 2_236_416
    both = {found.words.full(row): amount.text for row, amount in found.baseline.measured}
    assert (both["fp32 ONNX file"], both["File size"]) == ("2.24\u00a0MB", "9.00\u00a0MB")


def test_several_baselines_are_told_apart_by_their_threads(met: Json) -> None:
    other = {
        **met["baseline"],
        "key": "torch-fp32-1t",
        "measured": {name: value for name, value in met["baseline"]["measured"].items() if name != "test_metric"},
        "recipe": {"steps": [], "deploy": {**met["baseline"]["recipe"]["deploy"], "threads": 1}},
    }
    met["other_baselines"] = [other]
    for one in met["candidates"]:
        one["baseline"] = met["baseline"]["key"]
    met["candidates"][1]["baseline"] = "torch-fp32-1t"
    found = facts(met)
    titles = [one.title for one in found.candidates[:2]]
    assert titles == ["PyTorch eager · fp32 · 2 threads", "PyTorch eager · fp32 · 1 thread"]
    assert [one.against for one in found.candidates[2:4]] == titles
    assert [row.status for row in found.table.rows[:2]] == ["baseline", "baseline"]
    assert [row.status for row in found.final.rows].count("baseline") == 1
