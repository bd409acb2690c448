"""Read and write `.pt2` files without unpickling or evaluating anything that is in them.

The file is PyTorch's own (`torch.export.save`), so `torch.export.load` reads it too. That function, however, unpickles the sample inputs and any
constant marked `use_pickle`, evaluates symbolic expressions as Python, and resolves operator names through attributes of `torch`. So the archive is
read here entry by entry: JSON and raw tensors only, after a check of every operator name and expression against a list of what is allowed.

No example inputs are in the file: `Interface.samples` says how to make some.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from laconic.core.assembly import assemble
from laconic.core.errors import CorruptFile, LaconicError
from laconic.core.example import Sample
from laconic.core.exported import plain_graph, quiet_export, tensors_in
from laconic.core.files import write_whole
from laconic.core.interface import Interface

FORMAT = 2
_EXTRA = "laconic.json"
_OPERATOR = re.compile(
    r"(torch\.ops\.(aten|prims|quantized_decomposed)\.\w+(\.\w+)?|_operator\.\w+|math\.(ceil|floor|trunc|sqrt)|torch\.sym_\w+)"
)
_SYMBOL = re.compile(
    r"[su]\d+|zuf\d+|int_oo|oo|True|False|Integer|Float|Rational|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv|IntTrueDiv|FloatTrueDiv|TruncToInt|CeilToInt|FloorToInt|"
    r"Add|Mul|Pow|RoundToInt|ToFloat|Max|Min|Eq|Ne|Lt|Le|Gt|Ge|Abs|Where|Identity|ModularIndexing|PowByNatural"
)
_DECLARED = re.compile(r"Symbol\('([su]\d+|zuf\d+)'(, (positive|integer|nonnegative|negative|zero|real)=(True|False))*\)")
_EXPRESSION = re.compile(r"[\w\s+\-*/(),<>=]*")
# Metadata of nodes that are kept; others may name arbitrary attributes of torch.
_METADATA = ("nn_module_stack", "stack_trace")
_HEADER_LIMIT = 512 << 20


def write(exported: ExportedProgram, interface: Interface, path: Path) -> Path:
    """Write an exported program and its interface; the file appears whole, without example inputs."""
    exported._example_inputs = None
    extra = {"format": FORMAT, "interface": interface.to_json()}

    def save(aside: Path) -> None:
        with quiet_export():
            torch.export.save(exported, aside, extra_files={_EXTRA: json.dumps(extra)})

    return write_whole(path, save)


def read(path: Path) -> tuple[fx.GraphModule, Interface, ExportedProgram | None]:
    """Read a program's graph with its tensors, its interface, and what `torch.export` made, where that is the same graph.

    Raises:
        CorruptFile: truncated, altered, another kind of file, or one that would have to be unpickled or evaluated; names the file.
    """
    if not path.exists():
        raise CorruptFile(f"{path} does not exist")
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(_Archive(archive, path))
    except LaconicError:
        raise
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError, AttributeError, RuntimeError, IndexError, OSError, EOFError) as error:
        raise CorruptFile(
            f"{path} is not a whole .pt2 written by Laconic ({type(error).__name__}: {str(error)[:200]}). Save the program again; a file of "
            "torch.export.save is captured anew with laconic.capture."
        ) from error


class _Archive:
    """The entries of a .pt2: uncompressed (so none unpacks to more than the file's size), with their checksums verified."""

    def __init__(self, archive: zipfile.ZipFile, path: Path) -> None:
        self.archive, self.path = archive, path
        self.root = archive.namelist()[0].split("/")[0]
        if any(item.compress_type != zipfile.ZIP_STORED for item in archive.infolist()):
            raise self.refuse("it holds compressed entries, which PyTorch does not write")

    def refuse(self, why: str) -> CorruptFile:
        return CorruptFile(f"{self.path} is refused: {why}. Load only files that Laconic saved.")

    def bytes(self, name: str) -> bytes:
        return self.archive.read(f"{self.root}/{name}")

    def json(self, name: str) -> Any:
        if self.archive.getinfo(f"{self.root}/{name}").file_size > _HEADER_LIMIT:
            raise self.refuse(f"{name} is larger than any graph")
        return json.loads(self.bytes(name))


def _read(archive: _Archive) -> tuple[fx.GraphModule, Interface, ExportedProgram | None]:
    extra = archive.json(f"extra/{_EXTRA}")
    if extra["format"] > FORMAT:
        raise CorruptFile(f"{archive.path} has format {extra['format']}; this Laconic reads up to {FORMAT}. Install a newer Laconic.")
    serialized = archive.json("models/model.json")
    _check(serialized, archive)
    exported = _deserialize(serialized, dict(_payloads(archive, "weights")), dict(_payloads(archive, "constants")))
    interface = Interface.from_json(extra["interface"])
    if extra["format"] == 1:  # it holds the example itself, of which no more is taken than its shapes
        interface = replace(interface, samples=tuple(Sample(tuple(item["shape"]), item["dtype"], 0, 0) for item in extra["example"]))
    graph, unchanged = plain_graph(exported)
    return assemble(graph, tensors_in(exported)), interface, exported if unchanged else None


def _check(value: Any, archive: _Archive) -> None:
    """Refuse operators and expressions that are not on the list, and drop metadata that names other things."""
    if isinstance(value, list):
        for item in value:
            _check(item, archive)
    if not isinstance(value, dict):
        return
    for key, item in value.items():
        if key == "target" and isinstance(item, str) and not _OPERATOR.fullmatch(item):
            raise archive.refuse(f"its graph calls '{item[:80]}', which is not an operator on the list")
        if key == "expr_str" and not _is_plain(item):
            raise archive.refuse(f"it holds the expression '{str(item)[:80]}', which would have to be evaluated")
        if key == "metadata" and isinstance(item, dict):
            value[key] = {name: text for name, text in item.items() if name in _METADATA}
        _check(value[key], archive)
    for key in value.get("range_constraints") or {}:
        if not _is_plain(key):
            raise archive.refuse(f"it holds the expression '{str(key)[:80]}', which would have to be evaluated")


def _is_plain(text: Any) -> bool:
    if not isinstance(text, str):
        return False
    text = _DECLARED.sub("s0", text)
    if not _EXPRESSION.fullmatch(text):
        return False
    return all(_SYMBOL.fullmatch(word) for word in re.findall(r"[A-Za-z_]\w*", text))


def _payloads(archive: _Archive, kind: str) -> Iterator[tuple[str, Tensor]]:
    """Return raw tensors with their names; what shares storage in the file shares it in memory."""
    from torch._export.serde.serialize import _SERIALIZE_TO_TORCH_DTYPE

    storages: dict[str, Tensor] = {}
    for name, item in archive.json(f"data/{kind}/model_{kind}_config.json")["config"].items():
        if item["use_pickle"] or item["tensor_meta"] is None:
            raise archive.refuse(f"'{name}' is a pickle, which could run code when it is read")
        meta = item["tensor_meta"]
        dtype = _SERIALIZE_TO_TORCH_DTYPE[meta["dtype"]]
        if item["path_name"] not in storages:
            data = bytearray(archive.bytes(f"data/{kind}/{item['path_name']}"))
            storages[item["path_name"]] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        sizes, strides = ([entry["as_int"] for entry in meta[key]] for key in ("sizes", "strides"))
        value = storages[item["path_name"]].as_strided(sizes, strides, meta["storage_offset"]["as_int"])
        yield name, torch.nn.Parameter(value, requires_grad=meta["requires_grad"]) if item["is_param"] else value


def _deserialize(graph: Any, weights: dict[str, Tensor], constants: dict[str, Tensor]) -> ExportedProgram:
    from torch._export.serde import schema
    from torch._export.serde.serialize import ExportedProgramDeserializer, _dict_to_dataclass

    return ExportedProgramDeserializer().deserialize(_dict_to_dataclass(schema.ExportedProgram, graph), weights, constants, None)
