"""The section on sizes that were solved for tells predictions beside what was measured."""

from __future__ import annotations

import math

from laconic.report.page import page
from tests.report.results import Json, named, section
from tests.report.test_page import words

TOLD = {
    "runtime": "onnxruntime", "precision": "int8", "share": 0.6, "layers_ms": 0.5, "factor": 1.6, "latency_ms": 0.8, "measured_ms": 1.0,
    "loss": 0.12, "parts_loss": 0.12, "measured_loss": 0.3,
    "groups": [
        {"name": "conv1", "kind": "channels", "before": 16, "after": 12, "loss": 0.08, "saves": 0.04},
        {"name": "conv2", "kind": "rank", "before": "whole", "after": "spatial 8", "loss": 0.02, "saves": 0.1},
        {"name": "conv3", "kind": "rank", "before": "whole", "after": "whole", "loss": 0.0, "saves": 0.0},
        {"name": "head", "kind": "bits", "before": 8, "after": 32, "loss": -0.01, "saves": -0.02},
        {"name": "block", "kind": "block", "before": 1, "after": 0, "loss": 0.03, "saves": 0.2},
    ],
}  # fmt: skip


def with_predictions(*told: Json) -> Json:
    made = named("met")
    for record, one in zip(made["candidates"], told, strict=False):
        record["predicted"] = one
    return made


def test_latency_and_loss_stand_beside_what_was_measured() -> None:
    made = section(with_predictions(TOLD, {**TOLD, "latency_ms": 0.42, "measured_ms": 0.4, "layers_ms": 0.25, "slowed": 1.5}), "predicted")
    assert made.lead == (
        "Sizes were solved for 2 candidates from the times and losses of single groups; their latency was off by 20.0\u00a0% at most."
    )
    first, second = made.rows
    assert (first.share, first.predicted, first.measured, first.off) == ("60.0\u00a0%", "0.800\u00a0ms", "1.00\u00a0ms", "−20.0\u00a0%")
    assert (first.loss, first.measured_loss, second.off) == ("0.120", "0.300", "+5.0\u00a0%")
    assert (first.pace, second.pace) == ("not recorded", "50.0\u00a0% slower")
    size, *others = made.sizes
    assert (size.name, size.kept, size.loss, size.saves) == ("conv1", "12 of 16", "0.0800", "4.0\u00a0%")
    assert [(one.name, one.kept) for one in others] == [("conv2", "spatial 8"), ("head", "in floats"), ("block", "left out")]
    # one factor for the runtime: 1.6 as it was, and the two that were measured, 1.0 / 0.5 and 0.4 / 0.25
    assert dict(made.settings) == {
        "Model over what the table says, onnxruntime int8": f"1.60 when the first was predicted; {(2.0 * 1.6) ** (1 / 2):.2f} by all that was measured",
        "Loss over that of its parts": "2.50 by all that was measured",
    }
    shown = words(page(with_predictions(TOLD)))
    assert "Choices by part" in shown
    assert "12 of 16" in shown


def test_what_was_not_measured_is_said() -> None:
    made = section(with_predictions({"precision": "fp32", "loss": math.nan, "latency_ms": None, "groups": [{}]}), "predicted")
    assert made.lead.startswith("Sizes were solved for 1 candidate from the times and losses of single groups; none of them was timed.")
    assert set(vars(made.rows[0]).values()) == {made.rows[0].title, "not recorded"}
    assert (made.sizes[0].name, made.sizes[0].kept, made.settings) == ("unnamed", "not recorded", ())
