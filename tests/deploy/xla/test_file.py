"""The model file for XLA: what stands in it, what is refused, and that integers are computed as such."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("jax", reason="the package jax is not installed")

import jax
import jax.export
import jax.numpy as jnp

import laconic as lc
from laconic.core.errors import CorruptFile, ExportError
from laconic.core.target import Target
from laconic.deploy.artifact import Artifact
from laconic.deploy.numerics import bits_of
from laconic.deploy.xla import file
from laconic.deploy.xla.runtime import Xla
from laconic.quantization.quantize import Quantize, quantize
from laconic.storage.locate import places
from tests.quantization.nets import images, task_of


class Small(nn.Module):
    """A convolution with padding, a pool, a linear layer, a product of two activations."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, padding=1, stride=2), nn.Linear(8, 4)
        self.pool = nn.MaxPool2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.pool(self.conv(x).relu()).flatten(2).transpose(1, 2)
        return self.head(rows) @ self.head(rows).transpose(1, 2)


class Rare(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cdist(x.flatten(2), x.flatten(2))


def answers(made: Path, x: Tensor, precision: str = "fp32") -> np.ndarray:
    return Xla().load(made, Target("xla", precision, threads=1)).run([x.numpy()])[0]


@pytest.fixture(scope="module")
def programs() -> dict[str, lc.Program]:
    torch.manual_seed(0)
    x = images(16)
    program = lc.capture(Small().eval(), x)
    return {"float": program, "int8": quantize(program, Quantize(target="openvino"), task_of(x))[0]}


@pytest.fixture(scope="module")
def made(programs: dict[str, lc.Program], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    return {name: lc.export(program, tmp_path_factory.mktemp(name) / "model.xla") for name, program in programs.items()}


@pytest.mark.parametrize("name", ["float", "int8"])
def test_it_answers_as_the_program_at_every_batch_size(name: str, programs: dict[str, lc.Program], made: dict[str, Artifact]) -> None:
    for size in (1, 5):
        x = images(size)
        with torch.no_grad():
            expected = programs[name](x).numpy()
        found = answers(made[name].file, x)
        if name == "float":
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        else:  # a value on the edge between two codes may fall on the other side
            assert np.abs(found - expected).mean() < 0.02 * np.abs(expected).mean()


def test_pairs_become_products_of_integers(made: dict[str, Artifact]) -> None:
    program, weights = file.read(made["int8"].file, "fp32")
    text = program.mlir_module()
    lines = [line for line in text.splitlines() if "stablehlo.convolution" in line or "stablehlo.dot_general" in line]
    integer = [line for line in lines if "xi8>" in line and "xi32>" in line]
    assert integer == lines  # a convolution, two linear layers, a product of activations, for each kind of device
    assert len(lines) >= 4
    assert sorted(value.dtype.name for value in weights.values() if value.dtype.kind == "i" and value.size > 30) == ["int8", "int8"]
    assert (made["int8"].numerics, bits_of(made["float"].file)) == ("int8", None)


def test_what_is_rounded_by_its_own_range_is_refused(programs: dict[str, lc.Program], tmp_path: Path) -> None:
    rounded = quantize(programs["float"], Quantize(target="onnxruntime", mode="dynamic"), task_of(images(16)))[0]
    with pytest.raises(ExportError, match="mode='dynamic'"):
        lc.export(rounded, tmp_path / "model.xla")


def test_an_operator_without_a_row_is_named(tmp_path: Path) -> None:
    program = lc.capture(Rare().eval(), torch.randn(2, 3, 4, 4))
    with pytest.raises(ExportError, match=r"no row for aten::_cdist_forward \(1×\)"):
        lc.export(program, tmp_path / "model.xla")
    assert not (tmp_path / "model.xla").exists()


def test_the_file_tells_its_inputs_and_holds_weights_that_a_storage_archive_finds(made: dict[str, Artifact], tmp_path: Path) -> None:
    whole = made["float"]
    bare = Artifact.open(whole.save(tmp_path / "bare" / "model.xla"))
    assert (bare.inputs, bare.outputs) == (whole.inputs, whole.outputs)
    found = {place.name: place for place in places(whole.file, memoryview(whole.file.read_bytes()))}
    assert found["conv.weight"].shape == (8, 3, 3, 3)
    place = found["conv.weight"]
    with zipfile.ZipFile(whole.file) as archive:
        assert archive.namelist()[-1] == f"{file.ROOT}/{file.WEIGHTS}"
    stored = np.frombuffer(whole.file.read_bytes()[place.start : place.start + place.size_bytes], np.float32)
    assert np.array_equal(stored, _weights(whole)["conv.weight"].ravel())


def _weights(artifact: Artifact) -> dict[str, np.ndarray]:
    return file.read(artifact.file, "fp32")[1]


def _hostile(path: Path, made: Artifact, content: bytes) -> Path:
    with zipfile.ZipFile(made.file) as old, zipfile.ZipFile(path, "w") as new:
        for item in old.infolist():
            new.writestr(item.filename, content if item.filename.endswith("fp32.stablehlo") else old.read(item))
    return path


def test_a_program_that_calls_what_is_not_its_own_is_refused(made: dict[str, Artifact], tmp_path: Path) -> None:
    def called(weights: Any, x: Any) -> Any:
        return jax.ffi.ffi_call("somebody_elses", jax.ShapeDtypeStruct(x.shape, x.dtype))(x)

    check = jax.export.DisabledSafetyCheck.custom_call("somebody_elses")
    content = jax.export.export(jax.jit(called), disabled_checks=[check])({}, jax.ShapeDtypeStruct((2,), jnp.float32)).serialize()
    with pytest.raises(CorruptFile, match="its program calls somebody_elses"):
        file.read(_hostile(tmp_path / "a.xla", made["float"], bytes(content)), "fp32")


def test_bytes_that_are_no_program_are_refused(made: dict[str, Artifact], tmp_path: Path) -> None:
    with zipfile.ZipFile(made["float"].file) as archive:
        whole = archive.read(f"{file.ROOT}/{file.program_entry('fp32')}")
    for place, content in enumerate((b"", b"\0" * 64, whole[: len(whole) // 2])):
        with pytest.raises(CorruptFile):
            file.read(_hostile(tmp_path / f"{place}.xla", made["float"], content), "fp32")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{file.ROOT}/{file.ABOUT}", b"{}" + b" " * 10_000)
    (tmp_path / "bomb.xla").write_bytes(packed.getvalue())
    with pytest.raises(CorruptFile, match="compressed"):
        file.about(tmp_path / "bomb.xla")


def test_the_script_runs_it_without_laconic_and_without_torch(made: dict[str, Artifact], tmp_path: Path) -> None:
    """In this process: another one would import JAX once more."""
    x = images(3).numpy()
    np.savez(tmp_path / "x.npz", **{made["float"].inputs[0].name: x})
    script = (made["float"].folder / "run.py").read_text()
    assert "torch" not in script
    assert "laconic" not in script.replace("without Laconic", "")
    import sys

    before, wide = sys.argv, jax.config.jax_enable_x64
    sys.argv = ["run.py", str(tmp_path / "x.npz"), str(tmp_path / "y.npz")]
    try:
        exec(compile(script, "run.py", "exec"), {"__file__": str(made["float"].folder / "run.py"), "__name__": "__main__", "__doc__": ""})
    finally:
        sys.argv = before
        jax.config.update("jax_enable_x64", wide)
    (found,) = np.load(tmp_path / "y.npz").values()
    np.testing.assert_allclose(found, answers(made["float"].file, torch.from_numpy(x)), rtol=1e-5, atol=1e-6)
