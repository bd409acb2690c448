from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

import pytest

from laconic.report.candidates import candidate
from laconic.report.charts import charts
from laconic.report.facts import facts
from laconic.report.page import page
from laconic.report.quantization import Quantization
from tests.report.results import Json, measured, named, quantized_outcome, record, section, sensitivity
from tests.report.test_page import Reader, words


@pytest.fixture
def result() -> Json:
    return named("quantized")


def found(result: Json) -> Quantization:
    made: Quantization = section(result, "quantization")
    return made


def drawn(result: Json) -> dict[str, Json]:
    return charts(facts(result))


def with_outcomes(*outcomes: Json) -> Json:
    """A run whose best candidate has these outcomes."""
    made = named("met")
    made["candidates"][0]["outcomes"] = list(outcomes)
    return made


def step(name: str = "quantize", skipped: list[Json] | None = None, **changed: Any) -> Json:
    return {"step": name, "section": "quantization", "bits": 8, "changed": changed, "skipped": skipped or [], "notes": []}


def skip(name: str, reason: str) -> Json:
    return {"name": name, "reason": reason}


class TestWhose:
    def test_the_chosen_is_shown_though_another_is_faster(self, result: Json) -> None:
        assert found(result).lead == "OpenVINO · int8, mixed: 3 operators are computed in integers; 38 listed as left float."

    def test_where_the_chosen_has_none_it_is_the_fastest_that_has_one(self, result: Json) -> None:
        result["best"] = "openvino-bf16"
        assert found(result).title == "OpenVINO · int8"
        assert found(result).lead.endswith("It was not chosen; it is shown as the fastest that passed with such a step.")
        result["candidates"][-2]["measured"]["speedup"]["value"] = 10.0
        assert found(result).title == "OpenVINO · int8, mixed"

    def test_the_nearest_miss_counts_as_chosen(self, result: Json) -> None:
        result.update(best=None, nearest="openvino-int8", met=False)
        assert found(result).lead == "OpenVINO · int8: 73 operators are computed in integers; 38 listed as left float."

    def test_without_a_speedup_the_latency_decides(self, result: Json) -> None:
        result["best"] = None
        for one in result["candidates"]:
            one["measured"].pop("speedup", None)
        assert found(result).title == "OpenVINO · int8"
        result["candidates"][-2]["measured"]["latency_ms"]["value"] = 0.5
        assert found(result).title == "OpenVINO · int8, mixed"

    def test_what_was_never_timed_is_not_called_fast(self) -> None:
        result = named("all-failed")
        result["candidates"][1]["outcomes"] = [quantized_outcome()]
        assert found(result).lead.endswith(
            "None with such a step passed; it is shown as the first of those with such a step, none of which was timed: memory: more than 4.0 GB."
        )
        result["candidates"].append(record("q", "Timed", "rejected", "openvino", "int8", outcomes=[quantized_outcome()], **SLOW))
        assert found(result).title == "Timed"

    @pytest.mark.parametrize("name", ["met", "not-met", "all-failed", "only-baseline"])
    def test_a_run_that_quantized_nothing_has_no_section(self, name: str) -> None:
        assert "quantization" not in [one.name for one in facts(named(name)).steps]
        assert "h-quantization" not in page(named(name))

    @pytest.mark.parametrize("name", ["quantize", "quantize_mixed", "qat"])
    def test_each_step_that_quantizes_counts(self, name: str) -> None:
        assert found(with_outcomes({"step": "fold_batch_norm"}, step(name))).settings[0] == ("Step", name)


SLOW = measured(3.0, (0.8, 0.7, 0.9), 87.0, (0.4, 0.3, 0.5), 9, 9, 9)


class TestSettings:
    def test_a_static_one(self, result: Json) -> None:
        result["best"] = "openvino-int8"
        assert found(result).settings == (
            ("Step", "quantize"),
            ("Mode", "static: activations are rounded to ranges seen in calibration"),
            ("Target", "OpenVINO"),
            ("Weights", "8 bits, 74 tensors"),
            ("Range of weights", "half: codes within ±63, so that sums of products fit into 16 bits"),
            ("Calibration", "256 examples"),
            ("Norms smoothed", "24"),
            ("Biases corrected", "73"),
        )

    def test_a_mixed_one_has_no_mode(self, result: Json) -> None:
        assert "Mode" not in dict(found(result).settings)

    @pytest.mark.parametrize(
        ("weights", "texts"),
        [
            ({"bits": 4, "tensors": 1, "reduce_range": False}, ("4 bits, 1 tensor", "the whole range of codes")),
            ({"bits": 4, "tensors": 2, "group": 32}, ("4 bits, 2 tensors, a scale for each 32 inputs of an output", "not recorded")),
            ({"bits": 8, "tensors": 2, "group": 0}, ("8 bits, 2 tensors", "not recorded")),
            ({"bits": 8}, ("8 bits, tensors not recorded", "not recorded")),
            ({}, ("bits not recorded, tensors not recorded", "not recorded")),
            (None, ("bits not recorded, tensors not recorded", "not recorded")),
        ],
        ids=["four bits", "groups", "no groups", "bits alone", "empty", "null"],
    )
    def test_weights(self, weights: Any, texts: tuple[str, str]) -> None:
        shown = dict(found(with_outcomes(step(weights=weights))).settings)
        assert (shown["Weights"], shown["Range of weights"]) == texts

    @pytest.mark.parametrize(
        ("mode", "names", "said"),
        [
            ("static", ["a"], "1 operator is computed in integers"),
            ("weights", ["a"], "1 operator has rounded weights"),
            ("weights", ["a", "b"], "2 operators have rounded weights"),
            ("dynamic", None, "how many operators have rounded weights was not recorded"),
        ],
        ids=["static", "one", "two", "not recorded"],
    )
    def test_rounded_weights_alone_are_not_called_integer_arithmetic(self, mode: str, names: list[str] | None, said: str) -> None:
        made = with_outcomes(step(mode=mode, operators=names))
        assert found(made).lead == f"OpenVINO · bf16: {said}; none listed as left float."
        assert ("in integers" in words(Reader(page(made)).seen)) is (mode == "static")
        assert ("Operators with rounded weights: " in page(made)) is (mode == "weights")

    def test_counts_of_corrections(self) -> None:
        shown = found(with_outcomes(step(equalized_pairs=0, clipped_layers=1200, correct_bias=True, examples=8))).settings
        assert shown[-3:] == (("Calibration", "8 examples"), ("Pairs equalized", "0"), ("Clipped layers", "1\u202f200"))

    def test_an_old_record_says_what_it_lacks(self) -> None:
        made = found(with_outcomes({"step": "quantize", "section": "quantization"}))
        assert made.settings == (
            ("Step", "quantize"),
            ("Target", "not recorded"),
            ("Weights", "bits not recorded, tensors not recorded"),
            ("Range of weights", "not recorded"),
            ("Corrections", "no counts were recorded"),
        )
        assert "how many operators are computed in integers was not recorded; none listed as left float" in made.lead
        assert (made.operators, made.left, made.ranges.rows, made.sensitivity, made.epochs) == ((), (), (), None, None)
        assert made.ranges.note == "The ranges of activations were not recorded."

    def test_static_calibration_that_was_not_counted(self) -> None:
        assert dict(found(with_outcomes(step(mode="static"))).settings)["Calibration"] == "examples not recorded"
        assert "Calibration" not in dict(found(with_outcomes(step(mode="dynamic"))).settings)

    def test_the_later_of_two_steps_counts(self) -> None:
        first = step("quantize", [skip("a", "odd")], target="onnxruntime", operators=["x", "y"], mode="static")
        made = found(with_outcomes(first, step("qat", target="openvino", operators=["a", "x", "y"])))
        assert dict(made.settings)["Steps"] == "quantize → qat"
        assert dict(made.settings)["Target"] == "OpenVINO"
        assert (made.operators, made.left) == (("a", "x", "y"), ())

    def test_a_later_step_that_tells_nothing_leaves_the_earlier_word(self) -> None:
        made = found(with_outcomes(step("quantize", [skip("a", "odd")], operators=["x"]), step("qat")))
        assert (made.operators, [left.reason for left in made.left]) == (("x",), ["odd"])


class TestLeftFloat:
    def test_equal_reasons_are_one_line(self, result: Json) -> None:
        left = found(result).left
        assert [(one.count, one.reason) for one in left] == [
            (24, "layer normalization needs the range of floats"),
            (12, "softmax needs the range of floats"),
            (1, "normalizes what no constant scales"),
            (1, "kept: the last layer"),
        ]
        prefix = "encoder.layer"
        assert (
            left[1].some == f"12 operators, e.g. {prefix}.0.attention.softmax, {prefix}.1.attention.softmax, {prefix}.2.attention.softmax"
        )
        assert left[2].some == "1 operator: embeddings.norm"
        assert len(left[1].names) == 12

    def test_a_name_that_repeats_is_named_once(self, result: Json) -> None:
        assert found(result).left[0].names[:2] == ("encoder.layer.0.norm (2×)", "encoder.layer.1.norm (2×)")

    def test_no_reason_and_no_name(self) -> None:
        left = found(with_outcomes(step(skipped=[skip("", ""), {}]))).left
        assert [(one.reason, one.names) for one in left] == [("no reason was recorded", ("unnamed (2×)",))]

    def test_the_account_of_each_candidate_is_as_short(self, result: Json) -> None:
        shown = candidate(result["candidates"][-2]).outcomes[0]
        assert len(shown.skipped) == 4
        assert sum(left.count for left in shown.skipped) == 38
        assert dict(shown.changed)["activations"] == "73 entries"


class TestRanges:
    def test_in_the_order_of_the_network(self, result: Json) -> None:
        ranges = found(result).ranges
        assert len(ranges.rows) == len(ranges.drawn) == 73
        assert (ranges.rows[1].low, ranges.rows[1].high) == (-1.75, 2.5)
        assert (ranges.rows[1].low_text, ranges.rows[1].high_text, ranges.rows[1].zero_text) == ("−1.75", "2.50", "1")
        assert ranges.alt == "Ranges of 73 activations. The widest is that of pooler: −19.5 to 38.0."
        assert ranges.note == ""

    def test_an_end_that_is_missing_is_not_zero(self) -> None:
        items = [
            {"name": "a", "low": 0.0, "high": 1.0, "zero_point": 0},
            {"name": "b", "low": None, "high": 2.0},
            {"low": math.inf, "high": 1},
        ]
        ranges = found(with_outcomes(step(activations=items))).ranges
        assert [(row.name, row.low_text, row.zero_text) for row in ranges.rows] == [
            ("a", "0.00", "0"),
            ("b", "not recorded", "not recorded"),
            ("unnamed", "not recorded", "not recorded"),
        ]
        assert [row.name for row in ranges.drawn] == ["a"]
        assert ranges.note == "Not drawn, because an end was not recorded: 2 of 3."

    @pytest.mark.parametrize(
        ("mode", "note"),
        [
            ("dynamic", "Ranges are chosen anew for each input."),
            ("weights", "Activations stay float: there are no ranges."),
            ("static", "The ranges of activations were not recorded."),
        ],
    )
    def test_why_there_are_none(self, mode: str, note: str) -> None:
        made = with_outcomes(step(mode=mode, activations=[]))
        assert found(made).ranges.note == note
        assert "ranges" not in drawn(made)

    def test_bars_go_from_low_to_high(self, result: Json) -> None:
        (bars,) = drawn(result)["ranges"]["data"]
        activations = result["candidates"][-1]["outcomes"][0]["changed"]["activations"]
        assert bars["base"] == [item["low"] for item in activations]
        assert [base + width for base, width in zip(bars["base"], bars["x"], strict=True)] == [item["high"] for item in activations]
        assert bars["customdata"][0] == "<b>encoder.layer.0.attention.query</b><br>−1.50 to 2.00<br>zero point 0"

    def test_many_are_counted_and_few_are_named_first_on_top(self, result: Json) -> None:
        axis = drawn(result)["ranges"]["layout"]["yaxis"]
        assert axis["showticklabels"] is False
        assert axis["title"]["text"] == "73 activations, in the order of the table"
        changed = result["candidates"][-1]["outcomes"][0]["changed"]
        changed["activations"] = changed["activations"][:2]
        axis = drawn(result)["ranges"]["layout"]["yaxis"]
        assert axis["ticktext"] == ["…yer.0.attention.query", "…layer.0.attention.key"]
        assert axis["range"][0] > axis["range"][1]


class TestSensitivity:
    def test_sorted_by_harm(self, result: Json) -> None:
        made = found(result).sensitivity
        assert made is not None
        assert [(row.name, row.text.replace("\xa0", " "), row.fate) for row in made.rows] == [
            ("head", "−2.00 dB", "kept float"),
            ("embed", "11.0 dB", "kept float"),
            ("fc3", "24.2 dB", "rounded"),
            ("fc1", "38.5 dB", "rounded"),
            ("fc2", "no change", "rounded"),
        ]
        assert "for 4 operators" in made.alt
        assert made.alt.replace("\xa0", " ").endswith("The most harmful is head: −2.00 dB (kept float).")
        assert made.note == "No change at all, and no bar: 1."

    def test_what_was_not_recorded_is_not_called_unchanged(self) -> None:
        made = found(with_outcomes(step(sensitivity=[{"name": "a"}, {"name": "b", "sqnr_db": None}]))).sensitivity
        assert made is not None
        assert [(row.name, row.text, row.fate) for row in made.rows] == [
            ("b", "no change", "not recorded"),
            ("a", "not recorded", "not recorded"),
        ]
        assert made.note == "No change at all, and no bar: 1. Not recorded: 1."

    def test_only_the_most_harmful_are_drawn(self) -> None:
        items = [{"name": f"fc{i}", "sqnr_db": 100.0 - i, "kept_float": False} for i in range(44)]
        made = found(with_outcomes(step(sensitivity=items))).sensitivity
        assert made is not None
        assert [row.name for row in made.drawn] == [f"fc{i}" for i in range(43, 13, -1)]
        assert (len(made.rows), made.note) == (44, "The 30 most harmful of 44 are drawn.")

    def test_kept_float_is_marked_by_colour_and_by_words(self, result: Json) -> None:
        traces = {trace["name"]: trace for trace in drawn(result)["sensitivity"]["data"]}
        assert {name: (trace["y"], trace["x"]) for name, trace in traces.items()} == {
            "Rounded": ([2, 3], [24.25, 38.5]),
            "Kept float": ([0, 1], [-2.0, 11.0]),
            "Words": ([0, 1], [0.0, 11.0]),  # beside a bar that points left too: its other side is the axis
        }
        assert traces["Words"]["text"] == [" kept float"] * 2
        assert traces["Kept float"]["marker"]["color"] != traces["Rounded"]["marker"]["color"]
        axis = drawn(result)["sensitivity"]["layout"]
        assert axis["yaxis"]["ticktext"] == ["head", "embed", "fc3", "fc1"]
        assert axis["xaxis"]["range"][0] < -2 < 38.5 < axis["xaxis"]["range"][1]

    def test_a_fate_that_was_not_recorded_is_not_called_rounded(self) -> None:
        names = {trace["name"] for trace in drawn(with_outcomes(step(sensitivity=[{"name": "a", "sqnr_db": 3.0}])))["sensitivity"]["data"]}
        assert names == {"Rounded or not recorded"}

    def test_nothing_to_draw_draws_nothing(self) -> None:
        assert "sensitivity" not in drawn(with_outcomes(step(sensitivity=[{"name": "b", "sqnr_db": None}])))
        assert "sensitivity" not in drawn(with_outcomes(step()))


def test_training_with_rounding_is_drawn_beside_that_of_the_baseline() -> None:
    epochs = [{"epoch": e, "loss": 1 / e, "lr": 0.01, "metric": None if e == 1 else 80.0 + e, "seconds": 2.0} for e in (1, 2, 3)]
    made = with_outcomes(step("qat", epochs=epochs))
    figures = drawn(made)
    assert figures["qat-loss"]["data"][0]["y"] == [1.0, 0.5, 1 / 3]
    assert figures["qat-score"]["data"][0]["y"] == [None, 82.0, 83.0]
    assert len(figures["loss"]["data"][0]["y"]) == 8
    assert "Accuracy 83.00\xa0% after the last epoch" in page(made)
    for epoch in epochs:
        epoch["metric"] = None
    assert "qat-score" not in drawn(with_outcomes(step("qat", epochs=epochs)))


class TestPage:
    def test_it_says_all_of_it(self, result: Json) -> None:
        read = Reader(page(result).replace("</t", " </t"))  # a space between cells
        text = words(read.seen)
        for expected in [
            "OpenVINO · int8, mixed: 3 operators are computed in integers; 38 listed as left float.",
            "half: codes within ±63",
            "8 bits, 74 tensors",
            "256 examples",
            "softmax needs the range of floats: 12 operators, e.g. encoder.layer.0.attention.softmax",
            "encoder.layer.11.attention.softmax",
            "encoder.layer.0.attention.query −1.50 2.00 0",
            "head −2.00 dB kept float",
            "fc2 no change rounded",
            "No change at all, and no bar: 1.",
        ]:
            assert expected in text, expected
        plots = {attrs["data-figure"]: attrs["aria-label"] for attrs in read.of("div") if "data-figure" in attrs}
        assert list(plots) == ["frontier", "parallel", "spread", "curve", "layers", "ranges", "sensitivity", "loss", "score"]
        assert plots["ranges"].startswith("Ranges of 73 activations.")
        assert set(json.loads(read.scripts[0])) == {*plots, "axes"}

    def test_twelve_layers_do_not_give_sixty_lines(self, result: Json) -> None:
        made = page(result)
        section = made[made.index('id="h-quantization"') : made.index('id="h-training"')]
        assert section.count("<li>") == 4
        assert made.count("left as it was:") == 2 * 4 + sum(len(c["outcomes"][0]["skipped"]) for c in result["candidates"][:4])

    def test_an_old_record_is_a_page_with_no_empty_part(self) -> None:
        text = words(Reader(page(with_outcomes({"step": "quantize", "section": "quantization"}))).seen)
        assert "Nothing was listed." in text
        assert "The ranges of activations were not recorded." in text
        assert "Sensitivity" not in text
        assert "Operators in integers" not in text

    def test_few_names_need_no_second_list(self) -> None:
        few = [skip(name, "odd") for name in "abc"]
        assert "All that stayed float" not in page(with_outcomes(step(skipped=few)))
        assert "All that stayed float" in page(with_outcomes(step(skipped=[*few, skip("d", "odd")])))

    def test_what_a_user_named_stays_text(self) -> None:
        made = page(named("hostile"))
        read = Reader(made)
        section = read.seen[read.seen.rindex("Quantization\n") : read.seen.rindex("Where the time went")]
        assert section.count("<script>alert(1)</script>") >= 6
        assert 'onerror="alert(2)"' in section
        figures = json.loads(read.scripts[0])
        for figure in ("ranges", "sensitivity"):
            assert set(re.findall(r"<[^>]*>", json.dumps(figures[figure]))) <= {"<b>", "</b>", "<br>", "<extra>", "</extra>"}
            assert "&lt;script&gt;" in json.dumps(figures[figure])
            assert "&quot;" not in json.dumps(figures[figure])  # Plotly would show it as written


@pytest.mark.parametrize(
    "name", ["mode", "target", "operators", "weights", "activations", "examples", "sensitivity", "epochs", "smoothed_norms"]
)
@pytest.mark.parametrize(
    "change", [lambda made, name: made.pop(name, None), lambda made, name: made.update({name: None})], ids=["absent", "null"]
)
def test_any_key_may_be_missing(name: str, change: Callable[[Json, str], Any]) -> None:
    outcome = quantized_outcome()
    outcome["changed"]["sensitivity"] = sensitivity()
    change(outcome["changed"], name)
    made = page(with_outcomes(outcome))
    assert 'id="h-quantization"' in made
    assert "None" not in Reader(made[made.index('id="h-quantization"') : made.index('id="h-time"')]).seen


@pytest.mark.parametrize("name", ["changed", "skipped", "notes"])
def test_any_part_of_an_outcome_may_be_missing(name: str) -> None:
    for outcome in ({**quantized_outcome(), name: None}, {k: v for k, v in quantized_outcome().items() if k != name}):
        assert 'id="h-quantization"' in page(with_outcomes(outcome))
