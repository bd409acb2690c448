"""Where the tensors lie in a model file, by the file's own format: bytes, never parsed into more than places, kinds and shapes.

What is not found here stays among the other bytes, so that any file comes back byte by byte, also one that is read wrongly.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from laconic.storage.kinds import BYTES, KINDS, Kind

LEAST = 16  # bytes of a tensor that is worth a place of its own
_DEEPEST = 40  # graphs inside of nodes


@dataclass(frozen=True)
class Place:
    """Where a tensor's values lie.

    Attributes:
        start: byte at which they begin.
        size_bytes: of them.
        kind: their number format.
        shape: of the tensor; its product is the number of values.
        name: of the tensor, for people.
    """

    start: int
    size_bytes: int
    kind: Kind
    shape: tuple[int, ...]
    name: str


def places(path: Path, data: memoryview) -> list[Place]:
    """Return the tensors of a file in the order of their bytes, none over another.

    Args:
        path: whose ending says the format; the content of any other file counts as one tensor.
        data: the file's bytes.

    Raises:
        ValueError, struct.error, …: the file is not whole.
    """
    find = _FORMATS.get(path.suffix, _any)
    found: list[Place] = []
    for place in sorted(find(data), key=lambda place: place.start):
        end = found[-1].start + found[-1].size_bytes if found else 0
        if place.size_bytes >= LEAST and place.start >= end:
            found.append(place)
    return found


def _placed(start: int, size: int, kind: Kind | None, shape: tuple[int, ...], name: str) -> Place:
    """Return a place; one whose shape is not that of its bytes is a row of bytes."""
    if kind is None or min(shape, default=1) < 0 or math.prod(shape) * kind.width != size:
        kind, shape = BYTES, (size,)
    return Place(start, size, kind, shape, name)


def _any(data: memoryview) -> Iterator[Place]:
    """Take all bytes for float32, which most weights are: to be wrong costs size, nothing else."""
    yield _placed(0, len(data), KINDS["float32"], (len(data) // 4,), "")


# ONNX -----------------------------------------------------------------------------------------------------------------------------------

# Messages of onnx.proto and the fields that lead to tensors (https://onnx.ai/onnx/repo-docs/IR.html).
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_ONNX_KINDS = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "uint8", 10: "float16", 11: "float64", 12: "uint32",
    13: "uint64", 16: "bfloat16",
}  # fmt: skip
_DIMS, _TYPE, _FLOATS, _NAME, _RAW = 1, 2, 4, 8, 9


def _onnx(data: memoryview) -> Iterator[Place]:
    waiting = [("model", 0, len(data), 0)]
    while waiting:
        message, start, end, depth = waiting.pop()
        if depth > _DEEPEST:
            raise ValueError("its graphs are nested without end")
        if message == "tensor":
            yield from _tensor(data, start, end)
            continue
        inner = _FIELDS[message]
        waiting += [
            (inner[field], first, last, depth + 1) for field, wire, first, last in _wire(data, start, end) if wire == 2 and field in inner
        ]


def _tensor(data: memoryview, start: int, end: int) -> Iterator[Place]:
    dims: list[int] = []
    kind, name, found = None, "", []
    for field, wire, first, last in _wire(data, start, end):
        if field == _DIMS and wire == 0:
            dims.append(first)
        elif field == _DIMS and wire == 2:
            while first < last:
                value, first = _varint(data, first, last)
                dims.append(value)
        elif field == _TYPE and wire == 0:
            kind = KINDS.get(_ONNX_KINDS.get(first, ""))
        elif field == _NAME and wire == 2:
            name = bytes(data[first:last]).decode("utf-8", "replace")
        elif field in (_RAW, _FLOATS) and wire == 2:
            found.append((first, last - first))
    yield from (_placed(place, size, kind, tuple(dims), name) for place, size in found)


def _wire(data: memoryview, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield field, wire type, and the ends of its bytes, or a number twice, of a protocol buffer."""
    while start < end:
        tag, start = _varint(data, start, end)
        field, wire = tag >> 3, tag & 7
        if wire == 0:
            value, start = _varint(data, start, end)
            yield field, wire, value, value
            continue
        if wire == 2:
            size, start = _varint(data, start, end)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError("its fields have no such type")
        if start + size > end:
            raise ValueError("a field goes past its end")
        yield field, wire, start, start + size
        start += size


def _varint(data: memoryview, start: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if start >= end:
            break
        byte = data[start]
        start += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, start
    raise ValueError("a number has no end")


# Archives of PyTorch ---------------------------------------------------------------------------------------------------------------------

_TORCH_KINDS = {
    1: "uint8",
    2: "int8",
    3: "int16",
    4: "int32",
    5: "int64",
    6: "float16",
    7: "float32",
    8: "float64",
    12: "uint8",
    13: "bfloat16",
}
_WEIGHTS = ("weights", "constants")


def _zip(data: memoryview) -> Iterator[Place]:
    """Yield the stored entries, of which PyTorch says what they are or which are taken for float32."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        items = [item for item in archive.infolist() if item.compress_type == zipfile.ZIP_STORED and item.file_size == item.compress_size]
        told: dict[str, tuple[Kind | None, tuple[int, ...], str]] = {}
        for item in items:
            root, _, inside = item.filename.partition("/data/")
            if inside in [f"{kind}/model_{kind}_config.json" for kind in _WEIGHTS]:
                told.update(_told(f"{root}/data/{inside.partition('/')[0]}", json.loads(archive.read(item))))
    for item in items:
        start = item.header_offset + 30
        start += int.from_bytes(data[start - 4 : start - 2], "little") + int.from_bytes(data[start - 2 : start], "little")
        if item.filename in told:
            yield _placed(start, item.file_size, *told[item.filename])
        elif item.filename.rpartition("/")[2].isdigit():  # a tensor of TorchScript
            yield _placed(start, item.file_size, KINDS["float32"], (item.file_size // 4,), item.filename.partition("/")[2])
        elif item.filename.endswith(".safetensors"):  # the weights of a program for XLA
            yield from (replace(place, start=place.start + start) for place in _safetensors(data[start : start + item.file_size]))


def _told(folder: str, config: dict) -> Iterator[tuple[str, tuple[Kind | None, tuple[int, ...], str]]]:
    for name, item in config["config"].items():
        meta = item["tensor_meta"]
        if meta is not None:
            shape = tuple(size["as_int"] for size in meta["sizes"])
            yield f"{folder}/{item['path_name']}", (KINDS.get(_TORCH_KINDS.get(meta["dtype"], "")), shape, name)


# safetensors -----------------------------------------------------------------------------------------------------------------------------

_SAFE_KINDS = {
    "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64", "I8": "int8", "U8": "uint8", "I16": "int16", "U16": "uint16",
    "I32": "int32", "U32": "uint32", "I64": "int64", "U64": "uint64", "BOOL": "uint8",
}  # fmt: skip


def _safetensors(data: memoryview) -> Iterator[Place]:
    first = 8 + int.from_bytes(data[:8], "little")
    for name, item in json.loads(bytes(data[8:first])).items():
        if name != "__metadata__":
            start, end = item["data_offsets"]
            if 0 <= start <= end <= len(data) - first:
                yield _placed(first + start, end - start, KINDS.get(_SAFE_KINDS.get(item["dtype"], "")), tuple(item["shape"]), name)


_FORMATS: dict[str, Callable[[memoryview], Iterator[Place]]] = {
    ".onnx": _onnx,
    ".pt2": _zip,
    ".ts": _zip,
    ".xla": _zip,
    ".safetensors": _safetensors,
}
SUFFIXES = tuple(_FORMATS)
