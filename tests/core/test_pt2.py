from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from laconic.core.capture import capture
from laconic.core.errors import CorruptFile
from laconic.core.graph import module_path
from laconic.core.program import Program
from tests.core.models import ConvNet, Nested, Recurrent, Tied

IMAGE, SERIES, IDS = (2, 1, 12, 12), (2, 7, 6), (2, 7)


@pytest.mark.parametrize(
    ("net", "example"),
    [
        (ConvNet(), torch.randn(IMAGE)),
        (Recurrent(nn.GRU), torch.randn(SERIES)),
        (Tied(), torch.ones(IDS, dtype=torch.long)),
        (Nested("dataclass"), ({"a": torch.randn(2, 4), "deep": {"b": torch.randn(2, 4)}},)),
    ],
    ids=["conv", "gru", "tied", "nested"],
)
def test_save_load_run_is_identity(net: nn.Module, example: Any, tmp_path: Path) -> None:
    program = capture(net, example)
    twin = Program.load(program.save(tmp_path / "model.pt2"))
    assert twin.fingerprint() == program.fingerprint()
    assert set(twin.state_dict()) == set(net.state_dict())
    assert twin.interface == program.interface
    assert [module_path(n) for n in twin.graph.nodes if n.op == "call_function"] == [
        module_path(n) for n in program.graph.nodes if n.op == "call_function"
    ]
    flat = program.example_inputs()
    for mine, theirs in zip(program.graph_module(*flat), twin.graph_module(*flat), strict=True):
        assert torch.equal(mine, theirs)
    again = Program.load(twin.save(tmp_path / "again.pt2"))
    assert again.fingerprint() == program.fingerprint()


def test_a_loaded_program_trains_like_the_one_saved(tmp_path: Path) -> None:
    from tests.core.test_capture import sgd

    program = capture(ConvNet(), torch.randn(IMAGE))
    twin = Program.load(program.save(tmp_path / "model.pt2"))
    batches = [torch.randn(4, 1, 12, 12) for _ in range(2)]
    sgd(program, batches, 5)
    sgd(twin, batches, 5)
    assert twin.fingerprint() == program.fingerprint()


def test_changed_weights_are_what_is_saved(tmp_path: Path) -> None:
    program = capture(ConvNet(), torch.randn(IMAGE))
    with torch.no_grad():
        for parameter in program.parameters():
            parameter.mul_(2)
    assert Program.load(program.save(tmp_path / "model.pt2")).fingerprint() == program.fingerprint()


def test_pytorch_itself_reads_the_file(tmp_path: Path) -> None:
    program = capture(ConvNet(), torch.randn(IMAGE))
    x = torch.randn(3, 1, 12, 12)
    theirs = torch.export.load(program.save(tmp_path / "model.pt2")).module()
    assert torch.equal(theirs(x)[0], program(x))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return capture(ConvNet(), torch.randn(IMAGE)).save(tmp_path_factory.mktemp("pt2") / "model.pt2")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_truncated_files_are_refused_by_name(saved: Path, tmp_path: Path, share: float) -> None:
    path = tmp_path / "cut.pt2"
    data = saved.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CorruptFile, match=r"cut\.pt2"):
        Program.load(path)


def test_a_flipped_bit_in_a_weight_is_refused(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "flipped.pt2"
    data = bytearray(saved.read_bytes())
    with zipfile.ZipFile(saved) as archive:
        item = next(i for i in archive.infolist() if "weights/weight_0" in i.filename)
    data[item.header_offset + 200] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptFile, match=r"flipped\.pt2"):
        Program.load(path)


def rewrite(saved: Path, path: Path, edit: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(path, "w", compression) as new:
        for item in old.infolist():
            new.writestr(item.filename, edit(item.filename, old.read(item.filename)))
    return path


class Boom:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.write_text, (self.path, "code ran"))


def test_pickles_inside_are_never_opened(saved: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    poison = io.BytesIO()
    torch.save(Boom(mark), poison)
    path = rewrite(saved, tmp_path / "evil.pt2", lambda name, data: poison.getvalue() if "sample_inputs" in name else data)
    Program.load(path)
    assert not mark.exists()
    with pytest.raises(Exception):  # noqa: B017 - PyTorch's own reader runs the code first and fails after
        torch.export.load(path)
    assert mark.exists()


def test_a_constant_marked_as_pickle_is_refused(saved: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    def edit(name: str, data: bytes) -> bytes:
        if name.endswith("model_weights_config.json"):
            config = json.loads(data)
            next(iter(config["config"].values()))["use_pickle"] = True
            return json.dumps(config).encode()
        return pickle.dumps(Boom(mark)) if name.endswith("weight_0") else data

    with pytest.raises(CorruptFile, match="is a pickle"):
        Program.load(rewrite(saved, tmp_path / "evil.pt2", edit))
    assert not mark.exists()


@pytest.mark.parametrize(
    "target", ["torch.ops.load_library", "torch.hub.load", "_operator.attrgetter.x", "torch.ops.aten.mul.Tensor.__class__"]
)
def test_operators_off_the_list_are_refused(saved: Path, tmp_path: Path, target: str) -> None:
    def edit(name: str, data: bytes) -> bytes:
        return data.replace(b"torch.ops.aten.relu.default", target.encode()) if name.endswith("model.json") else data

    with pytest.raises(CorruptFile, match="not an operator on the list"):
        Program.load(rewrite(saved, tmp_path / "evil.pt2", edit))


def test_expressions_are_not_evaluated(saved: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    def edit(name: str, data: bytes) -> bytes:
        if not name.endswith("model.json"):
            return data
        code = f"open({str(mark)!r}, 'w')"
        graph = json.loads(data, object_hook=lambda item: {**item, "expr_str": code} if "expr_str" in item else item)
        return json.dumps(graph).encode()

    with pytest.raises(CorruptFile, match="would have to be evaluated"):
        Program.load(rewrite(saved, tmp_path / "evil.pt2", edit))
    assert not mark.exists()


def test_compressed_entries_are_refused(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(CorruptFile, match="compressed"):
        Program.load(rewrite(saved, tmp_path / "bomb.pt2", lambda name, data: data, zipfile.ZIP_DEFLATED))


def test_a_newer_format_says_so(saved: Path, tmp_path: Path) -> None:
    def edit(name: str, data: bytes) -> bytes:
        return json.dumps({**json.loads(data), "format": 99}).encode() if name.endswith("laconic.json") else data

    with pytest.raises(CorruptFile, match="format 99"):
        Program.load(rewrite(saved, tmp_path / "new.pt2", edit))


@pytest.mark.parametrize(
    "write", [lambda p: torch.save({"a": 1}, p), lambda p: p.write_bytes(pickle.dumps([1])), lambda p: p.write_text("hello")]
)
def test_other_files_posing_as_pt2(write: Callable[[Path], object], tmp_path: Path) -> None:
    write(tmp_path / "fake.pt2")
    with pytest.raises(CorruptFile, match=r"fake\.pt2"):
        Program.load(tmp_path / "fake.pt2")
