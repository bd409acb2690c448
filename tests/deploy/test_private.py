"""No artifact holds the data that it was made with: every file of its folder, and what is packed inside, is searched for the bytes of each example."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import laconic as lc

_TEXT = re.compile(rb"[A-Za-z0-9+/=]{24,}")
ROWS = torch.randn(24, 40, generator=torch.Generator().manual_seed(7))
IDS = torch.randint(1000, 2**15, (24, 12), generator=torch.Generator().manual_seed(8))


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(2**15, 4), nn.Linear(4, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embed(ids).mean(1))


def contents(data: bytes, depth: int = 0) -> Iterator[bytes]:
    """The bytes, and what they hold: members of archives, base64, deflate."""
    yield data
    if depth > 2:
        return
    if data[:2] == b"PK":
        import io

        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in archive.namelist():
                yield from contents(archive.read(name), depth + 1)
    for text in _TEXT.findall(data):
        try:
            yield base64.b64decode(text, validate=True)
        except ValueError:
            continue
    if data[:1] == b"\x78":
        with contextlib.suppress(zlib.error):  # what only begins like a compressed stream
            yield zlib.decompress(data)


def needles(x: Tensor) -> Iterator[bytes]:
    """Parts of each row, in each type that it may be written in; and as text."""
    kinds = (
        (torch.float32, torch.float64, torch.float16, torch.bfloat16) if x.is_floating_point() else (torch.int64, torch.int32, torch.int16)
    )
    for row in x:
        for kind in kinds:
            data = row.to(kind).contiguous().view(torch.uint8).numpy().tobytes()
            width = 4 * (torch.finfo(kind).bits if kind.is_floating_point else torch.iinfo(kind).bits) // 8
            yield from (data[start : start + width] for start in range(0, len(data) - width + 1, width))
        yield json.dumps(row[:3].tolist()).strip("[]").encode()


def holding(folder: Path, x: Tensor) -> set[str]:
    wanted = re.compile(b"|".join(map(re.escape, set(needles(x)))))
    return {path.name for path in folder.rglob("*") if path.is_file() and any(wanted.search(part) for part in contents(path.read_bytes()))}


def test_the_search_finds_what_is_there(tmp_path: Path) -> None:
    torch.save({"x": ROWS[3:5].half()}, tmp_path / "a.bin")
    (tmp_path / "b.json").write_text(json.dumps({"data": base64.b64encode(ROWS[1].numpy().tobytes()).decode()}))
    (tmp_path / "c.json").write_text(json.dumps({"data": ROWS[2].tolist()}))
    (tmp_path / "d.json").write_text("{}")
    assert holding(tmp_path, ROWS) == {"a.bin", "b.json", "c.json"}


@pytest.mark.parametrize("kind", ["onnx", "pt2", "ts"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("data", ["numbers", "words"])
def test_no_file_of_an_artifact_holds_an_example(kind: str, precision: str, data: str, tmp_path: Path) -> None:
    x, net = (ROWS, nn.Sequential(nn.Linear(40, 32), nn.ReLU(), nn.Linear(32, 3))) if data == "numbers" else (IDS, Words())
    examples = TensorDataset(x, torch.zeros(len(x), dtype=torch.long))
    program = lc.capture(net.eval(), x[:8])
    if precision == "int8":
        program, _ = lc.quantize(program, lc.Quantize(target="onnxruntime", examples=24), lc.Task(net, examples, examples))
    lc.export(program, tmp_path / "artifact" / f"model.{kind}")
    assert not holding(tmp_path / "artifact", x)


def test_programs_on_disk_and_copies_hold_no_example(tmp_path: Path) -> None:
    import copy

    program = lc.capture(nn.Sequential(nn.Linear(40, 3)), ROWS[:8])
    program.save(tmp_path / "captured.pt2")
    twin = copy.deepcopy(lc.Program.load(tmp_path / "captured.pt2"))
    twin.save(tmp_path / "twin.pt2")
    assert not holding(tmp_path, ROWS)
    assert all(torch.equal(a, b) for a, b in zip(twin.example_inputs(), program.example_inputs(), strict=True))
    assert program.exported().example_inputs is None


def test_a_file_is_no_larger_for_a_larger_example(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    sizes = [lc.capture(net, torch.randn(n, 3, 32, 32)).save(tmp_path / f"{n}.pt2").stat().st_size for n in (2, 64)]
    assert abs(sizes[1] - sizes[0]) < 1024
