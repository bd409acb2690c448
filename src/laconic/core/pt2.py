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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from laconic.core import serialized, stored
from laconic.core.archive import Archive, rewrite
from laconic.core.assembly import assemble
from laconic.core.errors import CorruptFile, ExportError
from laconic.core.exported import plain_graph, quiet_export, tensors_in
from laconic.core.files import write_whole
from laconic.core.interface import Interface


def write(exported: ExportedProgram, interface: Interface, path: Path) -> Path:
    """Write an exported program and its interface, without example inputs; equal programs give equal bytes.

    Raises:
        ExportError: it holds something that `read` would refuse, e.g. an operator that is not on the list; names it.
        LaconicError: the disk is full, …
    """
    exported._example_inputs = None
    _compact(exported)
    extra = {"format": stored.FORMAT, "interface": interface.to_json()}
    buffer = io.BytesIO()
    with quiet_export():
        torch.export.save(exported, buffer, extra_files={stored.EXTRA: json.dumps(extra)})

    def plain(name: str, content: bytes) -> tuple[str, bytes]:
        try:
            return name, json.dumps(serialized.rebuild(json.loads(content))).encode()
        except serialized.NotAllowed as error:
            raise ExportError(f"{path} cannot be written: no file may hold what this program does: {error}") from error

    def save(aside: Path) -> None:
        with aside.open("wb") as handle:
            rewrite(buffer, handle, plain, lambda name: name == stored.GRAPH)

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
    interface, description = stored.interface(archive), stored.description(archive)
    exported = _deserialize(description, stored.tensors(archive, "weights"), stored.tensors(archive, "constants"))
    graph, unchanged = plain_graph(exported)
    stored.check(archive, interface, graph)
    return assemble(graph, tensors_in(exported)), interface, exported if unchanged else None


def _deserialize(description: Any, weights: Mapping[str, Tensor], constants: Mapping[str, Tensor]) -> ExportedProgram:
    from torch._export.serde import schema
    from torch._export.serde.serialize import ExportedProgramDeserializer, _dict_to_dataclass

    return ExportedProgramDeserializer().deserialize(
        _dict_to_dataclass(schema.ExportedProgram, description), dict(weights), dict(constants), None
    )
