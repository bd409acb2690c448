"""What both readers of a `.pt2` take from it as it is: its interface and its tensors; and what they refuse of a graph."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from laconic.core import serialized, structure
from laconic.core.allowed import written
from laconic.core.archive import Archive
from laconic.core.errors import CorruptFile
from laconic.core.example import Sample
from laconic.core.interface import Interface

FORMAT = 2
EXTRA = "laconic.json"
GRAPH = "models/model.json"
# Numbers of types in files: PyTorch's (torch/_export/serde/schema.py, ScalarType). Read from here, nothing of its exporter is imported.
_TYPES: dict[str, int] = {
    **{
        "uint8": 1,
        "int8": 2,
        "int16": 3,
        "int32": 4,
        "int64": 5,
        "float16": 6,
        "float32": 7,
        "float64": 8,
        "complex32": 9,
        "complex64": 10,
    },
    **{"complex128": 11, "bool": 12, "bfloat16": 13, "uint16": 28, "float8_e4m3fn": 29, "float8_e5m2": 30, "float8_e4m3fnuz": 31},
    **{"float8_e5m2fnuz": 32, "float8_e8m0fnu": 33, "uint32": 34, "uint64": 35},
}
DTYPES: dict[int, torch.dtype] = {number: getattr(torch, name) for name, number in _TYPES.items()}


def interface(archive: Archive) -> Interface:
    """Read the interface.

    Raises:
        CorruptFile: the file is of a newer format.
    """
    extra = archive.json(f"extra/{EXTRA}")
    if extra["format"] > FORMAT:
        raise CorruptFile(f"{archive.path} has format {extra['format']}; this Laconic reads up to {FORMAT}. Install a newer Laconic.")
    result = Interface.from_json(extra["interface"])
    if extra["format"] == 1:  # it holds the example itself, of which no more is taken than its shapes
        result = replace(result, samples=tuple(Sample(tuple(item["shape"]), item["dtype"], 0, 0) for item in extra["example"]))
    return result


def description(archive: Archive) -> dict[str, Any]:
    """Read what PyTorch wrote about the graph, built anew from what is allowed."""
    return serialized.rebuild(archive.json(GRAPH))


def tensors(archive: Archive, kind: str) -> Mapping[str, Tensor]:
    """Read raw tensors (``weights`` or ``constants``) by name.

    What is one tensor in the file is one in memory, and together they are no larger than what is there.
    """
    return dict(_tensors(archive, kind))


def _tensors(archive: Archive, kind: str) -> Iterator[tuple[str, Tensor]]:
    storages: dict[str, bytearray] = {}
    claimed: dict[str, int] = {}
    views: dict[str, Tensor] = {}
    for name, item in archive.json(f"data/{kind}/model_{kind}_config.json")["config"].items():
        if item["use_pickle"] or item["tensor_meta"] is None:
            raise archive.refuse(f"'{name[:80]}' is a pickle, which could run code when it is read")
        meta, place = serialized.tensor_meta(item["tensor_meta"]), item["path_name"]
        key = json.dumps([place, meta, item["is_param"]])
        if key not in views:
            dtype = DTYPES[meta["dtype"]]
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


def check(archive: Archive, told: Interface, graph: fx.Graph) -> None:
    """Refuse an interface that is not the graph's, and a graph that writes into what is not its own.

    Raises:
        ValueError: another number of inputs or outputs.
        CorruptFile: it writes into an input or a parameter.
    """
    taken, given = sum(node.op == "placeholder" for node in graph.nodes), len(graph.output_node().args[0])  # type: ignore[arg-type]
    nested = [len(list(structure.places(spec, ""))) for spec in (told.input_structure, told.output_structure)]
    counts = {len(told.inputs), len(told.samples), nested[0]}, {len(told.outputs), nested[1]}
    if counts != ({taken}, {given}) or told.input_structure["kind"] != "dict":
        raise ValueError(f"the graph has {taken} inputs and {given} outputs, and its interface says otherwise")
    for node, base in written(graph):
        if base.op == "placeholder" or base.target not in told.limits.state:
            raise archive.refuse(f"{node.target} writes into '{base.target}', which is not its own")
