"""Which numbers an artifact computes with, as its file shows: integers where it rounds, else the precision of its floats."""

from __future__ import annotations

from pathlib import Path

from laconic.core.errors import need
from laconic.core.wording import numerics

_ROUNDING = ("uantize", "QLinear", "Integer", "NBits")  # in the names of ONNX operators that round or read what was rounded


def of_file(file: Path, precision: str) -> str:
    """Return what a model file computes with, e.g. ``int8``; files other than ONNX hold floats.

    Args:
        file: the model file.
        precision: that its floats are computed in.
    """
    return numerics(bits_of(file) if file.suffix == ".onnx" else None, precision)


def bits_of(file: Path) -> int | None:
    """Return the bits of the integers that an ONNX file rounds to, the fewest where there are several; None where it rounds nothing."""
    onnx = need("onnx")
    graph = onnx.load(str(file), load_external_data=False).graph
    rounding = [node for node in graph.node if any(word in node.op_type for word in _ROUNDING)]
    if not rounding:
        return None
    few = {onnx.TensorProto.INT4, onnx.TensorProto.UINT4}
    packed = any(tensor.data_type in few for tensor in graph.initializer)
    named = [attribute.i for node in rounding for attribute in node.attribute if attribute.name == "bits"]
    return min([4 if packed else 8, *named])
