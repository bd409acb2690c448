"""Read and write `.pt2` files without unpickling or evaluating anything that is in them, and without putting a word of them into code.

The file is PyTorch's own (`torch.export.save`), so `torch.export.load` reads it too. That function, however, unpickles the sample inputs and any
constant marked `use_pickle`, evaluates symbolic expressions as Python, resolves operator names through attributes of `torch`, imports what tree specs name
and writes names of the graph into Python that it runs. So the archive is read here entry by entry: raw tensors, and a description of the graph of which only
what `serialized` builds anew reaches PyTorch.

No example inputs are in the file: `Interface.samples` says how to make some.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from laconic.core import serialized, structure
from laconic.core.allowed import written
from laconic.core.archive import Archive, rewrite
from laconic.core.assembly import assemble
from laconic.core.errors import CorruptFile, ExportError
from laconic.core.example import Sample
from laconic.core.exported import plain_graph, quiet_export, tensors_in
from laconic.core.files import write_whole
from laconic.core.interface import Interface

FORMAT = 2
_EXTRA = "laconic.json"
_GRAPH = "models/model.json"


def write(exported: ExportedProgram, interface: Interface, path: Path) -> Path:
    """Write an exported program and its interface, without example inputs; equal programs give equal bytes.

    Raises:
        ExportError: it holds something that `read` would refuse, e.g. an operator that is not on the list; names it.
        LaconicError: the disk is full, …
    """
    exported._example_inputs = None
    _compact(exported)
    extra = {"format": FORMAT, "interface": interface.to_json()}
    buffer = io.BytesIO()
    with quiet_export():
        torch.export.save(exported, buffer, extra_files={_EXTRA: json.dumps(extra)})

    def plain(name: str, content: bytes) -> tuple[str, bytes]:
        try:
            return name, json.dumps(serialized.rebuild(json.loads(content))).encode()
        except serialized.NotAllowed as error:
            raise ExportError(f"{path} cannot be written: no file may hold what this program does: {error}") from error

    def save(aside: Path) -> None:
        with aside.open("wb") as handle:
            rewrite(buffer, handle, plain, lambda name: name == _GRAPH)

    return write_whole(path, save)


def _compact(exported: ExportedProgram) -> None:
    """Give each tensor that is a view a storage of its own size: a reader takes no more than is there. What is one tensor stays one."""
    own: dict[int, Tensor] = {}
    for tensors in (exported.state_dict, exported.constants):
        for name, value in tensors.items():
            if isinstance(value, Tensor) and value.untyped_storage().nbytes() != value.numel() * value.element_size():
                twin = own.get(id(value))
                if twin is None:
                    twin = value.detach().clone(memory_format=torch.contiguous_format)
                    twin = torch.nn.Parameter(twin, value.requires_grad) if isinstance(value, torch.nn.Parameter) else twin
                    own[id(value)] = twin
                tensors[name] = twin


def read(path: Path) -> tuple[fx.GraphModule, Interface, ExportedProgram | None]:
    """Read a program's graph with its tensors, its interface, and what `torch.export` made, where that is the same graph.

    Raises:
        CorruptFile: there is none, or it holds what is not read from files. A file that is not whole may raise anything: see `core.reading`.
    """
    if not path.exists():
        raise CorruptFile(f"{path} does not exist")
    try:
        with Archive(path) as archive:
            return _read(archive)
    except serialized.NotAllowed as error:
        raise CorruptFile(f"{path} is refused: {error}. Load only files that Laconic saved.") from error


def _read(archive: Archive) -> tuple[fx.GraphModule, Interface, ExportedProgram | None]:
    extra = archive.json(f"extra/{_EXTRA}")
    if extra["format"] > FORMAT:
        raise CorruptFile(f"{archive.path} has format {extra['format']}; this Laconic reads up to {FORMAT}. Install a newer Laconic.")
    description = serialized.rebuild(archive.json(_GRAPH))
    exported = _deserialize(description, dict(_payloads(archive, "weights")), dict(_payloads(archive, "constants")))
    interface = Interface.from_json(extra["interface"])
    if extra["format"] == 1:  # it holds the example itself, of which no more is taken than its shapes
        interface = replace(interface, samples=tuple(Sample(tuple(item["shape"]), item["dtype"], 0, 0) for item in extra["example"]))
    graph, unchanged = plain_graph(exported)
    _check_interface(interface, graph)
    for node, base in written(graph):
        if base.op == "placeholder" or base.target not in interface.limits.state:
            raise archive.refuse(f"{node.target} writes into '{base.target}', which is not its own")
    return assemble(graph, tensors_in(exported)), interface, exported if unchanged else None


def _check_interface(interface: Interface, graph: fx.Graph) -> None:
    """Refuse an interface that is not the graph's.

    Raises:
        ValueError: another number of inputs or outputs.
    """
    taken, given = sum(node.op == "placeholder" for node in graph.nodes), len(graph.output_node().args[0])  # type: ignore[arg-type]
    nested = [len(list(structure.places(spec, ""))) for spec in (interface.input_structure, interface.output_structure)]
    told = {len(interface.inputs), len(interface.samples), nested[0]}, {len(interface.outputs), nested[1]}
    if told != ({taken}, {given}) or interface.input_structure["kind"] != "dict":
        raise ValueError(f"the graph has {taken} inputs and {given} outputs, and its interface says otherwise")


def _payloads(archive: Archive, kind: str) -> Iterator[tuple[str, Tensor]]:
    """Yield raw tensors with their names; what is one tensor in the file is one in memory, and together they are no larger than what is there."""
    from torch._export.serde.serialize import _SERIALIZE_TO_TORCH_DTYPE

    storages: dict[str, bytearray] = {}
    claimed: dict[str, int] = {}
    views: dict[str, Tensor] = {}
    for name, item in archive.json(f"data/{kind}/model_{kind}_config.json")["config"].items():
        if item["use_pickle"] or item["tensor_meta"] is None:
            raise archive.refuse(f"'{name[:80]}' is a pickle, which could run code when it is read")
        meta, place = serialized.tensor_meta(item["tensor_meta"]), item["path_name"]
        key = json.dumps([place, meta, item["is_param"]])
        if key not in views:
            dtype = _SERIALIZE_TO_TORCH_DTYPE[meta["dtype"]]
            if place not in storages:
                storages[place] = bytearray(archive.bytes(f"data/{kind}/{place}"))
            sizes, strides = ([entry["as_int"] for entry in meta[field]] for field in ("sizes", "strides"))
            claimed[place] = claimed.get(place, 0) + math.prod(sizes) * dtype.itemsize
            if claimed[place] > len(storages[place]):
                raise archive.refuse(f"'{serialized.tensor_name(name)}' claims more bytes than the file has for it")
            raw = storages[place]
            flat = torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
            value = flat.as_strided(sizes, strides, meta["storage_offset"]["as_int"])
            views[key] = torch.nn.Parameter(value, requires_grad=meta["requires_grad"]) if item["is_param"] else value
        yield serialized.tensor_name(name), views[key]


def _deserialize(description: Any, weights: dict[str, Tensor], constants: dict[str, Tensor]) -> ExportedProgram:
    from torch._export.serde import schema
    from torch._export.serde.serialize import ExportedProgramDeserializer, _dict_to_dataclass

    return ExportedProgramDeserializer().deserialize(_dict_to_dataclass(schema.ExportedProgram, description), weights, constants, None)
