"""Archives: what goes in comes out, nothing else goes in, and what was altered is refused."""

from __future__ import annotations

import hashlib
import random
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.numpy
import torch

import laconic as lc
from laconic.storage import codings, lac


@pytest.fixture(scope="module")
def program() -> lc.Program:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 36, 10))
    weight = net[3].weight.data
    weight[weight.abs() < 0.04] = 0
    weight.copy_((weight / 0.01).round() * 0.01)
    return lc.capture(net, torch.zeros(2, 1, 8, 8))


@pytest.fixture(scope="module")
def models(program: lc.Program, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("Ümlaut user")
    rng = np.random.default_rng(0)
    tensors = {"a": rng.standard_normal((30, 40)).astype(np.float32), "empty": np.zeros((0, 3), np.float32), "one": np.array(3.0)}
    safetensors.numpy.save_file({**tensors, "mask": tensors["a"] > 0}, folder / "model.safetensors")
    onnx_file = lc.export(program, folder / "model.onnx").file
    model = onnx.load(onnx_file)
    for tensor in model.graph.initializer:  # as other tools write them, and some Python
        array = onnx.numpy_helper.to_array(tensor)
        if array.ndim == 1:
            tensor.ClearField("raw_data")
            tensor.float_data.extend(array.tolist())
    onnx.save(model, folder / "floats.onnx")
    onnx.save(model, folder / "two.onnx", save_as_external_data=True, location="two.onnx.data", size_threshold=0)
    (folder / "other.bin").write_bytes(rng.bytes(1001))
    (folder / "empty.bin").write_bytes(b"")
    return {
        "onnx": onnx_file,
        "float_data": folder / "floats.onnx",
        "external": folder / "two.onnx",
        "pt2": program.save(folder / "model.pt2"),
        "ts": lc.export(program, folder / "model.ts").file,
        "safetensors": folder / "model.safetensors",
        "unknown": folder / "other.bin",
        "empty": folder / "empty.bin",
    }


KINDS = ("onnx", "float_data", "external", "pt2", "ts", "safetensors", "unknown", "empty")


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_comes_back_byte_by_byte(kind: str, models: dict[str, Path], tmp_path: Path) -> None:
    model = models[kind]
    packed = lc.pack(model, tmp_path / "a.lac")
    again = lc.pack(model, tmp_path / "b.lac")
    assert packed.file.read_bytes() == again.file.read_bytes()
    assert packed.packed_bytes == packed.file.stat().st_size
    back = lc.unpack(packed.file, tmp_path / f"back{model.suffix}")
    assert back.read_bytes() == model.read_bytes()
    beside = model.with_name(model.name + ".data")
    assert (tmp_path / beside.name).exists() == beside.exists()
    if beside.exists():
        assert (tmp_path / beside.name).read_bytes() == beside.read_bytes()


def test_tensors_are_found_with_names_shapes_and_what_they_take(models: dict[str, Path], tmp_path: Path) -> None:
    packed = lc.pack(models["onnx"], tmp_path / "a.lac")
    shapes = {tuple(tensor.dims) for tensor in onnx.load(models["onnx"]).graph.initializer}
    assert {tensor.shape for tensor in packed.tensors} <= shapes
    linear = next(tensor for tensor in packed.tensors if tensor.shape == (10, 288))
    array = next(
        onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(models["onnx"]).graph.initializer if tuple(tensor.dims) == (10, 288)
    )
    counts = np.unique(array, return_counts=True)[1] / array.size
    assert linear.entropy_bits == pytest.approx(-(counts * np.log2(counts)).sum())
    assert linear.bits_per_value < 6 < 32
    for tensor in packed.tensors:
        assert sum(tensor.parts.values()) == tensor.packed_bytes
    assert packed.front_bytes + sum(tensor.packed_bytes for tensor in packed.tensors) == packed.packed_bytes


def test_an_archive_that_is_to_be_read_fast_has_the_same_in_other_ways(models: dict[str, Path], tmp_path: Path) -> None:
    small, fast = lc.pack(models["onnx"], tmp_path / "a.lac"), lc.pack(models["onnx"], tmp_path / "b.lac", fast=True)
    assert small.packed_bytes < fast.packed_bytes < small.original_bytes
    assert lc.unpack(fast.file, tmp_path / "back.onnx").read_bytes() == models["onnx"].read_bytes()


def test_a_program_is_packed_as_its_file(program: lc.Program, models: dict[str, Path], tmp_path: Path) -> None:
    lc.pack(program, tmp_path / "p.lac")
    assert lc.unpack(tmp_path / "p.lac").read_bytes() == models["pt2"].read_bytes()
    with pytest.raises(lc.BadInput, match="say where"):
        lc.pack(program)


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_nothing_leaks(kind: str, models: dict[str, Path], tmp_path: Path) -> None:
    """Neither the folder nor the name of the file: packed elsewhere under another name, the archive is the same."""
    model = models[kind]
    other = tmp_path / f"secret{model.suffix}"
    other.write_bytes(model.read_bytes())
    assert lc.pack(model, tmp_path / "a.lac").file.read_bytes() == lc.pack(other, tmp_path / "b.lac").file.read_bytes()
    with (tmp_path / "a.lac").open("rb") as handle:
        front = lac.read_front(handle, tmp_path / "a.lac", 1 << 30)
    assert [file.name for file in front.files] == [f"model{model.suffix}"]


def altered(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data))
    return rng.choice(
        [
            data[:place],
            data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :],
            data[:place] + data[place + 1 :],
            data + b"x",
        ]
    )


@pytest.mark.parametrize("kind", ["onnx", "external", "safetensors"])
def test_an_altered_archive_is_refused_by_name_and_leaves_nothing(kind: str, models: dict[str, Path], tmp_path: Path) -> None:
    sound = lc.pack(models[kind], tmp_path / "a.lac").file.read_bytes()
    rng = random.Random(0)
    broken = tmp_path / "broken"
    broken.mkdir()
    for _ in range(150):
        (broken / "b.lac").write_bytes(altered(sound, rng))
        with pytest.raises(lc.CorruptFile):
            lc.unpack(broken / "b.lac")
        assert not list(broken.glob(f"*{models[kind].suffix}"))
        assert not list(broken.glob(".writing-*"))


def sparse(folder: Path, n: int) -> Path:
    file = folder / "zeros.safetensors"
    safetensors.numpy.save_file({"a": np.zeros(n, np.float32)}, file)
    return file


def test_an_archive_that_unpacks_to_too_much_is_refused_before_it_is_read(tmp_path: Path) -> None:
    packed = lc.pack(sparse(tmp_path, 1 << 20), tmp_path / "a.lac")
    assert packed.ratio > 10_000
    with pytest.raises(lc.CorruptFile, match=r"unpacks to 4,194,\d+, more than the 1,000,000 that are allowed.*--max-bytes"):
        lc.unpack(packed.file, tmp_path / "out.safetensors", most_bytes=1_000_000)
    assert lc.unpack(packed.file, tmp_path / "out.safetensors").stat().st_size == packed.original_bytes


@pytest.mark.parametrize("density", [0.0, 0.1, 1.0])
def test_memory_stays_within_what_the_head_says(density: float, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal(1_000_000).astype(np.float32)
    values[rng.random(len(values)) >= density] = 0
    safetensors.numpy.save_file({"a": values, "b": (values * 20).astype(np.int8)}, tmp_path / "a.safetensors")
    packed = lc.pack(tmp_path / "a.safetensors")
    tracemalloc.start()
    try:
        lc.unpack(packed.file, tmp_path / "b.safetensors")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < packed.memory_bytes


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda folder: lc.pack(folder / "none.onnx"), "there is no file"),
        (lambda folder: lc.pack(folder / "a.lac"), "is an archive already"),
        (lambda folder: lc.pack(lc.FitPlan(), folder / "b.lac"), r"object of the class FitPlan\. Of an artifact: artifact\.save"),  # type: ignore[arg-type]
        (lambda folder: lc.pack(folder / "bad.onnx"), "is not a .onnx file that can be read"),
        (lambda folder: lc.pack(folder / "a.bin", folder / "a.zip"), "ends in .lac"),
        (lambda folder: lc.unpack(folder / "none.lac"), "there is no archive"),
        (lambda folder: lc.unpack(folder / "a.lac", folder / "a.onnx"), "holds a .bin file, not .onnx"),
    ],
)
def test_what_cannot_be_packed_is_told(call: object, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"PK\x03\x04 no protocol buffer")
    (tmp_path / "a.bin").write_bytes(b"1234" * 10)
    lc.pack(tmp_path / "a.bin")
    with pytest.raises(lc.BadInput, match=message):
        call(tmp_path)  # type: ignore[operator]


def test_what_decodes_to_something_else_is_refused_though_the_payload_is_as_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a machine that computes otherwise."""
    (tmp_path / "a.bin").write_bytes(np.random.default_rng(0).standard_normal(3000).astype("<f4").tobytes())
    lc.pack(tmp_path / "a.bin")
    decode = codings.decode
    monkeypatch.setattr(codings, "decode", lambda data, about: decode(data, about) ^ 1)
    with pytest.raises(lc.CorruptFile, match="a tensor in it is not"):
        lc.unpack(tmp_path / "a.lac")


def test_a_later_version_and_another_file_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"1234" * 10)
    data = bytearray(lc.pack(tmp_path / "a.bin").file.read_bytes())
    data[4] = 9
    (tmp_path / "a.lac").write_bytes(data)
    with pytest.raises(lc.CorruptFile, match="version 9"):
        lc.unpack(tmp_path / "a.lac")
    (tmp_path / "b.lac").write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(lc.CorruptFile, match=r"b\.lac.*does not begin as one"):
        lc.unpack(tmp_path / "b.lac")


@pytest.mark.parametrize(
    ("version", "told"),
    [
        (1, "bb98ef7a6c234e02cfd7de51e2d154a684931db704e1097aed7f8d6b71bda6b5"),
        (2, "d4150f943b86c8cdef773b0429bedadbf898816ed0a68d8894f96d8721b6468f"),
    ],
)
def test_an_archive_that_was_written_once_is_read_as_ever(version: int, told: str, tmp_path: Path) -> None:
    """The first: ANS with tables and a curve, adaptive contexts, odd floats; the second: to be read fast. Other machines and later versions read the same."""
    back = lc.unpack(Path(__file__).with_name(f"version{version}.lac"), tmp_path / "back.safetensors")
    assert hashlib.sha256(back.read_bytes()).hexdigest() == told
