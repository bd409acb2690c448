from __future__ import annotations

import re
from typing import Any

import pytest

from laconic.report.charts import charts
from laconic.report.facts import facts
from tests.report.results import Json, measured, named, record


def drawn(result: Json) -> dict[str, Json]:
    return charts(facts(result))


def painted(value: Any) -> Any:
    """The figure with every `var(--x)` under a colour key made a colour, as page.js does."""
    if isinstance(value, dict):
        return {k: "#123456" if k.lower().endswith("color") and str(v).startswith("var(--") else painted(v) for k, v in value.items()}
    return [painted(item) for item in value] if isinstance(value, list) else value


def test_plotly_knows_every_attribute(any_result: Json) -> None:
    """Plotly's own schema is the judge: an unknown attribute or a value out of range raises."""
    go = pytest.importorskip("plotly.graph_objects")
    for figure in drawn(any_result).values():
        go.Figure(painted(figure))
        assert "var(--" not in str(painted(figure))


def test_which_figures_there_are() -> None:
    assert set(drawn(named("met"))) == {"frontier", "parallel", "spread", "curve", "layers", "loss", "score"}
    assert set(drawn(named("all-failed"))) == {"layers"}
    assert drawn(named("only-baseline")) == {}


def test_no_metric_in_training_draws_only_the_loss(met: Json) -> None:
    for epoch in met["training"]:
        epoch["metric"] = None
    assert "loss" in drawn(met)
    assert "score" not in drawn(met)


def test_each_measured_candidate_is_one_mark_of_its_kind(met: Json) -> None:
    traces = {trace["name"]: trace for trace in drawn(met)["frontier"]["data"]}
    assert {name: len(trace["x"]) for name, trace in traces.items() if trace["mode"] == "markers"} == {
        "Best": 1,
        "On the frontier": 1,
        "Passed": 2,
        "Baseline": 1,
        "Rejected": 2,
    }
    assert traces["Frontier"]["x"] == sorted(traces["Frontier"]["x"])
    assert traces["Best"]["error_x"]["array"][0] == pytest.approx(0.351 * 6.93 / 6.71 - 0.351)
    assert traces["Best"]["error_x"]["arrayminus"][0] == pytest.approx(0.351 - 0.351 * 6.93 / 7.18)
    assert traces["Best"]["error_y"]["array"][0] == pytest.approx(0.18)
    shapes = {trace["marker"]["symbol"][0] for name, trace in traces.items() if name != "Frontier"}
    assert len(shapes) >= 4  # nothing hangs on colour alone


def test_the_nearest_miss_is_named_so(missed: Json) -> None:
    assert "Nearest miss" in {trace["name"] for trace in drawn(missed)["frontier"]["data"]}


def test_hovering_shows_the_recipe(met: Json) -> None:
    best = next(trace for trace in drawn(met)["frontier"]["data"] if trace["name"] == "Best")
    lines = best["customdata"][0].split("<br>")
    assert lines[:2] == ["<b>OpenVINO · bf16</b>", "Recipe: fold_batch_norm → OpenVINO bf16, 2 threads"]
    assert any(line.startswith("Speed-up: 6.93×") for line in lines)


def test_a_log_axis_counts_in_exponents_and_names_round_numbers(met: Json) -> None:
    axis = drawn(met)["frontier"]["layout"]["xaxis"]
    assert axis["type"] == "log"
    assert axis["ticktext"] == ["0.5", "1", "2"]
    assert 10 ** axis["range"][0] < 0.351 < 2.6 < 10 ** axis["range"][1]


def test_a_wide_log_axis_keeps_to_powers_of_ten(met: Json) -> None:
    met["candidates"].append(
        record("slow", "Slow", "rejected", "torch", "fp32", **measured(5000, (0.0005, 0.0004, 0.0006), 87.4, (0.04, 0, 0.1), 9, 9, 9))
    )
    assert drawn(met)["frontier"]["layout"]["xaxis"]["ticktext"] == ["1", "10", "100", "1000", "10000"]


def test_two_upright_budget_lines_are_named_on_their_outer_sides(missed: Json) -> None:
    texts = {a["text"]: a["xanchor"] for a in drawn(missed)["frontier"]["layout"]["annotations"] if a.get("textangle")}
    assert texts == {"max latency 0.3\xa0ms": "right", "min speed-up 8×": "left"}


def test_a_crowd_has_error_bars_only_where_they_matter(met: Json) -> None:
    for i in range(30):
        met["candidates"].append(
            record(f"c{i}", f"C{i}", "passed", "torch", "fp32", **measured(1 + i / 50, (1.5, 1.4, 1.6), 87.0, (0.4, 0.3, 0.5), 9, 9, 9))
        )
    traces = {trace["name"]: trace for trace in drawn(met)["frontier"]["data"]}
    assert "error_x" in traces["Best"]
    assert "error_x" not in traces["Passed"]


def test_layers_stand_in_the_order_of_the_network(met: Json) -> None:
    macs, params = drawn(met)["layers"]["data"]
    assert macs["y"] == [layer["macs"] for layer in met["layers"]]
    assert params["y"] == [layer["params"] for layer in met["layers"]]
    assert macs["x"] == list(range(20))
    assert drawn(met)["layers"]["layout"]["xaxis"]["showticklabels"] is False
    met["layers"] = met["layers"][:3]
    assert drawn(met)["layers"]["layout"]["xaxis"]["ticktext"] == ["conv1", "layer1.0.conv1", "layer1.0.conv2"]


def test_what_a_user_named_is_no_markup_in_a_plot() -> None:
    tags = set(re.findall(r"<[^>]*>", str(drawn(named("hostile")))))
    assert tags <= {"<b>", "</b>", "<br>", "<extra>", "</extra>"}
