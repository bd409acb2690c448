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
    "unknown_operators": {"aten.cdist": 2},
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


MACHINE: dict[str, Any] = {
    "processor": "P", "cores": 2, "memory_bytes": 8e9, "instructions": {"avx2": True, "amx_bf16": False}, "gpu": None,
    "load_average": [0.1], "os": "Linux", "python": "3.11", "versions": {"torch": "2.13"},
}  # fmt: skip
ROWS = [
    {"runtime": "a", "version": "1", "precision": "fp32", "device": "cpu", "ready": True, "why": ""},
    {"runtime": "a", "version": "1", "precision": "bf16", "device": "cpu", "ready": False, "why": "no instructions"},
    {"runtime": "a", "version": "1", "precision": "fp32", "device": "cuda", "ready": False, "why": "no device"},
]


def test_health_tells_what_runs_and_why_the_rest_does_not() -> None:
    lines = told(health({"environment": MACHINE, "runtimes": ROWS}))
    assert "instructions avx2; not amx_bf16" in lines
    assert "a 1 fp32 cpu ready" in lines
    assert "a 1 bf16 cpu no no instructions" in lines
    assert "nothing runs on cuda here; --json tells why" in lines
    with_gpu = [*ROWS[:2], {**ROWS[2], "ready": True, "why": ""}]
    assert "a 1 fp32 cuda ready" in told(health({"environment": MACHINE, "runtimes": with_gpu}))


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
    row |= {"throughput_per_s": {"value": 500.0}, "peak_memory_bytes": 3e8, "size_bytes": 1200}
    found = {"timings": [row, {**row, "name": "artifact (openvino, fp32)", "p50_ms": 1.0, "speedup": ratio, "peak_memory_bytes": None}]}
    lines = told(comparison(found), width)
    assert any(line.endswith("2.00 ms 3.00 ms 4.00 ms reference 500") for line in lines)
    assert any("2.00×" in line for line in lines)
    assert any("1.90 to 2.10" in line for line in lines)
    assert "cold start 1.50 s, peak memory 300 MB, file 1.20 kB" in " ".join(lines)
    assert max(map(len, lines)) <= width
