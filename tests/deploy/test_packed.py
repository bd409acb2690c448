"""Artifacts that ship as archives are those that were packed, in this process and in a fresh one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import laconic as lc
from laconic.deploy.artifact import Artifact
from laconic.deploy.process import WorkerProcess


class Two(nn.Module):
    """Answers with a mapping, so that a call is nested."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 4, 3), nn.Linear(4 * 36, 3)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        inner = torch.relu(self.conv(x))
        return {"logits": self.fc(inner.flatten(1)), "mean": inner.mean((2, 3))}


@pytest.fixture(scope="module")
def program() -> lc.Program:
    torch.manual_seed(0)
    return lc.capture(Two().eval(), torch.randn(2, 1, 8, 8))


IMAGES = np.random.default_rng(0).standard_normal((3, 1, 8, 8)).astype(np.float32)


@pytest.mark.parametrize("ending", ["onnx", "pt2", "ts"])
def test_an_archive_opens_as_the_artifact_that_it_holds(ending: str, program: lc.Program, tmp_path: Path) -> None:
    artifact = lc.export(program, tmp_path / f"model.{ending}", threads=1)
    archive = artifact.save(tmp_path / "ship" / "model.lac")
    assert [file.name for file in archive.parent.iterdir()] == ["model.lac"]
    found = Artifact.open(archive, trust=True)
    same = ("target", "inputs", "outputs", "input_structure", "output_structure", "format", "numerics", "sha256")
    assert {name: getattr(found, name) for name in same} == {name: getattr(artifact, name) for name in same}
    assert found.file.read_bytes() == artifact.file.read_bytes()
    assert (found.packed, found.size_bytes) == (archive, archive.stat().st_size)
    answers, again = artifact(IMAGES), found(IMAGES)
    assert set(again) == {"logits", "mean"}
    for name in answers:
        np.testing.assert_array_equal(answers[name], again[name])
    assert found.save(tmp_path / f"back.{ending}").read_bytes() == artifact.file.read_bytes()


def test_a_fresh_process_restores_the_archive_itself(program: lc.Program, tmp_path: Path) -> None:
    artifact = lc.export(program, tmp_path / "model.onnx", threads=1)
    found = Artifact.open(artifact.save(tmp_path / "model.lac"))
    found.file.unlink()  # what was restored here is of no use to it
    worker = WorkerProcess(found, timeout_s=120)
    try:
        facts = worker.start()
        assert 0 < facts["load_ms"] < facts["cold_start_ms"]
        assert not {"torch", "onnx", "scipy"} & set(worker.modules())
    finally:
        worker.close()


def test_code_in_an_archive_is_not_run_unasked(program: lc.Program, tmp_path: Path) -> None:
    archive = lc.export(program, tmp_path / "model.ts").save(tmp_path / "model.lac")
    with pytest.raises(lc.BadInput, match="is not run"):
        Artifact.open(archive)(IMAGES)


def test_what_is_no_artifact_is_told(program: lc.Program, tmp_path: Path) -> None:
    data = bytearray(lc.export(program, tmp_path / "model.onnx").save(tmp_path / "model.lac").read_bytes())
    data[-1] ^= 1
    (tmp_path / "broken.lac").write_bytes(data)
    with pytest.raises(lc.CorruptFile, match=r"broken\.lac"):
        Artifact.open(tmp_path / "broken.lac")
    (tmp_path / "weights.bin").write_bytes(b"1234" * 20)
    with pytest.raises(lc.BadInput, match=r"holds a \.bin file, which Laconic does not run"):
        Artifact.open(lc.pack(tmp_path / "weights.bin").file)


def test_an_archive_keeps_how_it_is_run_and_not_where_it_came_from(program: lc.Program, tmp_path: Path) -> None:
    from laconic.core import packed

    artifact = lc.export(program, tmp_path / "model.onnx", runtime="openvino", precision="bf16")
    assert artifact.lineage
    archive = artifact.save(tmp_path / "model.lac")
    _, settings = packed.TABLE[".lac"].restore(archive, tmp_path / "there")
    assert set(settings) == {"target", "input_structure", "output_structure"}
    assert settings["target"] == {"runtime": "openvino", "precision": "bf16", "device": "cpu"}
