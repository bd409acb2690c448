"""Whole runs whose candidates are quantized and pruned."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

import laconic as lc
from tests.run import tiny
from tests.run.tiny import QUICK, TOLERANCE

pytestmark = pytest.mark.slow


def by_key(result: lc.Result) -> dict[str, Any]:
    return {record["key"]: record for record in result.data["candidates"]}


def test_quantized_candidates_are_built_gated_and_delivered(tmp_path: Path) -> None:
    task = tiny.untrained()
    task.plan = dataclasses.replace(task.plan, epochs=30)  # type: ignore[type-var]
    task.valid = tiny.TRAIN  # learned by heart, so that rounding has something to lose
    space = lc.SearchSpace(
        ("onnxruntime", "openvino"),
        ("fp32",),
        threads=1,
        quantize=("static", "weights", "mixed", "qat"),
        prune=(),
        sparsify=(),
        share_weights=(),
        rate_distortion=(),
    )
    result = lc.optimize(task, lc.Budget(max_drop="any", objective="size"), out=tmp_path / "run", space=space, options=QUICK)
    found = by_key(result)
    static = {r["recipe"]["deploy"]["runtime"]: r for r in found.values() if "quantize static" in r["title"]}
    assert set(static) == {"onnxruntime", "openvino"}
    for record in static.values():
        assert record["status"] == "passed", record["reasons"]
        assert record["parity"]["sqnr_db"] > 20
        assert record["measured"]["size_bytes"]["value"] < found["onnxruntime-fp32-1t"]["measured"]["size_bytes"]["value"]
        assert record["outcomes"][0]["changed"]["target"] == record["recipe"]["deploy"]["runtime"]
        assert record["outcomes"][0]["changed"]["operators"]
    lost = {name for name, record in static.items() if record["measured"]["drop"]["value"] > 0}
    for title in ("quantize mixed", "qat"):
        assert {r["recipe"]["deploy"]["runtime"] for r in found.values() if r["title"].startswith(title)} == lost
    assert "quantize" in str(result.data["reproduce"]["recipe_yaml"])
    assert result.met


def test_pruned_candidates_are_built_and_quantized_from_what_was_pruned(tmp_path: Path) -> None:
    space = lc.SearchSpace(
        ("onnxruntime",), ("fp32",), threads=1, quantize=("static",), prune=(0.6,), sparsify=(), share_weights=(), rate_distortion=()
    )
    result = lc.optimize(tiny.task(), lc.Budget(max_drop="any", objective="size"), out=tmp_path / "run", space=space, options=QUICK)
    pruned, both = (r for r in by_key(result).values() if r["title"].startswith("prune"))
    assert [outcome["step"] for outcome in both["outcomes"]] == ["prune", "quantize"]
    assert both["outcomes"][0] == pruned["outcomes"][0]  # not done twice
    assert pruned["parity"]["max_rel"] < TOLERANCE["fp32"]
    assert (
        both["measured"]["size_bytes"]["value"]
        < pruned["measured"]["size_bytes"]["value"]
        < result.data["baseline"]["measured"]["size_bytes"]["value"]
    )
    before, after = pruned["outcomes"][0]["changed"]["macs"]
    assert after <= 0.6 * before
    for record in (pruned, both):  # the objective is what the archive takes; a fresh process restored it
        sizes = {name: record["measured"][name]["value"] for name in ("size_bytes", "packed_size_bytes", "packed_cold_start_ms")}
        archive = next((result.folder / record["artifact"]).glob("*.lac"))
        assert archive.stat().st_size == sizes["packed_size_bytes"] < sizes["size_bytes"]
        assert sizes["packed_cold_start_ms"] > 0
        assert record["packed"]["packed_bytes"] == sizes["packed_size_bytes"]
    assert result.data["baseline"]["measured"]["onnx_packed_size_bytes"]["value"] > 0
    assert "What the bytes of the archive are" in (result.folder / "report.html").read_text(encoding="utf-8")
