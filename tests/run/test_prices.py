"""The price of a layer: measured once, kept, and larger for more work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from laconic.core.macs import LayerShape
from laconic.core.task import Target
from laconic.run import prices as room
from laconic.run.prices import prices


def convolution(channels: int, groups: int = 1) -> LayerShape:
    weight = (channels, channels // groups, 3, 3)
    shape = (1, channels, 16, 16)
    return LayerShape("aten.conv2d.default", (shape, weight), shape, (None, (1, 1), (1, 1), (1, 1), groups), (1,))


def linear(size: int) -> LayerShape:
    return LayerShape("aten.linear.default", ((1, 4, size), (size, size), (size,)), (1, 4, size), (), (1, 2))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("make", [convolution, linear])
def test_sixteen_times_the_work_costs_more(runtime: str, make: object, tmp_path: Path) -> None:
    price = prices(Target(runtime, threads=1), tmp_path / "table.json")
    assert 0 < price(make(16)) < price(make(256))  # type: ignore[operator]


def test_a_shape_is_measured_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "table.json"
    price = prices(Target(threads=1), table)
    first = price(convolution(8))
    price.keep()
    assert price.measured == 1
    assert set(json.loads(table.read_text())) == {"reference", price.key(convolution(8))}
    monkeypatch.setattr(room, "_turn", lambda *given: pytest.fail("measured again"))
    again = prices(Target(threads=1), table)
    assert again(convolution(8)) == first
    assert again.measured == 0


def test_other_layers_cost_their_multiply_adds(tmp_path: Path) -> None:
    price = prices(Target(threads=1), tmp_path / "table.json")

    def product(size: int) -> LayerShape:
        return LayerShape("aten.matmul.default", ((1, 8, size), (1, size, 8)), (1, 8, 8))

    assert price(product(64)) == pytest.approx(4 * price(product(16)))
    assert price.measured == 0


def test_the_model_of_a_layer_computes_that_layer() -> None:
    onnx = pytest.importorskip("onnx")
    found = room._model(convolution(8, groups=8))
    (node, *_) = [node for node in found.graph.node if node.op_type == "Conv"]
    assert {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute} == {
        "strides": [1, 1],
        "pads": [1, 1, 1, 1],
        "dilations": [1, 1],
        "group": 8,
    }
    onnx.checker.check_model(found)


def test_tables_are_kept_apart_by_processor_runtime_and_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    names = {prices(Target(runtime, threads=threads)).path.name for runtime in ("onnxruntime", "openvino") for threads in (1, 2)}
    assert len(names) == 4
    assert all(path.startswith(name) for path in [str(room.folder())] for name in [str(tmp_path)])
