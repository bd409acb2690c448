"""Processes that start together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import laconic as lc
from laconic.core.target import Target
from laconic.deploy.artifact import pack
from laconic.deploy.export import write_model
from laconic.run.workers import Workers


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two that load, and one whose model file is no model."""
    place = tmp_path_factory.mktemp("workers")
    program = lc.capture(nn.Linear(3, 2).eval(), torch.randn(2, 3))
    file = write_model(program, place, "onnx")
    folders = {name: place / name for name in ("one", "two", "broken")}
    for folder in folders.values():
        pack(file, program.interface, folder, Target("onnxruntime", threads=1), {})
    (folders["broken"] / file.name).unlink()  # the folders share one file
    (folders["broken"] / file.name).write_bytes(b"no model")
    return folders


def test_those_that_can_start_do_and_the_others_say_why(artifacts: dict[str, Path], tmp_path: Path) -> None:
    np.savez(tmp_path / "inputs.npz", **{"0": np.zeros((1, 3), np.float32)})  # type: ignore[arg-type]
    workers = Workers(tmp_path / "inputs.npz", 60, None)
    try:
        workers.start("one", lc.Artifact.open(artifacts["one"]))
        first = workers.get("one", artifacts["one"])
        failed = workers.start_together(artifacts)
        assert list(failed) == ["broken"]
        assert workers.get("one", artifacts["one"]) is first, "a live process is started anew"
        assert all(workers.get(name, artifacts[name]).time(0.0, 3).times_ns for name in ("one", "two"))
    finally:
        workers.close()
