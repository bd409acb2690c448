"""Records of machines side by side."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from laconic.cli import app
from laconic.core.machine_record import ArtifactTimes, BatchTiming, MachineRecord
from laconic.core.records import Measurement
from laconic.report.drawing import spread_chart
from laconic.report.hardware import hardware, table, write_page

ENVIRONMENT = {
    "processor": "Made <b>P</b>", "cores": 2, "architecture": "x86_64", "memory_bytes": 8e9, "instructions": {"avx2": True, "amx_bf16": False},
    "load_average": [0.5, 0.1], "os": "Linux 6", "python": "3.11", "versions": {"onnxruntime": "1.30"}, "gpu": None,
}  # fmt: skip


def timing(batch: int, ms: float, busy: str = "") -> BatchTiming:
    p95, p99 = Measurement(2 * ms, "ms", 9), Measurement(3 * ms, "ms", 9)
    return BatchTiming(batch, Measurement(ms, "ms", 9, 0.9 * ms, 1.1 * ms), p95, p99, Measurement(1e3 * batch / ms, "1/s", 9), busy=busy)


def artifact(name: str, sha: str, *timings: BatchTiming, **more: Any) -> ArtifactTimes:
    target = {"runtime": "onnxruntime", "precision": "fp32", "threads": 1, "device": "cpu"}
    return ArtifactTimes(name, sha, 1000, "int8", target, 120.0, 50_000_000, timings, **more)


def machine(name: str, *artifacts: ArtifactTimes) -> MachineRecord:
    return MachineRecord(name, ENVIRONMENT, "2026-01-01T00:00:00Z", artifacts)


def told(records: list[MachineRecord]) -> str:
    console = Console(width=240, file=io.StringIO(), force_terminal=False)
    console.print(table(hardware(records)))
    return " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]


def test_each_artifact_stands_with_its_machines() -> None:
    a = machine("a", artifact("one", "aa" * 32, timing(1, 2.0), timing(8, 10.0)), artifact("two", "bb" * 32, timing(1, 4.0)))
    b = machine("b", artifact("renamed", "aa" * 32, timing(1, 1.0, "machine busy")))
    found = hardware([a, b])
    rows = [(line.cells[0].partition(" · ")[0], *line.cells[1:3], line.cells[3], line.mark) for line in found.lines]
    assert rows == [
        ("one", "a", "1", "2.00\u00a0ms (1.80 to 2.20)", ""),
        ("one", "a", "8", "10.0\u00a0ms (9.0 to 11.0)", ""),
        ("one", "b", "1", "1.00\u00a0ms (0.90 to 1.10)", "machine busy"),
        ("two", "a", "1", "4.00\u00a0ms (3.60 to 4.40)", ""),
    ]
    assert found.lines[0].cells[0] == "one · onnxruntime int8, 1 thread"
    assert found.lines[0].cells[5] == "500\u00a0/s"
    assert found.lines[0].cells[6:8] == ("unknown", "unknown")
    assert "two (SHA-256 bbbbbbbbbbbb) was not measured on b" in " ".join(found.notes)
    assert list(found.curves) == ["one · onnxruntime int8, 1 thread · a"]
    assert found.curves["one · onnxruntime int8, 1 thread · a"] == ([1.0, 8.0], [2.0, 10.0])


def test_energy_and_money_stand_with_their_intervals_and_are_drawn(tmp_path: Path) -> None:
    energy, money = Measurement(3.0, "mJ", 10, 2.5, 3.5, note="measured by made"), Measurement(0.2, "EUR", 9, 0.1, 0.4, note="at 1 EUR")
    full = dataclasses.replace(timing(1, 2.0), energy_mj=energy, cost_per_million=money)
    dear = dataclasses.replace(timing(8, 9.0), cost_per_million=Measurement(5.0, "USD", 9))
    found = hardware([machine("a", artifact("one", "aa" * 32, full, dear)), machine("b", artifact("one", "aa" * 32, timing(1, 1.0)))])
    assert [line.cells[6:8] for line in found.lines] == [
        ("3.00\u00a0mJ (2.50 to 3.50)", "0.20\u00a0EUR (0.10 to 0.40)"),
        ("unknown", "5.00\u00a0USD"),
        ("unknown", "unknown"),
    ]
    notes = " ".join(found.notes)
    assert "energy on a: measured by made" in notes
    assert "money on a: at 1 EUR" in notes
    assert "money on b: unknown: no price of this machine was given" in notes
    assert [(spread.title, list(spread.figures.values())) for spread in found.spreads] == [
        ("Energy of an inference", [energy]), ("A million inferences, EUR", [money]), ("A million inferences, USD", [dear.cost_per_million]),
    ]  # fmt: skip
    (trace,) = spread_chart(found.spreads[1].figures, found.spreads[1].axis)["data"]
    assert (trace["x"], trace["error_x"]["array"], trace["error_x"]["arrayminus"]) == ([0.2], [0.2], [0.1])
    page = write_page(found, tmp_path / "page.html").read_text(encoding="utf-8")
    assert all(f'data-figure="spread-{i}"' in page for i in range(3))


def test_prices_of_the_records_machines_are_put_in(tmp_path: Path) -> None:
    machine("board", artifact("one", "aa" * 32, timing(1, 2.0))).write(tmp_path / "a.json")
    (tmp_path / "p.yaml").write_text("currency: EUR\nboard: {per_hour: 1.8}\n", encoding="utf-8")
    told = CliRunner().invoke(app, ["hardware", str(tmp_path / "a.json"), "--prices", str(tmp_path / "p.yaml"), "--json"])
    assert told.exit_code == 0, told.output
    cost = json.loads(told.stdout)[0]["artifacts"][0]["timings"][0]["cost_per_million"]
    assert (cost["value"], cost["unit"]) == (1.0, "EUR")  # 500 in a second, 0.0005 EUR a second


def test_flash_and_static_ram_of_each_artifact_are_told_from_whichever_record_knows_them() -> None:
    known = Measurement(12288, "B", note="computed from the graph")
    one, two = artifact("one", "aa" * 32, timing(1, 2.0), ram=known), artifact("two", "bb" * 32, timing(1, 2.0))
    notes = hardware([machine("a", one, two), machine("b", dataclasses.replace(one, ram=two.ram))]).notes
    assert "one: 1.00\u00a0kB of flash; 12.3\u00a0kB of static RAM, computed from the graph." in notes
    assert "two: 1.00\u00a0kB of flash; static RAM unknown: the record does not tell." in notes


def test_what_is_not_the_same_is_said() -> None:
    one, other = artifact("net", "aa" * 32, timing(1, 2.0)), artifact("net", "bb" * 32, timing(1, 3.0))
    threads = ArtifactTimes("net", "aa" * 32, 1000, "int8", {**one.target, "threads": None}, timings=(timing(1, 1.0),))
    found = hardware([machine("a", one), machine("a", other, threads)])
    assert [line.cells[1] for line in found.lines] == ["a", "a (2)", "a (2)"]
    assert found.lines[0].cells[0].startswith("net (aaaaaaaa)")
    notes = " ".join(found.notes)
    assert "net (bbbbbbbb) (SHA-256 bbbbbbbbbbbb) was not measured on a:" in notes
    assert "net (aaaaaaaa) was run in different ways: onnxruntime int8, 1 thread; onnxruntime int8, all cores." in notes


def test_what_failed_is_a_line_with_its_reason_and_the_unknown_has_one() -> None:
    lines = told([machine("a", artifact("one", "aa" * 32, timing(1, 2.0)), artifact("two", "bb" * 32, failed="no [bold]device"))])
    assert "not measured: no [bold]device" in lines
    assert "energy on a: unknown: it was not asked for" in lines
    assert "Made <b>P</b>" in lines
    assert "onnxruntime 1.30" in lines


def test_the_command_prints_and_draws(tmp_path: Path) -> None:
    for name, ms in (("a", 2.0), ("b", 1.0)):
        machine(name, artifact("<script>one", "aa" * 32, timing(1, ms), timing(2, ms))).write(tmp_path / f"{name}.json")
    files = [str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    done = CliRunner().invoke(app, ["hardware", *files, "--out", str(tmp_path / "page.html"), "--json"])
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout.splitlines()[0])
    assert [one["machine"] for one in data] == ["a", "b"]
    assert data[1]["artifacts"][0]["timings"][0]["latency_ms"]["value"] == 1.0
    assert data[1]["artifacts"][0]["timings"][0]["cost_per_million"]["value"] is None
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Made &lt;b&gt;P&lt;/b&gt;" in page
    assert "<script>one" not in page
    assert 'id="latency"' in page or "latency" in page
    (tmp_path / "b.json").write_text('{"kind": "no"}', encoding="utf-8")
    done = CliRunner().invoke(app, ["hardware", *files])
    assert done.exit_code == 1
    assert "b.json is no machine's record" in done.output


def test_a_page_without_curves_has_no_plotting_library(tmp_path: Path) -> None:
    page = write_page(hardware([machine("a", artifact("one", "aa" * 32, timing(1, 2.0)))]), tmp_path / "p.html")
    assert page.stat().st_size < 200_000


@pytest.mark.parametrize("threads", [1, None])
def test_settings_tell_threads_and_device(threads: int | None) -> None:
    one = ArtifactTimes(
        "n", "cc" * 32, 1, "fp32", {"runtime": "openvino", "device": "openvino:GPU", "threads": threads}, timings=(timing(1, 1.0),)
    )
    ending = "1 thread" if threads else "all cores"
    assert hardware([machine("a", one)]).lines[0].cells[0] == f"n · openvino fp32, on openvino:GPU, {ending}"
