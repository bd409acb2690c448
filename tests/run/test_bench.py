from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import laconic as lc
from laconic.core.errors import BadInput, WorkerFailed
from laconic.core.program import TensorSpec
from laconic.core.progress import Logged, silent
from laconic.core.records import to_json
from laconic.measure import quiet
from laconic.measure.quiet import QUIET_SHARE, others_share
from laconic.run.bench import random_inputs
from tests.core.models import ConvNet

pytestmark = pytest.mark.slow


class Heavy(nn.Module):
    """The same inputs as ConvNet, and much more work."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 3000), nn.ReLU(), nn.Linear(3000, 3000), nn.ReLU(), nn.Linear(3000, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> lc.Artifact:
    return lc.export(lc.capture(ConvNet().eval(), torch.randn(2, 1, 8, 8)), tmp_path_factory.mktemp("bench") / "model.onnx")


def test_it_tells_a_speedup_with_an_interval(artifact: lc.Artifact) -> None:
    """Which one is faster stays unsaid here: on a busy machine a turn of 0.03 s can be anything (test_stats holds the ratio of made-up rounds)."""
    found = lc.bench(artifact, baseline=Heavy(), runtime="openvino", rounds=5, turn_seconds=0.03, batch=(1, 2))
    assert [(t.name.split(" ")[0], t.batch) for t in found.timings] == [("baseline", 1), ("artifact", 1), ("baseline", 2), ("artifact", 2)]
    base, new = found.timings[:2]
    assert base.name == "baseline (torch, fp32)"
    assert new.name == "artifact (openvino, fp32)"
    assert new.speedup is not None
    assert new.speedup.low is not None
    assert new.speedup.high is not None
    assert 0 < new.speedup.low <= new.speedup.value <= new.speedup.high
    assert new.n >= 15
    assert new.cold_start_ms > 0
    assert "× as fast [" in str(found)


def test_alone_it_tells_its_own_figures(artifact: lc.Artifact) -> None:
    (only,) = lc.bench(artifact.file, rounds=3, turn_seconds=0.02, threads=1).timings
    assert only.speedup is None
    assert only.p50_ms <= only.p95_ms <= only.p99_ms
    assert only.size_bytes == artifact.file.stat().st_size


@pytest.fixture
def shared_core() -> Iterator[None]:
    """This process, whatever it starts, and two processes that never rest, on one and the same core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        yield
    finally:
        for one in busy:
            one.kill()
            one.wait()
        os.sched_setaffinity(0, before)


@pytest.mark.skipif(sys.platform != "linux", reason="pins processes")
def test_figures_of_a_busy_machine_are_marked(artifact: lc.Artifact, shared_core: None) -> None:
    found = lc.bench(artifact, baseline=Heavy(), threads=1, rounds=5, turn_seconds=0.05)
    base, new = found.timings
    assert found.busy == base.busy
    assert base.busy.startswith("machine busy: in ")
    assert new.busy.startswith(base.busy + "; by processor time ")
    assert base.speedup_cpu is None
    assert new.speedup_cpu is not None
    assert 0 < new.speedup_cpu.low <= new.speedup_cpu.value <= new.speedup_cpu.high  # type: ignore[operator]
    assert "(machine busy: in " in str(found)
    row = to_json(found)["timings"][1]
    assert row["busy"] == new.busy
    assert row["speedup_cpu"]["value"] == new.speedup_cpu.value


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_figures_of_a_quiet_machine_are_not_marked(artifact: lc.Artifact) -> None:
    before = others_share(0.5)
    found = lc.bench(artifact, baseline=Heavy(), threads=1, rounds=5, turn_seconds=0.05)
    after = others_share(0.5)
    if before is None or after is None or max(before, after) > QUIET_SHARE:
        pytest.skip("this machine is not quiet now")
    assert (found.busy, [t.busy for t in found.timings], found.timings[1].speedup_cpu) == ("", ["", ""], None)


def test_it_waits_for_a_quiet_machine_where_asked_to(artifact: lc.Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    waited = []
    monkeypatch.setattr(quiet, "wait_quiet", lambda *, progress: waited.append(progress))
    lc.bench(artifact, rounds=3, turn_seconds=0.01, threads=1)
    assert waited == []
    lc.bench(artifact, rounds=3, turn_seconds=0.01, threads=1, batch=(1, 2), wait_quiet=True, progress=silent)
    assert [type(progress) for progress in waited] == [Logged, Logged]  # which tells the one given, and the log


def test_one_round_has_no_interval(artifact: lc.Artifact) -> None:
    found = lc.bench(artifact, baseline=artifact, rounds=1, turn_seconds=0.01, threads=1)
    assert found.timings[1].speedup is not None
    assert found.timings[1].speedup.low is None
    assert "× as fast" in str(found)


class Wave(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Conv1d(1, 4, 9)

    def forward(self, wave: torch.Tensor) -> torch.Tensor:
        return self.c(wave[:, None]).mean(2)


@pytest.mark.parametrize("captured", [True, False], ids=["program", "module"])
def test_a_baseline_is_captured_with_the_lengths_of_the_artifact(captured: bool, tmp_path: Path) -> None:
    """Of another name for its input, too; and the length that is timed is none of those that it was captured with."""
    program = lc.capture(Wave(), torch.randn(2, 64), dynamic={"wave": {1: "length"}})
    artifact = lc.export(program, tmp_path / "model.onnx")
    found = lc.bench(
        artifact, program if captured else Wave(), rounds=2, turn_seconds=0.01, threads=1, lengths={"length": 33}, batch=(1, 3)
    )
    assert [t.batch for t in found.timings] == [1, 1, 3, 3]
    with pytest.raises(BadInput, match=r"say at which it is timed, lengths=\{'length': 64\} \(--length length=64\)"):
        lc.bench(artifact, program if captured else Wave(), threads=1)


def test_what_cannot_be_compared_is_refused(artifact: lc.Artifact, tmp_path: Path) -> None:
    other = lc.export(lc.capture(nn.Linear(4, 2), torch.randn(2, 4)), tmp_path / "other.onnx")
    with pytest.raises(BadInput, match="the two take different inputs"):
        lc.bench(artifact, baseline=other)
    with pytest.raises(BadInput, match="torch in fp32 reads pt2 files"):
        lc.bench(artifact, runtime="torch")
    with pytest.raises(BadInput, match="cannot run in onnxruntime with bf16 on cpu: its CPUExecutionProvider"):
        lc.bench(artifact, precision="bf16")


def test_a_runtime_that_dies_is_told(faulty_package: None, artifact: lc.Artifact) -> None:
    with pytest.raises(WorkerFailed, match="killed by SIGSEGV"):
        lc.bench(artifact, runtime="crash", timeout_s=20)


def test_random_inputs_fit_the_specs() -> None:
    specs = (TensorSpec("x", ("batch", 3), "float32"), TensorSpec("ids", ("batch", "length"), "int64"), TensorSpec("mask", (2,), "bool"))
    x, ids, mask = random_inputs(specs, 4, {"length": 7}, seed=0)
    assert (x.shape, x.dtype, ids.shape, ids.dtype, mask.shape, mask.dtype) == ((4, 3), np.float32, (4, 7), np.int64, (2,), np.bool_)
    assert np.array_equal(x, random_inputs(specs, 4, {"length": 7}, seed=0)[0])
    assert not np.array_equal(x, random_inputs(specs, 4, {"length": 7}, seed=1)[0])
    with pytest.raises(BadInput, match="dynamic dimension 'length': say how long it is to be, e.g. length=64"):
        random_inputs(specs, 4, {}, seed=0)
