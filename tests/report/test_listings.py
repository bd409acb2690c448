from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console, RenderableType

from laconic.report.listings import busy, catalog, comparison, health, layers


def told(drawn: RenderableType, width: int = 200) -> list[str]:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(drawn)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


MODEL: dict[str, Any] = {
    "task": "[red]mine", "description": "a net", "trained": False, "params": 30, "macs": 40, "notes": ["a note"],
    "inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 4]}], "outputs": [{"name": "y", "dtype": "float32", "shape": ["batch", 2]}],
    "layers": [{"path": "fc", "type": "Linear", "params": 20, "macs": 30}, {"path": "", "type": "Net", "params": 10, "macs": 10}],
    "unknown_operators": {"aten.cdist": 2}, "groups": [], "prunable": {"channels": 0, "of": 30}, "frozen": [], "no_rule": {}, "sensitivity": None,
}  # fmt: skip
PRUNABLE: dict[str, Any] = {
    **MODEL,
    "groups": [
        {"name": "[b]stem", "components": 1600, "slices": 15, "removed": 800, "sqnr_db": 6.534},
        {"name": "blocks.0", "components": 8, "slices": 6, "removed": 4, "sqnr_db": None},
        {"name": "blocks.1", "components": 1, "slices": 2, "removed": 0, "sqnr_db": None},
    ],
    "prunable": {"channels": 2961, "of": 3000},
    "frozen": [{"name": name, "reason": "an output of the model"} for name in ("a[0]", "b[0]", "c[0]", "d[0]")] + [{"name": "e[1]", "reason": "odd"}],
    "no_rule": {"aten.cdist.default": 2},
    "sensitivity": {"share": 0.5, "examples": 1},
}  # fmt: skip


def test_layers_add_up_and_what_is_unknown_is_told() -> None:
    lines = told(layers(MODEL))
    assert lines[0] == "[red]mine a net"
    assert "input x: float32 (batch, 4)" in lines
    assert "fc Linear 20 30 75.0 %" in lines
    assert "(the model itself) Net 10 10 25.0 %" in lines
    assert "total 30 40" in lines
    assert "note: aten.cdist × 2: its multiply-adds are not known and not counted" in lines
    assert any("untrained" in line for line in lines)
    assert not any("untrained" in line for line in told(layers({**MODEL, "trained": True})))


def test_zeros_have_a_column_where_there_are_some() -> None:
    sparse = {**MODEL, "layers": [{**MODEL["layers"][0], "zeros": 15}, {**MODEL["layers"][1], "zeros": 0}]}
    lines = told(layers(sparse))
    assert "Layer Type Parameters Zeros Multiply-adds Share" in lines
    assert "fc Linear 20 75.0 % 30 75.0 %" in lines
    assert "total 30 50.0 % 40" in lines
    assert not any("Zeros" in line for line in told(layers(MODEL)))


def test_what_can_be_pruned_and_what_stays() -> None:
    lines = told(layers(PRUNABLE))
    start = lines.index("What can be pruned")
    assert lines[start + 1 : start + 5] == [
        "Group Components Slices Output with half gone",
        "[b]stem 1,600 15 6.53 dB",
        "blocks.0 8 6 no change",
        "blocks.1 1 2 –",
    ]
    start = lines.index("What stays")
    assert lines[start + 1 : start + 5] == [
        "an output of the model: 4 dimensions, e.g. a[0], b[0], c[0]",
        "odd: 1 dimension: e[1]",
        "without a rule, so that what they read stays: aten.cdist.default × 2",
        "98.7 % of output channels can be removed (2,961 of 3,000)",
    ]
    assert any("when half of this group alone is gone" in line and line.endswith("Over 1 example.") for line in lines)


def test_without_a_sensitivity_there_is_no_column_of_it() -> None:
    groups = [{**row, "removed": None, "sqnr_db": None} for row in PRUNABLE["groups"]]
    lines = told(layers({**PRUNABLE, "groups": groups, "sensitivity": None}))
    assert "Group Components Slices" in lines
    assert "blocks.0 8 6" in lines
    assert not any("Output" in line for line in lines)


def test_another_share_is_told() -> None:
    lines = told(layers({**PRUNABLE, "sensitivity": {"share": 0.3, "examples": 64}}))
    assert "Group Components Slices Output with 30 % gone" in lines


@pytest.mark.parametrize(
    ("change", "absent"),
    [
        (dict.fromkeys(("groups", "prunable", "frozen", "no_rule", "sensitivity")), "prune"),
        ({"groups": [], "sensitivity": None}, "What can be pruned"),
        ({"frozen": []}, "What stays"),
        ({"no_rule": {}}, "without a rule"),
    ],
    ids=["not found", "no groups", "nothing frozen", "all have rules"],
)
def test_what_is_not_there_leaves_no_empty_part(change: dict[str, Any], absent: str) -> None:
    assert any(absent in line for line in told(layers(PRUNABLE)))
    lines = told(layers({**PRUNABLE, **change}))
    assert not any(absent in line for line in lines)
    assert "fc Linear 20 30 75.0 %" in lines


MACHINE: dict[str, Any] = {
    "processor": "P", "cores": 2, "memory_bytes": 8e9, "instructions": {"avx2": True, "amx_bf16": False}, "gpu": None,
    "load_average": [0.1], "os": "Linux", "python": "3.11", "versions": {"torch": "2.13"},
}  # fmt: skip
ROWS = [
    {"runtime": "a", "title": "A", "version": "1", "precision": "fp32", "device": "cpu", "ready": True, "why": ""},
    {"runtime": "a", "title": "A", "version": "1", "precision": "bf16", "device": "cpu", "ready": False, "why": "no instructions"},
    {"runtime": "a", "title": "A", "version": "1", "precision": "fp32", "device": "cuda", "ready": False, "why": "no device"},
]


def test_health_tells_what_runs_and_why_the_rest_does_not() -> None:
    lines = told(health({"environment": MACHINE, "runtimes": ROWS}))
    assert "instructions avx2; not amx_bf16" in lines
    assert "A 1 a fp32 cpu ready" in lines
    assert "A 1 a bf16 cpu no no instructions" in lines
    assert "cuda A no device" in lines
    with_gpu = [*ROWS[:2], {**ROWS[2], "ready": True, "why": ""}]
    assert "A 1 a fp32 cuda ready" in told(health({"environment": MACHINE, "runtimes": with_gpu}))


@pytest.mark.parametrize(("load", "expected"), [([0.2], False), ([1.5], True), ([], False)])
def test_a_busy_machine_is_told(load: list[float], expected: bool) -> None:
    environment = {**MACHINE, "load_average": load}
    assert busy(environment) is expected
    assert any("busy" in line for line in told(health({"environment": environment, "runtimes": []}))) is expected


def test_a_catalog_tells_where_data_is_missing() -> None:
    row = {
        "name": "mnist",
        "title": "digits",
        "kind": "image",
        "ready": False,
        "why": "no folder",
        "hub": "h/m",
        "models": ["a", "b"],
        "note": "",
    }
    lines = told(catalog([row, {**row, "name": "other", "ready": True}]))
    assert "mnist digits a, b no folder; on the hub: h/m" in lines
    assert "other digits a, b here" in lines


def test_a_comparison_on_a_busy_machine_is_marked() -> None:
    row = {
        "name": "baseline",
        "batch": 1,
        "p50_ms": 2.0,
        "p95_ms": 3.0,
        "p99_ms": 4.0,
        "speedup": None,
        "cold_start_ms": 1500.0,
        "size_bytes": 1,
    }
    row |= {"throughput_per_s": {"value": 500.0}, "peak_memory_bytes": None, "ram": {"value": None}, "busy": "machine busy: much"}
    other = {
        **row,
        "name": "artifact",
        "speedup": {"value": 2.0, "low": None, "high": None},
        "busy": "machine busy: much; by processor time 3.00×",
    }
    assert "machine busy: much" in told(comparison({"timings": [row], "busy": "machine busy: much"}), 120)
    lines = told(comparison({"timings": [row, other], "busy": "machine busy: much"}), 120)
    assert "artifact, batch 1: machine busy: much; by processor time 3.00×" in lines
    assert sum("machine busy" in line for line in lines) == 1


@pytest.mark.parametrize("width", [80, 120])
def test_a_comparison_fits_the_terminal(width: int) -> None:
    ratio = {"value": 2.0, "low": 1.9, "high": 2.1}
    row = {
        "name": "baseline (torch, fp32)",
        "batch": 1,
        "p50_ms": 2.0,
        "p95_ms": 3.0,
        "p99_ms": 4.0,
        "speedup": None,
        "cold_start_ms": 1500.0,
    }
    row |= {"throughput_per_s": {"value": 500.0}, "peak_memory_bytes": 3e8, "size_bytes": 1200, "ram": {"value": 5400}}
    found = {"timings": [row, {**row, "name": "artifact (openvino, fp32)", "p50_ms": 1.0, "speedup": ratio, "peak_memory_bytes": None}]}
    lines = told(comparison(found), width)
    assert any(line.endswith("2.00 ms 3.00 ms 4.00 ms reference 500") for line in lines)
    assert any("2.00×" in line for line in lines)
    assert any("1.90 to 2.10" in line for line in lines)
    assert "cold start 1.50 s, peak memory 300 MB, file 1.20 kB, static RAM 5.40 kB" in " ".join(lines)
    assert max(map(len, lines)) <= width
