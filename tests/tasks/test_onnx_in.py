"""Models from ONNX files: converted, captured with a dynamic batch, and compared with what the file says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

import laconic as lc
from laconic.core.errors import BadInput
from laconic.tasks import onnx_in
from laconic.tasks.catalog import load

pytest.importorskip("onnx2fx")


class Pictures(nn.Module):
    """Convolution, flatten and a layer on the flattened map."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.Linear(6 * 36, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x)).relu().flatten(1))


class Words(nn.Module):
    """An embedding and an encoder, whose heads are split by reshapes."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(20, 16), nn.Linear(16, 3)
        self.encoder = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True, dropout=0.0)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.encoder(self.table(ids)).mean(1))


def written(net: nn.Module, example: Tensor, path: Path) -> Path:
    torch.manual_seed(0)
    return lc.export(lc.capture(net.eval(), example), path).file


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(Pictures(), torch.randn(2, 1, 8, 8), tmp_path_factory.mktemp("onnx") / "pictures.onnx")


@pytest.mark.parametrize(
    ("net", "example"), [(Pictures(), torch.randn(5, 1, 8, 8)), (Words(), torch.randint(0, 20, (5, 7)))], ids=["pictures", "words"]
)
def test_a_captured_file_answers_at_every_batch_as_onnx_runtime_does(net: nn.Module, example: Tensor, tmp_path: Path) -> None:
    file = written(net, example, tmp_path / "model.onnx")
    program = lc.capture(str(file))
    assert program.inputs[0].shape[0] == "batch"
    session = onnxruntime.InferenceSession(str(file))
    for x in (example, example[:1], example[:3]):
        wanted = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
        with torch.no_grad():
            assert np.allclose(program(x).numpy(), wanted, atol=1e-5)


def test_its_weights_train_and_its_channels_are_pruned(pictures: Path) -> None:
    program = lc.capture(pictures)
    assert lc.count(program).params == 6 * 9 + 6 + 216 * 10 + 10  # the exporter folds the batch-norm
    assert lc.count(program).unknown == {}
    pruned, _ = lc.prune(program, lc.Prune(macs=0.6, recovery={"epochs": 0}))
    assert lc.count(pruned).params < 0.8 * lc.count(program).params


def node(kind: str, inputs: list[str], outputs: list[str], **attributes: object) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, outputs, **attributes)


def batch_norm() -> list[onnx.NodeProto]:
    return [node("BatchNormalization", ["x", "scale", "shift", "mean", "var"], ["y"])]


def file_of(nodes: list[onnx.NodeProto], path: Path, **tensors: np.ndarray) -> Path:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3, 4]) for name in "xy"]
    constants = [onnx.numpy_helper.from_array(array, name) for name, array in tensors.items()]
    graph = helper.make_graph(nodes, "hand", values[:1], values[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


def test_statistics_of_a_batch_norm_are_no_weights(tmp_path: Path) -> None:
    values = {name: np.linspace(0.5, 1.5, 3, dtype=np.float32) for name in ("scale", "shift", "mean", "var")}
    module = onnx_in.read_onnx(file_of(batch_norm(), tmp_path / "norm.onnx", **values))
    assert {name for name, _ in module.named_parameters()} == {"scale", "shift"}


def test_shapes_that_are_computed_from_a_dynamic_dimension_stay_dynamic(tmp_path: Path) -> None:
    nodes = [
        node("Shape", ["x"], ["sizes"]),
        node("Gather", ["sizes", "first"], ["n"], axis=0),
        node("Concat", ["n", "rest"], ["shape"], axis=0),
        node("Reshape", ["x", "shape"], ["flat"]),
        node("Expand", ["flat", "shape"], ["wide"]),
        node("Slice", ["wide", "zero", "n", "zero"], ["cut"]),
        node("Reshape", ["cut", "sizes"], ["y"]),
    ]
    constants = {"first": np.array([0]), "rest": np.array([12]), "zero": np.array([0])}
    program = lc.capture(file_of(nodes, tmp_path / "shapes.onnx", **constants))
    x = torch.randn(7, 3, 4)
    assert torch.equal(program(x), x)


@pytest.mark.parametrize(
    ("starts", "ends", "steps"),
    [([1], [3], [1]), ([-1], [-9], [-1]), ([2], [0], [-2]), ([9], [-9], [-1]), ([0], [9], [2]), ([-2], [9], [1])],
)
def test_slices_are_those_of_onnx(starts: list[int], ends: list[int], steps: list[int], tmp_path: Path) -> None:
    nodes = [node("Slice", ["x", "starts", "ends", "axes", "steps"], ["y"])]
    places = {"starts": starts, "ends": ends, "axes": [2], "steps": steps}
    file = file_of(nodes, tmp_path / "slice.onnx", **{name: np.array(value) for name, value in places.items()})
    module = onnx_in.read_onnx(file)  # which compares it with ONNX Runtime
    x = torch.arange(24.0).reshape(2, 3, 4)
    assert np.array_equal(module(x).numpy(), onnxruntime.InferenceSession(str(file)).run(None, {"x": x.numpy()})[0])


@pytest.mark.parametrize(
    ("nodes", "told"),
    [
        (
            [node("QuantizeLinear", ["x", "one", "nought"], ["q"]), node("DequantizeLinear", ["q", "one", "nought"], ["y"])],
            "quantized already",
        ),
        ([node("Unheard", ["x"], ["y"])], "Unheard"),
        ([node("Reshape", ["x", "one"], ["y"])], "does not run"),
    ],
    ids=["quantized", "unknown operator", "no shape"],
)
def test_what_cannot_be_converted_is_told_with_what_can_be_done(nodes: list[onnx.NodeProto], told: str, tmp_path: Path) -> None:
    path = file_of(nodes, tmp_path / "odd.onnx", one=np.float32(1), nought=np.int8(0))
    with pytest.raises(BadInput, match=rf"{told}.*laconic bench {path}"):
        lc.capture(path)


def test_answers_other_than_the_files_are_refused(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainable = onnx_in._make_trainable

    def spoiled(module: torch.fx.GraphModule) -> None:
        trainable(module)
        with torch.no_grad():
            next(module.parameters()).mul_(1.01)

    monkeypatch.setattr(onnx_in, "_make_trainable", spoiled)
    with pytest.raises(BadInput, match="differs by .* from what ONNX Runtime makes of the file"):
        lc.capture(pictures)


def test_no_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there is no ONNX file"):
        lc.capture(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("hello", encoding="utf-8")
    with pytest.raises(BadInput, match="not a whole ONNX file"):
        lc.capture(tmp_path / "text.onnx")


def test_a_task_has_the_model_of_a_file_and_the_data_of_another(pictures: Path) -> None:
    task = load(str(pictures), data="tests.run.tiny:task")
    assert (task.ref, task.data_dir, task.name, task.plan) == (str(pictures), "tests.run.tiny:task", "pictures", None)
    assert len(task.valid) == 96
    assert task.build()(torch.randn(3, 1, 8, 8)).shape == (3, 10)
    with pytest.raises(BadInput, match="Name the task whose data"):
        load(str(pictures))
