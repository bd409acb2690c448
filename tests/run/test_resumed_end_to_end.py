"""A run that is killed with SIGKILL, again and again, and started anew."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import laconic as lc
from laconic.run.store import FORMAT, read_result

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]

SCRIPT = """
import sys
from pathlib import Path
import laconic as lc
from tests.run import tiny
from tests.run.tiny import QUICK
task = tiny.untrained()
space = lc.SearchSpace(("onnxruntime", "openvino"), ("fp32",), threads=1, quantize=(), prune=())
lc.optimize(task, out=Path(sys.argv[1]), space=space, options=QUICK)
"""
# A file whose appearance is the moment of the kill; the run is started again after each.
# A few; `python -m benchmarks.campaign kills` kills at random ones, and others than the parent.
MOMENTS = (
    "training/checkpoint.safetensors",
    "models/base/onnx/model.onnx",
    "candidates/onnxruntime-fp32-1t/timing.json",
    "timing",
)


def start(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, str(folder)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def without_times(value: Any) -> Any:
    """What must be equal: everything but what a clock, a load or a memory counter said, and what was chosen by it."""
    if isinstance(value, dict):
        changing = {
            "latency_ms",
            "latency_p95_ms",
            "latency_p99_ms",
            "speedup",
            "throughput_per_s",
            "cold_start_ms",
            "packed_cold_start_ms",
            "peak_memory_bytes",
            "seconds",
            "finished",
            "spent",
            "timeline",
            "load_average",
            "first_speedup",
            "speedup_cpu",
            "cpu_ms",
            "comparison",
            "settled",
            "busy",
            "spread",
            "curve",
        }
        chosen = {
            "verdict",
            "headline",
            "certainty",
            "readings",
            "tied",
            "best",
            "nearest",
            "frontier",
            "test_metric",
            "test_drop",
            "reproduce",
            "status",
            "reasons",
            "met",
            "reason",
        }
        return {key: without_times(item) for key, item in value.items() if key not in changing | chosen}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def test_killed_at_many_moments_it_resumes_to_the_same_result(tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    seen = []
    for moment in MOMENTS:
        process = start(killed)
        deadline = time.monotonic() + 120
        while not (killed / moment).exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        if process.poll() is None:
            seen.append(moment)
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stderr is not None
        process.stderr.close()
    assert len(seen) >= len(MOMENTS) - 1, f"only at {seen} was there anything to kill"
    for folder in (killed, whole):
        process = start(folder)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors.decode()
    found, expected = read_result(killed), read_result(whole)
    assert without_times(found) == without_times(expected)
    assert found["training"] != []
    assert lc.Program.load(killed / "program.pt2").fingerprint() == lc.Program.load(whole / "program.pt2").fingerprint()
    assert not list(killed.rglob(".writing-*"))
    assert json.loads((killed / "run.json").read_text())["format"] == FORMAT
