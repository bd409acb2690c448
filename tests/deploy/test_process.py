from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import laconic as lc
from laconic.core.errors import WorkerFailed
from laconic.core.target import Target
from laconic.deploy.artifact import Artifact, save_artifact
from laconic.deploy.process import WorkerProcess
from laconic.run.examples import read_arrays, write_arrays
from tests.core.models import ConvNet


@pytest.fixture(scope="module")
def program() -> lc.Program:
    return lc.capture(ConvNet().eval(), torch.randn(2, 1, 8, 8))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    for index, rows in enumerate((4, 1)):
        write_arrays(folder / f"{index:06d}.npz", [np.random.default_rng(index).standard_normal((rows, 1, 8, 8)).astype(np.float32)])
    return folder


@pytest.fixture(scope="module")
def artifact(program: lc.Program, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return save_artifact(program, tmp_path_factory.mktemp("artifact"), Target("onnxruntime", threads=1), {})


def process(artifact: Artifact, timeout_s: float = 60, **changes: object) -> WorkerProcess:
    return WorkerProcess(artifact.with_target(**changes), timeout_s=timeout_s, memory_limit_bytes=900_000_000)


def test_it_answers_as_the_program_does(program: lc.Program, artifact: Artifact, inputs: Path, tmp_path: Path) -> None:
    worker = process(artifact)
    facts = worker.start(inputs / "000001.npz")
    assert 0 < facts["load_ms"] < facts["cold_start_ms"]
    assert worker.predict(inputs, tmp_path / "out") == {"batches": 2}
    for name in ("000000.npz", "000001.npz"):
        with torch.no_grad():
            expected = program(torch.from_numpy(read_arrays(inputs / name)[0]))
        assert np.allclose(read_arrays(tmp_path / "out" / name)[0], expected.numpy(), atol=1e-5)
    turn = worker.time(0.05, 7)
    assert len(turn.times_ns) == len(turn.cpu_ns) >= 7
    assert all(time > 0 for time in turn.times_ns)
    assert 0 < sum(turn.times_ns) <= turn.wall_ns
    assert sum(turn.cpu_ns) > 0
    memory = worker.memory()
    assert memory["peak_bytes"] >= memory["rss_bytes"] > 1e7
    worker.close()


@pytest.mark.parametrize(
    ("name", "absent"), [("onnxruntime", ["torch", "openvino", "onnx"]), ("openvino", ["torch", "onnxruntime", "onnx"])]
)
def test_it_imports_its_own_runtime_and_no_other(artifact: Artifact, inputs: Path, name: str, absent: list[str]) -> None:
    worker = process(artifact, runtime=name)
    worker.start(inputs / "000001.npz")
    found = set(worker.modules())
    worker.close()
    assert name in found
    assert not found & set(absent)


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("crash", "crash", "killed by SIGSEGV; its last lines:\n.*about to crash"),
        ("hang", "timeout", "no answer within 1 s"),
        ("eat", "memory", "of memory; 0.90 GB are allowed"),
        ("raises", "error", "RuntimeError: no such kernel"),
    ],
)
def test_a_runtime_that_goes_wrong(faulty_package: None, artifact: Artifact, inputs: Path, name: str, kind: str, said: str) -> None:
    worker = process(artifact, runtime=name)
    worker.start()  # loads the file, with all the time that it takes
    worker._child.timeout_s = 1 if name == "hang" else 60
    worker.use_inputs(inputs / "000000.npz")
    with pytest.raises(WorkerFailed, match=f"(?s){said}") as caught:
        worker.time(0.0, 1)
    worker.close()
    assert caught.value.kind == kind


@pytest.mark.parametrize(
    ("threads", "name", "fresh"), [(2, "torch", True), (None, "torch", True), (1, "torch", False), (2, "onnxruntime", False)]
)
def test_processor_time_is_taken_where_threads_do_not_spin(
    program: lc.Program, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int | None, name: str, fresh: bool
) -> None:
    worker = process(save_artifact(program, tmp_path, Target(name, threads=threads), {}))
    worker.start(inputs / "000001.npz")
    started: list[dict[str, Any]] = []
    plain = WorkerProcess.__init__

    def seen(self: WorkerProcess, *args: Any, **options: Any) -> None:
        started.append(options)
        plain(self, *args, **options)

    monkeypatch.setattr(WorkerProcess, "__init__", seen)
    turns = worker.work(3, 0.01, 2)
    assert len(turns) == 3
    assert all(len(turn.cpu_ns) >= 2 and min(turn.cpu_ns) > 0 for turn in turns)
    assert [options["one_thread"] for options in started] == [True] * fresh
    worker.close()


def test_a_truncated_file_is_told(program: lc.Program, inputs: Path, tmp_path: Path) -> None:
    found = save_artifact(program, tmp_path, Target("onnxruntime"), {})
    found.file.write_bytes(found.file.read_bytes()[:2000])
    worker = process(found)
    with pytest.raises(WorkerFailed, match="Protobuf|INVALID_PROTOBUF|Fail"):
        worker.start()
    worker.close()
