from __future__ import annotations

import contextlib
import io
import json
import pickle
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import laconic as lc
from laconic.core import runnable, stored
from laconic.core.capture import capture
from laconic.core.errors import CorruptFile, ExportError
from laconic.core.graph import module_path
from laconic.core.program import Program, canonical
from tests.core.hostile import FORBIDDEN, GRAPH, Edit, bombs, code_in_files, renamed, rewrite, with_json
from tests.core.models import ConvNet, Nested, Recurrent, Tied

MARK = Path("PWNED")
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
    assert list(canonical(runnable.read(tmp_path / "model.pt2").graph)) == list(canonical(twin.graph))
    again = Program.load(twin.save(tmp_path / "again.pt2"))
    assert again.fingerprint() == program.fingerprint()


class Sizes(nn.Module):
    """Computes with sizes, takes lists apart and puts them together, and has constants, buffers of both kinds and texts as arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.arange(4.0))
        self.register_buffer("made", torch.ones(4), persistent=False)
        self.linear = nn.Linear(4, 6)

    def forward(self, x: torch.Tensor, places: torch.Tensor) -> tuple[torch.Tensor, ...]:
        b, length, _ = x.shape
        first, *rest = x.split([1, 3], dim=-1)
        y = self.linear(x + self.kept * self.made).reshape(b * length, -1)
        y = y.view(b, length * 3, 2)[:, : length * 2]
        top, indices = y.topk(2, dim=1)
        mask = torch.full((length, length), float("-inf"), dtype=x.dtype).triu(1)
        pooled = nn.functional.interpolate(x.unsqueeze(1), scale_factor=2.0, mode="nearest").to(torch.float16)
        picked = x[:, places] + torch.tensor([0.5, 1.5, 2.5, 3.5])
        return torch.cat([first, *rest], -1), top, indices, mask + 0 * b, pooled, torch.einsum("bij,bkj->bik", picked, x), x.max(1).values


def test_reading_to_run_makes_the_same_graph(tmp_path: Path) -> None:
    data = TensorDataset(torch.randn(8, *IMAGE[1:]), torch.zeros(8, dtype=torch.long))
    quantized, _ = lc.quantize(
        capture(ConvNet(), torch.randn(IMAGE)), lc.Quantize(target="openvino", examples=8), lc.Task(ConvNet(), data, data)
    )
    sizes = capture(Sizes(), (torch.randn(2, 5, 4), torch.tensor([1, 3])), dynamic={"x": {1: "length"}}, dynamic_batch=False)
    for number, program in enumerate((quantized, sizes)):
        path = program.save(tmp_path / f"{number}.pt2")
        whole, read = Program.load(path), runnable.read(path)
        assert list(canonical(read.graph)) == list(canonical(whole.graph))
        assert set(read.state_dict()) == set(whole.state_dict())
        for mine, theirs in zip(read(*program.example_inputs()), whole.graph_module(*program.example_inputs()), strict=True):
            assert torch.equal(mine, theirs)


def test_reading_to_run_imports_no_exporter(saved: Path) -> None:
    code = """
import sys
from pathlib import Path
from laconic.core.target import Target
from laconic.deploy.native import Eager
Eager().load(Path(sys.argv[1]), Target("torch"))
print([name for name in ("torch._dynamo", "sympy") if name in sys.modules])
"""
    run = subprocess.run([sys.executable, "-c", code, str(saved)], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_numbers_of_types_are_pytorchs() -> None:
    from torch._export.serde.serialize import _SERIALIZE_TO_TORCH_DTYPE

    assert {int(number): dtype for number, dtype in _SERIALIZE_TO_TORCH_DTYPE.items()} == stored.DTYPES


def test_a_loaded_program_trains_like_the_one_saved(tmp_path: Path) -> None:
    from tests.core.test_capture import sgd

    program = capture(ConvNet(), torch.randn(IMAGE))
    twin = Program.load(program.save(tmp_path / "model.pt2"))
    batches = [torch.randn(4, 1, 12, 12) for _ in range(2)]
    sgd(program, batches, 5)
    sgd(twin, batches, 5)
    assert twin.fingerprint() == program.fingerprint()


def test_what_is_tied_stays_tied(tmp_path: Path) -> None:
    twin = Program.load(capture(Tied(), torch.ones(IDS, dtype=torch.long)).save(tmp_path / "model.pt2"))
    tied = dict(twin.named_parameters(remove_duplicate=False))
    assert tied["embed.weight"] is tied["out.weight"]


class ViewsAndInputs(nn.Module):
    """Changes its input in place, and its weights are views of something larger."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Parameter(torch.randn(6, 4)[::2].t().requires_grad_())
        self.register_buffer("same", torch.randn(1).expand(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x.view(-1).add_(1)
        return torch.relu_(x @ self.wide) + self.same


def test_views_and_inputs_changed_in_place_are_saved_as_what_they_compute(tmp_path: Path) -> None:
    net, x = ViewsAndInputs(), torch.randn(2, 4)
    program = capture(net, x.clone())
    wide, same = dict(program.named_parameters())["wide"], dict(program.named_buffers())["same"]
    wide.data, same.data = net.wide.data, net.same.data
    twin = Program.load(program.save(tmp_path / "model.pt2"))
    before = x.clone()
    assert torch.equal(twin(x), program(x))
    assert torch.equal(x, before)
    assert torch.equal(twin(x), net(x))


def test_a_program_that_no_file_may_hold_is_not_written(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.ops.aten._unsafe_index(x, [torch.zeros(1, dtype=torch.long)])

    with pytest.raises(ExportError, match="_unsafe_index.Tensor.*not an operator on the list"):
        capture(Odd(), torch.randn(2, 3), dynamic_batch=False).save(tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []


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


def refused(path: Path, match: str) -> str:
    """Both readers refuse a file; returns what `Program.load` says."""
    with pytest.raises(CorruptFile, match=match):
        runnable.read(path)
    with pytest.raises(CorruptFile, match=match) as error:
        Program.load(path)
    return str(error.value)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return capture(ConvNet(), torch.randn(IMAGE)).save(tmp_path_factory.mktemp("pt2") / "model.pt2")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_truncated_files_are_refused_by_name(saved: Path, tmp_path: Path, share: float) -> None:
    path = tmp_path / "cut.pt2"
    data = saved.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    refused(path, r"cut\.pt2")


def test_a_flipped_bit_in_a_weight_is_refused(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "flipped.pt2"
    data = bytearray(saved.read_bytes())
    with zipfile.ZipFile(saved) as archive:
        item = next(i for i in archive.infolist() if "weights/weight_0" in i.filename)
    data[item.header_offset + 200] ^= 1
    path.write_bytes(data)
    refused(path, r"flipped\.pt2")


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
    runnable.read(path)
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

    refused(rewrite(saved, tmp_path / "evil.pt2", edit), "is a pickle")
    assert not mark.exists()


@pytest.mark.parametrize(("entry", "edit"), [pytest.param(entry, edit, id=title) for title, entry, edit in code_in_files(MARK)])
def test_no_file_runs_code(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str, edit: Edit) -> None:
    monkeypatch.chdir(tmp_path)
    path = with_json(saved, tmp_path / "evil.pt2", entry, edit)
    assert path.read_bytes() != saved.read_bytes()
    with contextlib.suppress(CorruptFile):  # what is not refused was left out
        program = Program.load(path)
        program.graph_module(*program.example_inputs())
        assert MARK.name not in program.graph_module.code
    with contextlib.suppress(CorruptFile):
        module = runnable.read(path)
        module(torch.randn(IMAGE))
        assert MARK.name not in module.code
    assert not MARK.exists()


def test_pytorchs_own_reader_would_run_such_code(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    attacks = {title: (entry, edit) for title, entry, edit in code_in_files(MARK)}
    path = with_json(saved, tmp_path / "evil.pt2", *attacks["input"])
    with contextlib.suppress(Exception):
        torch.export.load(path).module()
    assert MARK.exists()


@pytest.mark.parametrize(("target", "why"), FORBIDDEN.items(), ids=FORBIDDEN)
def test_operators_off_the_list_are_refused(saved: Path, tmp_path: Path, target: str, why: str) -> None:
    path = with_json(saved, tmp_path / "evil.pt2", GRAPH, renamed("torch.ops.aten.relu.default", target))
    said = refused(path, re.escape(target[:30]))
    assert "not an operator on the list" in said
    assert why in said


@pytest.mark.parametrize("name", ["flat_0", "p_stem_weight", "b_scale"])
def test_a_graph_that_writes_into_what_it_was_given_is_refused(saved: Path, tmp_path: Path, name: str) -> None:
    def edit(value: dict[str, Any]) -> None:
        nodes = value["graph_module"]["graph"]["nodes"]
        node = next(item for item in nodes if item["target"] == "torch.ops.aten.relu.default")
        node["target"], node["inputs"][0]["arg"]["as_tensor"]["name"] = "torch.ops.aten.relu_.default", name

    refused(with_json(saved, tmp_path / "evil.pt2", GRAPH, edit), "relu_.default writes into")


@pytest.mark.parametrize(("entry", "edit"), [pytest.param(entry, edit, id=title) for title, entry, edit in bombs()])
def test_small_files_stay_small(saved: Path, tmp_path: Path, entry: str, edit: Edit) -> None:
    path = with_json(saved, tmp_path / "bomb.pt2", entry, edit)
    with pytest.raises(CorruptFile, match=r"bomb\.pt2") as error:
        Program.load(path)
    assert len(str(error.value)) < 600
    with contextlib.suppress(CorruptFile):  # what claims no memory of a tensor is not looked at
        assert sum(tensor.nbytes for tensor in runnable.read(path).state_dict().values()) < 2 * saved.stat().st_size


def test_entries_that_claim_each_others_bytes_are_refused(saved: Path, tmp_path: Path) -> None:
    data = saved.read_bytes()
    end = data.rindex(b"PK\x05\x06")
    start = int.from_bytes(data[end + 16 : end + 20], "little")
    directory = data[start:end]
    first = directory[: directory.index(b"PK\x01\x02", 4)]
    copies = b"".join(first.replace(b"weight_0", b"weight_" + bytes([65 + number])) for number in range(26)) * 40
    count = (int.from_bytes(data[end + 10 : end + 12], "little") + 26 * 40).to_bytes(2, "little")
    length = (len(directory) + len(copies)).to_bytes(4, "little")
    path = tmp_path / "overlap.pt2"
    path.write_bytes(data[:start] + directory + copies + data[end : end + 8] + count + count + length + data[end + 16 :])
    refused(path, "claim more bytes|have one name")


def test_deep_json_is_refused(saved: Path, tmp_path: Path) -> None:
    path = rewrite(saved, tmp_path / "deep.pt2", lambda name, data: b"[" * 100_000 if name.endswith(GRAPH) else data)
    refused(path, r"deep\.pt2")


def test_compressed_entries_are_refused(saved: Path, tmp_path: Path) -> None:
    refused(rewrite(saved, tmp_path / "bomb.pt2", lambda name, data: data, zipfile.ZIP_DEFLATED), "compressed")


def test_a_newer_format_says_so(saved: Path, tmp_path: Path) -> None:
    def edit(name: str, data: bytes) -> bytes:
        return json.dumps({**json.loads(data), "format": 99}).encode() if name.endswith("laconic.json") else data

    refused(rewrite(saved, tmp_path / "new.pt2", edit), "format 99")


@pytest.mark.parametrize(
    "write", [lambda p: torch.save({"a": 1}, p), lambda p: p.write_bytes(pickle.dumps([1])), lambda p: p.write_text("hello")]
)
def test_other_files_posing_as_pt2(write: Callable[[Path], object], tmp_path: Path) -> None:
    write(tmp_path / "fake.pt2")
    refused(tmp_path / "fake.pt2", r"fake\.pt2")
