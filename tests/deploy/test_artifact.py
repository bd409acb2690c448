from __future__ import annotations

import json
import math
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import laconic as lc
from laconic.core.errors import BadInput, CorruptFile, ExportError
from laconic.core.records import Measurement
from laconic.core.target import Target
from laconic.deploy.artifact import Artifact, pack, save_artifact
from laconic.deploy.export import parity, write_model
from laconic.deploy.runtime import TABLE, runtime
from tests.core.models import ConvNet
from tests.deploy.formats import WRITABLE


@pytest.fixture(scope="module")
def program() -> lc.Program:
    return lc.capture(ConvNet().eval(), torch.randn(2, 1, 8, 8))


@pytest.fixture
def artifact(program: lc.Program, tmp_path: Path) -> Artifact:
    return save_artifact(program, tmp_path / "artifact", Target("onnxruntime"), {"recipe": {"steps": []}})


def test_a_folder_opens_as_it_was_saved(artifact: Artifact) -> None:
    assert {item.name for item in artifact.folder.iterdir()} == {"model.onnx", "artifact.json", "run.py"}
    for path in (artifact.folder, artifact.file):
        found = Artifact.open(path)
        assert found == artifact
    assert artifact.size_bytes == artifact.file.stat().st_size
    assert artifact.inputs[0].shape == ("batch", 1, 8, 8)


def test_onnx_has_a_named_dynamic_batch_and_passes_the_checker(artifact: Artifact) -> None:
    model = onnx.load(artifact.file)
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == 20
    assert [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == ["batch", 1, 8, 8]
    assert model.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert str(Path(lc.__file__).parent).encode() not in artifact.file.read_bytes()


def test_large_weights_go_into_a_second_file(program: lc.Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("laconic.deploy.export._EXTERNAL_OVER", 100)
    found = save_artifact(program, tmp_path / "a", Target("onnxruntime"), {})
    assert found.size_bytes == sum(item.stat().st_size for item in found.folder.glob("model.onnx*"))
    assert (found.folder / "model.onnx.data").stat().st_size > found.file.stat().st_size / 4
    x = np.ones((2, 1, 8, 8), np.float32)
    with torch.no_grad():
        expected = program(torch.from_numpy(x)).numpy()
    copied = pack(found.file, program.interface, tmp_path / "b", found.target, {})
    saved = found.save(tmp_path / "c" / "model.onnx")
    for file in (found.file, copied.file, saved):
        assert np.allclose(runtime("onnxruntime").load(file, found.target).run([x])[0], expected, atol=1e-5)
    content = bytearray((found.folder / "model.onnx.data").read_bytes())
    content[0] ^= 1
    (found.folder / "model.onnx.data").write_bytes(bytes(content))
    with pytest.raises(CorruptFile, match="not the file that was exported"):
        Artifact.open(found.folder)


def test_weights_in_a_second_file_appear_whole(program: lc.Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills up leaves the old pair; a smaller model leaves no weights that are nobody's."""
    import onnx_ir

    monkeypatch.setattr("laconic.deploy.export._EXTERNAL_OVER", 100)
    path = lc.export(program, tmp_path / "model.onnx").file
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    save = onnx_ir.save

    def full(model: Any, file: Path, **options: Any) -> None:
        save(model, file, **options)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(onnx_ir, "save", full)
    with pytest.raises(lc.LaconicError, match=r"cannot write .*model\.onnx: No space left"):
        lc.export(program, path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    monkeypatch.undo()
    small = lc.export(program, path)
    assert {file.name for file in tmp_path.iterdir()} == set(before) - {"model.onnx.data"}
    assert small.size_bytes == path.stat().st_size


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLE)
def test_the_script_runs_it_without_laconic(name: str, program: lc.Program, tmp_path: Path) -> None:
    why = runtime(name).available()
    if why is not None:
        pytest.skip(why)
    found = save_artifact(program, tmp_path, Target(name), {})
    text = (tmp_path / "run.py").read_text()
    assert not re.search(r"import laconic|from laconic", text)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", found.folder / "run.py", "3"], capture_output=True, text=True, check=False, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split(maxsplit=1)[1].strip() == "(3, 10) float32"


def test_a_bare_file_opens_with_defaults(artifact: Artifact, program: lc.Program, tmp_path: Path) -> None:
    bare = artifact.save(tmp_path / "bare.onnx")
    found = Artifact.open(bare)
    assert (found.target, found.inputs, found.lineage) == (Target("onnxruntime"), artifact.inputs, {})
    saved = Artifact.open(program.save(tmp_path / "bare.pt2"))
    assert (saved.target.runtime, saved.inputs) == ("torch", program.inputs)
    with pytest.raises(BadInput, match=r"the artifact is .onnx, not .pt2"):
        artifact.save(tmp_path / "x.pt2")


def test_a_target_changes_only_what_the_file_can_do(artifact: Artifact) -> None:
    assert artifact.with_target(runtime="openvino", threads=1, precision=None).target == Target("openvino", "fp32", 1)
    with pytest.raises(BadInput, match="torch in fp32 reads pt2 files"):
        artifact.with_target(runtime="torch")


def test_a_card_of_the_first_format_is_read(artifact: Artifact) -> None:
    path = artifact.folder / "artifact.json"
    card = json.loads(path.read_text(encoding="utf-8"))
    assert (card["format"], card["target"]["runtime"]) == (2, artifact.target.runtime)
    path.write_text(json.dumps({**card, "format": 1, "settings": card.pop("target")}), encoding="utf-8")
    assert Artifact.open(artifact.folder) == artifact
    path.write_text(json.dumps(card), encoding="utf-8")
    with pytest.raises(CorruptFile, match="is not an artifact's card"):
        Artifact.open(artifact.folder)


def test_packing_shares_the_file_and_tells_its_lineage(program: lc.Program, tmp_path: Path) -> None:
    file = write_model(program, tmp_path / "models", "onnx")
    found = pack(file, program.interface, tmp_path / "packed", Target("openvino"), {"recipe": "r"}, {"fp32": Measurement(48, "B")})
    assert found.lineage == {"recipe": "r"}
    assert found.ram == Artifact.open(tmp_path / "packed").ram == Measurement(48, "B")
    assert found.file.stat().st_ino == file.stat().st_ino
    assert Artifact.open(tmp_path / "packed") == found


@pytest.mark.parametrize("suffix", [Path(name).suffix for name, _ in WRITABLE.values()])
def test_export_writes_by_its_ending(program: lc.Program, tmp_path: Path, suffix: str) -> None:
    found = lc.export(program, tmp_path / f"m{suffix}")
    assert found.lineage["program"] == program.fingerprint()
    assert Artifact.open(found.file) == found


def test_export_refuses_another_ending(program: lc.Program, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="a model file ends in .onnx, .pt2, .ts"):
        lc.export(program, tmp_path / "m.tflite")
    with pytest.raises(BadInput, match="'tflite' is not a model format"):
        write_model(program, tmp_path, "tflite")


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch PWNED",)


def test_a_pickle_posing_as_a_model_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for suffix in (".onnx", ".pt2", ".ts"):
        plain, zipped = tmp_path / f"plain{suffix}", tmp_path / f"zipped{suffix}"
        plain.write_bytes(pickle.dumps(Evil()))
        torch.save({"model": Evil()}, zipped)
        for file in (plain, zipped):
            if suffix == ".ts" and file == zipped:
                continue  # a TorchScript file is itself such an archive; `torch.jit.load` reads it without pickle's callables
            with pytest.raises(CorruptFile):
                Artifact.open(file)
    with pytest.raises((CorruptFile, RuntimeError)):
        runtime("torchscript").load(tmp_path / "zipped.ts", Target("torchscript"))
    assert not (tmp_path / "PWNED").exists()


def test_torchscript_from_a_path_is_code_and_not_run(artifact: Artifact, program: lc.Program, tmp_path: Path) -> None:
    made = lc.export(program, tmp_path / "m.ts")
    for arguments in ((made.file,), (tmp_path,), (artifact, made.file)):
        with pytest.raises(BadInput, match=r"m\.ts is not run: TorchScript is a programming language.*--trust"):
            lc.bench(*arguments)
    Artifact.open(made.file, trust=True).check_trusted()
    made.check_trusted()
    Artifact.open(artifact.file).check_trusted()


@pytest.mark.parametrize("keep", [0, 1, 100, 1000])
def test_a_truncated_model_is_refused(artifact: Artifact, keep: int) -> None:
    artifact.file.write_bytes(artifact.file.read_bytes()[:keep])
    with pytest.raises(CorruptFile, match=r"model.onnx is (empty|not a whole ONNX file|not the file that was exported)"):
        Artifact.open(artifact.folder)


def test_an_altered_model_is_refused(artifact: Artifact) -> None:
    content = bytearray(artifact.file.read_bytes())
    content[len(content) // 2] ^= 1
    artifact.file.write_bytes(bytes(content))
    with pytest.raises(CorruptFile, match="SHA-256 begins with"):
        Artifact.open(artifact.folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 99}, "has format 99; this Laconic reads up to 2"),
        ({"file": "../../etc/model.onnx"}, "names the file"),
        ({"file": "gone.onnx"}, "is missing"),
        ({"sha256": None}, "not the file that was exported|is not an artifact's card"),
    ],
)
def test_a_card_that_lies_is_refused(artifact: Artifact, change: dict[str, object], said: str) -> None:
    card = artifact.folder / "artifact.json"
    found = json.loads(card.read_text()) | change
    card.write_text(json.dumps({key: value for key, value in found.items() if value is not None}))
    with pytest.raises(CorruptFile, match=said):
        Artifact.open(artifact.folder)


def test_what_is_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="has no artifact.json"):
        Artifact.open(tmp_path)
    with pytest.raises(BadInput, match="there is no artifact"):
        Artifact.open(tmp_path / "x.onnx")
    (tmp_path / "x.txt").write_text("hello")
    with pytest.raises(BadInput, match="not a model file that Laconic runs"):
        Artifact.open(tmp_path / "x.txt")


class Unknown(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(x)


def test_an_operator_that_onnx_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="bessel_j0"):
        lc.export(lc.capture(Unknown(), torch.ones(2, 3)), tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


arrays = hnp.arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 5)), elements=st.floats(-1e6, 1e6))


@given(arrays, st.floats(-1e3, 1e3))
def test_parity_is_the_largest_difference(array: np.ndarray, shift: float) -> None:
    found = parity([array + shift], [array])
    gap = np.abs((array + shift) - array).max()
    assert found["max_abs"] == gap
    assert found["n"] == array.size
    largest = np.abs(array).max()
    with np.errstate(over="ignore"):
        assert found["max_rel"] == pytest.approx(gap / largest if largest else gap)
    assert parity([array], [array])["max_rel"] == 0


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([np.zeros((2, 3))], [np.zeros((3, 2))]),
        ([np.array([1.0, np.nan])], [np.array([1.0, 2.0])]),
        ([np.array([1.0, 2.0])], [np.array([1.0, np.inf])]),
        ([np.zeros(2)], [np.zeros(2), np.zeros(2)]),
    ],
)
def test_parity_is_infinite_where_nothing_can_be_compared(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    assert parity(found, expected)["max_rel"] == float("inf")


def test_parity_forgives_what_is_infinite_in_both() -> None:
    masked = np.array([1.0, -np.inf, np.nan])
    found = parity([masked], [masked])
    assert [found[name] for name in ("max_abs", "max_rel", "sqnr_db", "n")] == [0.0, 0.0, math.inf, 3]


def test_signal_to_noise_is_that_of_the_worst_output() -> None:
    rng = np.random.default_rng(0)
    signal = [rng.standard_normal(500), 3 * rng.standard_normal((10, 4))]
    noise = [0.01 * rng.standard_normal(500), 0.02 * rng.standard_normal((10, 4))]
    power = min((s**2).sum() / (n**2).sum() for s, n in zip(signal, noise, strict=True))
    found = parity([s + n for s, n in zip(signal, noise, strict=True)], signal)
    assert found["sqnr_db"] == pytest.approx(10 * np.log10(power))
    assert parity([signal[0] * np.nan, signal[1]], signal)["sqnr_db"] == -math.inf
