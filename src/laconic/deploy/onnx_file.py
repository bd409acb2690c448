"""What an ONNX file claims to hold, compared with what it holds, before a runtime reads it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

from laconic.core.errors import need
from laconic.core.wording import shorten

_FIELDS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")


def check_claims(model: Any) -> None:
    """Refuse a model whose constants claim more values than the file holds for them.

    Raises:
        ValueError: names the constant.
    """
    proto = need("onnx").TensorProto
    for tensor in _constants(model.graph):
        count, bits = math.prod(tensor.dims), _bits(tensor.data_type)
        entries = sum(len(getattr(tensor, name)) for name in _FIELDS) // (
            2 if tensor.data_type in (proto.COMPLEX64, proto.COMPLEX128) else 1
        )
        held = 8 * len(tensor.raw_data) // bits if tensor.raw_data else entries * max(1, 8 // bits)
        if any(size < 0 for size in tensor.dims) or (tensor.data_location != proto.EXTERNAL and count > held):
            raise ValueError(f"the constant {shorten(tensor.name)} claims {count:.3g} values, and the file holds {held:,}")


def _constants(graph: Any) -> Iterator[Any]:
    """Yield every tensor that stands in a graph, those of its nodes and of graphs inside of them included."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors) if attribute.HasField("t") else attribute.tensors
            for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                yield from _constants(inner)


def _bits(data_type: int) -> int:
    """Return the bits of one value; of what has no fixed size (texts) those of an entry."""
    onnx = need("onnx")
    name = onnx.TensorProto.DataType.Name(data_type)
    small = re.fullmatch(r"U?(?:INT|FLOAT)([246])(?:E\dM\d)?", name)  # packed into bytes
    if small is not None:
        return int(small[1])
    return 8 * (1 if name in ("STRING", "UNDEFINED") else int(onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize))
