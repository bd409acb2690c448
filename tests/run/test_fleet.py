"""A second machine over loopback: a real sshd with keys, port and temporary folder of its own."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks import loopback
from benchmarks.loopback import Server
from torch import nn
from typer.testing import CliRunner

import laconic as lc
from laconic.cli import app
from laconic.core.errors import BadInput, WorkerFailed
from laconic.core.machine_record import MachineRecord
from laconic.core.target import Target
from laconic.deploy.artifact import save_artifact
from laconic.deploy.portable import Portable
from laconic.measure.energy import Metering
from laconic.run import fleet
from laconic.run.fleet import Remote, checked, code, record_on
from laconic.run.hardware import Timing

QUICK = Timing((1,), rounds=15, turn_seconds=0.005, timeout_s=60)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    try:
        with loopback.server(tmp_path_factory.mktemp("sshd")) as one:
            yield one
    except loopback.NoServer as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = lc.capture(nn.Linear(4, 3).eval(), torch.zeros(2, 4))
    return save_artifact(program, tmp_path_factory.mktemp("fleet") / "net", Target(threads=1), {}).folder


@pytest.fixture
def items(folder: Path) -> dict[str, Portable]:
    return {"net": Portable.of(folder)}


def test_the_three_best_of_a_run_are_measured_on_another_machine(server: Server, folder: Path, tmp_path: Path) -> None:
    rows = []
    for ms, key in enumerate("abcd"):
        shutil.copytree(folder, tmp_path / "run" / "candidates" / key / "artifact")
        rows.append({"key": key, "title": f"net {key}", "status": "passed", "artifact": "there", "latency_ms": {"value": ms}})
    (tmp_path / "run" / "run.json").write_text("{}", encoding="utf-8")
    (tmp_path / "run" / "result.json").write_text(json.dumps({"format": 1, "best": "c", "candidates": rows}), encoding="utf-8")
    argv = ["bench", str(tmp_path / "run"), "--record", str(tmp_path / "board.json"), "--rounds", "6", "--quiet"]
    done = CliRunner().invoke(app, [*argv, "--on", "board", "--ssh", server.remote.ssh, "--python", sys.executable])
    assert done.exit_code == 0, done.output
    read = MachineRecord.read(tmp_path / "board.json")
    assert read.machine == "board"
    assert [(one.name, [timing.batch for timing in one.timings]) for one in read.artifacts] == [(f"net {key}", [1]) for key in "cab"]
    assert all(timing.latency_ms.n >= 18 for one in read.artifacts for timing in one.timings)
    assert read.environment["cores"] >= 1
    assert server.left() == []


def test_energy_is_measured_there_or_unknown_with_the_reason(server: Server, items: dict[str, Portable]) -> None:
    told: list[Any] = []
    made = record_on(server.remote, items, replace(QUICK, rounds=6, metering=Metering(windows=11)), on_event=told.append)
    (event,) = (event for event in told if event["kind"] == "energy")
    assert (event["name"], event["batch"]) == ("net", 1)
    energy = made.artifacts[0].timings[0].energy_mj
    assert (energy.value is None) == energy.note.startswith("unknown: "), energy  # a machine with counters measures
    assert "it was not asked for" not in energy.note


def test_a_connection_that_breaks_is_made_again_and_what_was_measured_is_kept(
    server: Server, items: dict[str, Portable], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "_PAUSE_S", 0.01)
    told: list[Any] = []

    def heard(event: dict[str, Any]) -> None:
        told.append(event)
        if event["kind"] == "times" and sum(e["kind"] == "times" for e in told) == 1:
            server.drop()

    made = record_on(server.remote, items, QUICK, "twice", on_event=heard)
    assert [event["kind"] for event in told] == ["machine", "started", "times", "times", "times", "memory"]  # 5 rounds each, none twice
    assert made.artifacts[0].timings[0].throughput_per_s.n == 15
    assert server.left() == []


def test_a_connection_that_always_breaks_is_given_up(server: Server, items: dict[str, Portable], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "_PAUSE_S", 0.01)
    with pytest.raises(WorkerFailed, match="board: the connection ended.*2 connections broke"):
        record_on(replace(server.remote, attempts=2), items, QUICK, on_event=lambda event: server.drop())
    assert server.left() == []


def test_a_time_limit_ends_both_sides(server: Server, items: dict[str, Portable]) -> None:
    with pytest.raises(WorkerFailed, match="not done within"):
        record_on(replace(server.remote, limit_s=2.5), items, replace(QUICK, rounds=10_000, turn_seconds=0.5))
    assert server.left() == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"python": "no-such-python"}, "board has no Python as 'no-such-python'"),
        ({"host": "127.0.0.2"}, "127.0.0.2 cannot be reached"),
        ({"ssh": "no-such-ssh"}, "'no-such-ssh' cannot be started"),
    ],
)
def test_what_is_missing_is_told(server: Server, items: dict[str, Portable], change: dict[str, Any], told: str) -> None:
    if "host" in change:
        change = {**change, "ssh": f"{server.remote.ssh} -p 1"}
    with pytest.raises(BadInput, match=told):
        record_on(replace(server.remote, **change), items, QUICK)
    assert server.left() == []


def test_a_python_without_numpy_is_told(server: Server, items: dict[str, Portable], tmp_path: Path) -> None:
    bare = tmp_path / "bare python"  # a path with a space, and no packages
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S -I "$@"\n', encoding="utf-8")
    bare.chmod(0o755)
    with pytest.raises(BadInput, match=r"board: '.*bare python' lacks numpy"):
        record_on(replace(server.remote, python=str(bare)), items, QUICK)
    assert server.left() == []


def test_an_artifact_that_cannot_run_there_is_told(server: Server, items: dict[str, Portable]) -> None:
    with pytest.raises(BadInput, match="nothing could be timed: net: onnxruntime with fp32 on qnn cannot run"):
        record_on(server.remote, {"net": items["net"].with_target(device="qnn")}, QUICK)
    assert server.left() == []


# Without a server ------------------------------------------------------------------------------------------------------------------------


def test_few_files_travel_and_none_needs_pytorch() -> None:
    files = code(["laconic.run.afar", "laconic.deploy.hold", "laconic.deploy.worker", "laconic.deploy.ort"])
    assert {"laconic/__init__.py", "laconic/run/afar.py", "laconic/deploy/worker.py", "laconic/deploy/ort.py"} <= set(files)
    assert len(files) < 60
    for name, content in files.items():
        assert not any(module.partition(".")[0] in ("torch", "onnx") for module in fleet._imported(content)), name


def test_a_meter_here_says_nothing_of_a_machine_there(items: dict[str, Portable]) -> None:
    with pytest.raises(BadInput, match=r"--meter m\.csv cannot be read with --on board: .*by its own counters: --energy"):
        record_on(Remote("board"), items, replace(QUICK, metering=Metering(meter="m.csv")))


@pytest.mark.parametrize("host", ["", "-oProxyCommand=touch /tmp/x"])
def test_a_host_is_no_option(host: str) -> None:
    with pytest.raises(BadInput, match="is not a host"):
        Remote(host)


def test_the_command_is_quoted_for_the_shell_there() -> None:
    assert Remote("a", python="~/my env/bin/python").argv[-1].startswith("exec ~/'my env/bin/python' -c '")
    assert Remote("a", "ssh -p 22").argv[:3] == ["ssh", "-p", "22"]


@pytest.mark.parametrize(
    "event",
    [
        {"kind": "other"},
        {"kind": "machine", "name": "m", "environment": []},
        {"kind": "started", "name": "stranger", "cold_start_ms": 1.0},
        {"kind": "started", "name": "net", "cold_start_ms": -1},
        {"kind": "memory", "name": "net", "peak_bytes": "much"},
        {"kind": "times", "batch": 1, "rounds": 1, "busy": "", "times_ns": {"net": [[0]]}},
        {"kind": "times", "batch": 1, "rounds": 1, "busy": "", "times_ns": {"net": [[]]}},
        {"kind": "times", "batch": True, "rounds": 1, "busy": "", "times_ns": {}},
        {"kind": "times", "batch": 1, "rounds": 1, "busy": None, "times_ns": {}},
        {"kind": "energy", "name": "net", "batch": 1, "energy_mj": {"value": "much", "unit": "mJ", "n": 1, "device": "", "note": ""}},
        {"kind": "energy", "name": "stranger", "batch": 1, "energy_mj": {"value": 1.0, "unit": "mJ", "n": 1, "device": "", "note": ""}},
        {"kind": "energy", "name": "net", "batch": True, "energy_mj": {"value": 1.0, "unit": "mJ", "n": 1, "device": "", "note": ""}},
    ],
)
def test_what_another_machine_tells_is_checked(event: dict[str, Any], items: dict[str, Portable]) -> None:
    with pytest.raises(WorkerFailed, match="no event"):
        checked(event, items)
