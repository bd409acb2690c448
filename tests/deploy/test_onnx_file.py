"""Constants that claim more than their file holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from laconic.core.errors import CorruptFile
from laconic.deploy.artifact import Artifact
from laconic.deploy.onnx_file import check_claims


def model(*constants: Any, inner: Any = None) -> Any:
    """A model with these constants, one of them (`inner`) inside a branch."""
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    if inner is not None:
        branch = helper.make_graph(
            [helper.make_node("Constant", [], ["c"], value=inner)], "branch", [], [helper.make_tensor_value_info("c", 1, [3])]
        )
        nodes.append(helper.make_node("If", ["b"], ["z"], then_branch=branch, else_branch=branch))
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])
    return helper.make_model(helper.make_graph(nodes, "g", [value], [helper.make_tensor_value_info("y", 1, ["batch", 3])], list(constants)))


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
@pytest.mark.parametrize(
    "kind", [n for n in TensorProto.DataType.values() if n not in (TensorProto.UNDEFINED,)], ids=TensorProto.DataType.Name
)
def test_every_type_that_holds_what_it_claims_is_taken_and_one_more_is_refused(kind: int, raw: bool) -> None:
    if kind == TensorProto.STRING:
        tensor = helper.make_tensor("c", kind, [3], [b"a", b"b", b"c"])
    else:
        values = np.zeros(4, helper.tensor_dtype_to_np_dtype(kind))
        tensor = numpy_helper.from_array(values, "c") if raw else helper.make_tensor("c", kind, [4], [0] * 4)
    check_claims(model(tensor))
    tensor.dims[0] += 4
    with pytest.raises(ValueError, match="'c' claims"):
        check_claims(model(tensor))
    with pytest.raises(ValueError, match="'c' claims"):
        check_claims(model(inner=tensor))


def test_a_small_file_with_a_large_constant_is_not_opened(tmp_path: Path) -> None:
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), "c")
    tensor.dims[:] = [1 << 20, 1 << 20]
    (tmp_path / "bomb.onnx").write_bytes(model(tensor).SerializeToString())
    with pytest.raises(CorruptFile, match=r"bomb\.onnx is not a whole ONNX file .*'c' claims 1.1e\+12 values"):
        Artifact.open(tmp_path / "bomb.onnx")


def test_negative_sizes_are_refused() -> None:
    tensor = onnx.TensorProto(name="c", data_type=TensorProto.FLOAT, dims=[-1, -1], raw_data=b"1234")
    with pytest.raises(ValueError, match="'c' claims"):
        check_claims(model(tensor))
