"""Which numbers an artifact computes with, as its file shows: integers where it rounds, else the precision of its floats."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from laconic.core.errors import need
from laconic.core.wording import numerics
from laconic.deploy.xla.file import about

_ROUNDING = ("uantize", "QLinear", "Integer", "NBits")  # in the names of ONNX operators that round or read what was rounded
# The name of the method by which an ExecuTorch file that Laconic wrote says so.
INT8_MARK = "computes_in_int8"
# A layer of an ncnn graph that says how many scales it has, see `ncnn.int8`.
_NCNN_INT8 = re.compile(r"^(Convolution|ConvolutionDepthWise|InnerProduct) .* 8=[12]\b", re.M)


def of_file(file: Path, precision: str) -> str:
    """Return what a model file computes with, e.g. ``int8``; files of other formats than those of `_BITS` hold floats.

    Args:
        file: the model file.
        precision: that its floats are computed in.
    """
    return numerics(bits_of(file), precision)


def bits_of(file: Path) -> int | None:
    """Return the bits of the integers that a file rounds to, the fewest where there are several; None where it rounds nothing."""
    find = _BITS.get(file.suffix)
    return None if find is None else find(file)


def _onnx(file: Path) -> int | None:
    onnx = need("onnx")
    graph = onnx.load(str(file), load_external_data=False).graph
    rounding = [node for node in graph.node if any(word in node.op_type for word in _ROUNDING)]
    if not rounding:
        return None
    few = {onnx.TensorProto.INT4, onnx.TensorProto.UINT4}
    packed = any(tensor.data_type in few for tensor in graph.initializer)
    named = [attribute.i for node in rounding for attribute in node.attribute if attribute.name == "bits"]
    return min([4 if packed else 8, *named])


def _pte(file: Path) -> int | None:
    return 8 if INT8_MARK.encode() in file.read_bytes() else None


def _param(file: Path) -> int | None:
    return 8 if _NCNN_INT8.search(file.read_text(encoding="utf-8", errors="replace")) else None


_BITS: dict[str, Callable[[Path], int | None]] = {".onnx": _onnx, ".pte": _pte, ".param": _param, ".xla": lambda file: about(file)[2]}
