"""`laconic pack` and `laconic unpack`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

import laconic as lc
from laconic.cli import app

RUN = CliRunner()


@pytest.fixture
def artifact(tmp_path: Path) -> lc.Artifact:
    torch.manual_seed(0)
    return lc.export(lc.capture(torch.nn.Linear(20, 30), torch.zeros(2, 20)), tmp_path / "ship" / "model.onnx", threads=1)


def test_a_model_is_packed_told_and_restored(artifact: lc.Artifact, tmp_path: Path) -> None:
    done = RUN.invoke(app, ["pack", str(artifact.file), "-o", str(tmp_path / "m.lac"), "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["packed_bytes"] == (tmp_path / "m.lac").stat().st_size
    assert [30, 20] in [row["shape"] for row in told["tensors"]]
    table = RUN.invoke(app, ["pack", str(artifact.file), "-o", str(tmp_path / "m.lac")], env={"COLUMNS": "80"}).stdout
    parts = {part: sum(row["parts"][part] for row in told["tensors"]) for part in told["tensors"][0]["parts"]}
    for word in (
        *(row["name"][:10] for row in told["tensors"]),
        ", ".join(f"{part} {size:,}" for part, size in parts.items() if size),
        "Order 0",
        "times smaller",
        "of memory at the most",
        f"{told['front_bytes']:,} bytes",
    ):
        assert word in table
    back = RUN.invoke(app, ["unpack", str(tmp_path / "m.lac"), "-o", str(tmp_path / "back.onnx")])
    assert back.exit_code == 0, back.output
    assert (tmp_path / "back.onnx").read_bytes() == artifact.file.read_bytes()
    refused = RUN.invoke(app, ["unpack", str(tmp_path / "m.lac"), "--max-bytes", "100"])
    assert refused.exit_code == 1
    assert "more than the 100 that are allowed" in refused.output.replace("\n", " ")


def test_a_folder_is_packed_with_how_it_is_run(artifact: lc.Artifact, tmp_path: Path) -> None:
    done = RUN.invoke(app, ["pack", str(artifact.folder), "-o", str(tmp_path / "m.lac"), "--json"])
    assert done.exit_code == 0, done.output
    found = lc.Artifact.open(tmp_path / "m.lac")
    assert (found.target, found.input_structure) == (artifact.target, artifact.input_structure)


def test_an_archive_of_an_artifact_is_restored_into_a_folder(artifact: lc.Artifact, tmp_path: Path) -> None:
    archive, folder = artifact.save(tmp_path / "m.lac"), tmp_path / "again"
    done = RUN.invoke(app, ["unpack", str(archive), "-o", str(folder), "--json"])
    assert (done.exit_code, json.loads(done.stdout)) == (0, {"folder": str(folder)})
    again = lc.Artifact.open(folder)
    assert sorted(file.name for file in folder.iterdir()) == ["artifact.json", "model.onnx", "run.py"]
    assert (again.target, again.inputs, again.sha256) == (artifact.target, artifact.inputs, artifact.sha256)
    refused = RUN.invoke(app, ["unpack", str(archive), "-o", str(folder), "--max-bytes", "100"])
    assert refused.exit_code == 2
    assert "--max-bytes: of a model file" in refused.output
    (folder / "artifact.json").unlink()
    with pytest.raises(lc.BadInput, match="is not empty and holds no artifact"):
        artifact.save(folder)


def test_a_folder_in_the_place_of_an_archive_is_told(artifact: lc.Artifact) -> None:
    refused = RUN.invoke(app, ["unpack", str(artifact.folder)], env={"COLUMNS": "400"})
    assert (refused.exit_code, "is a folder, no archive; `laconic pack" in refused.output) == (2, True), refused.output
    with pytest.raises(lc.BadInput, match=r"is a folder\. Pack the artifact in it"):
        lc.pack(artifact.folder)


def test_fast_leaves_slow_codings_out(tmp_path: Path) -> None:
    weights = torch.from_numpy(np.random.default_rng(0).integers(-1, 2, (60, 80)) * (np.arange(80) % 4 == 0)).float()
    safetensors.torch.save_file({"a": weights}, tmp_path / "a.safetensors")
    sizes = []
    for options in ([], ["--fast"]):
        done = RUN.invoke(app, ["pack", str(tmp_path / "a.safetensors"), "-o", str(tmp_path / "m.lac"), "--json", *options])
        assert done.exit_code == 0, done.output
        sizes.append(json.loads(done.stdout)["packed_bytes"])
    assert sizes[0] < sizes[1]
