"""The price of a layer: measured once, kept, and larger for more work."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from laconic.core.capture import capture
from laconic.core.choices import FLOATS
from laconic.core.macs import LayerShape
from laconic.core.target import Target
from laconic.pruning.coupling import couple
from laconic.pruning.sizes import Sizes
from laconic.run import latency_table as room
from laconic.run.latency_table import LayerLatencyTable, latency_table


def convolution(channels: int, groups: int = 1) -> LayerShape:
    weight = (channels, channels // groups, 3, 3)
    shape = (1, channels, 16, 16)
    return LayerShape("convolution", (shape, weight), shape, 9 * 256 * channels**2 // groups, ((1, 1), (1, 1), (1, 1)), (1,))


def linear(size: int) -> LayerShape:
    return LayerShape("linear", ((1, 4, size), (size, size), (size,)), (1, 4, size), 4 * size**2, (), (1, 2))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("make", [convolution, linear])
def test_a_layer_runs_on_the_target_and_has_a_price(runtime: str, make: Callable[[int], LayerShape], tmp_path: Path) -> None:
    price = latency_table(Target(runtime, threads=1), tmp_path / "table.json")
    assert 0 < price(make(16)) < 1000
    assert price.measured == 1


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("make", [convolution, linear])
def test_in_integers_it_has_another_price(runtime: str, make: Callable[[int], LayerShape], tmp_path: Path) -> None:
    price = latency_table(Target(runtime, threads=1), tmp_path / "table.json")
    rounded = dataclasses.replace(make(16), bits=8)
    assert 0 < price(rounded) < 1000
    assert price.key(rounded) != price.key(make(16))
    kinds = [node.op_type for node in room._model(rounded, 3).graph.node]
    assert (kinds.count("QuantizeLinear"), kinds.count("DequantizeLinear")) == (1 + 3, 1 + 3)
    between = [node.op_type for node in room._model(dataclasses.replace(make(16), bits=FLOATS), 3).graph.node]
    assert (between.count("QuantizeLinear"), between.count("DequantizeLinear")) == (3, 0)  # what comes out is rounded, and nothing else


@pytest.mark.parametrize("bits", [8, FLOATS])
@pytest.mark.parametrize("make", [convolution, linear])
def test_onnx_runtime_computes_it_as_it_is_priced(make: Callable[[int], LayerShape], bits: int, tmp_path: Path) -> None:
    """By the graph that the runtime itself writes: it leaves layers in floats whose rounding it cannot fuse, and they are then priced as such."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "run.onnx"), 4
    onnxruntime.InferenceSession(room._model(dataclasses.replace(make(16), bits=bits), 3).SerializeToString(), options)
    kinds = [node.op_type for node in onnx.load(tmp_path / "run.onnx").graph.node]
    integers = sum(kind in ("QLinearConv", "QLinearMatMul") for kind in kinds)
    floats = sum(kind in ("Conv", "FusedConv", "MatMul") for kind in kinds)
    assert (integers, floats, kinds.count("DequantizeLinear")) == ((3, 0, 0) if bits == 8 else (0, 3, 0))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_what_a_call_costs_is_in_no_price(runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call of five milliseconds, as slow runtimes have, and a tenth of one for each copy of the layer."""
    turn: dict[int, float] = {}

    def turns(session: object, inputs: list[np.ndarray]) -> float:
        return turn.setdefault(id(session), 5.0 + 0.1 * room._COPIES[len(turn) % 2])

    monkeypatch.setattr(room, "_turn", turns)
    price = latency_table(Target(runtime, threads=1), tmp_path / "table.json")
    assert price.reference_ms == pytest.approx(0.1)


def test_a_price_is_relative_to_the_reference_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine slows down by half between the table's beginning and the layer: the price is as it was at the beginning."""
    speed = {"now": 1.0}

    monkeypatch.setattr(room._Timed, "copy_ms", lambda self: speed["now"] * (3.0 if self.inputs[0].shape[1] == 64 else 6.0))
    price = latency_table(Target(threads=1), tmp_path / "table.json")
    assert price.reference_ms == 3.0
    speed["now"] = 2.0
    assert price(convolution(8)) == pytest.approx(6.0)


def test_a_shape_is_measured_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "table.json"
    price = latency_table(Target(threads=1), table)
    first = price(convolution(8))
    price.keep()
    assert price.measured == 1
    assert set(json.loads(table.read_text())) == {"reference", price.key(convolution(8))}
    monkeypatch.setattr(room, "_turn", lambda *given: pytest.fail("measured again"))
    again = latency_table(Target(threads=1), table)
    assert again(convolution(8)) == first
    assert again.measured == 0


def test_two_processes_add_to_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the other one wrote stays; ours is told by its reference layer, which took half as long when it began."""
    monkeypatch.setattr(room._Timed, "copy_ms", lambda self: 3.0 if self.inputs[0].shape[1] == 64 else 6.0)
    ours = latency_table(Target(threads=1), tmp_path / "table.json")
    assert ours(convolution(8)) == 6.0
    theirs = {"reference": 1.5, ours.key(convolution(16)): 7.0}
    (tmp_path / "table.json").write_text(json.dumps(theirs))
    ours.keep()
    assert json.loads((tmp_path / "table.json").read_text()) == {**theirs, ours.key(convolution(8)): 3.0}
    assert ours.reference_ms == 1.5


def _adds(path: str, layers: list[int]) -> None:
    room._Timed.copy_ms = lambda self: 1.0  # type: ignore[method-assign]
    for channels in layers:
        table = latency_table(Target(threads=1), Path(path))
        table(convolution(channels))
        table.keep()


@pytest.mark.slow
def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    from multiprocessing import get_context

    path = tmp_path / "table.json"
    shares = ([8, 16, 24, 32], [40, 48, 56, 72])
    processes = [get_context("spawn").Process(target=_adds, args=(str(path), share)) for share in shares]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert set(json.loads(path.read_text())) == {"reference", *(LayerLatencyTable.key(convolution(n)) for share in shares for n in share)}


def test_other_layers_cost_their_multiply_adds(tmp_path: Path) -> None:
    price = latency_table(Target(threads=1), tmp_path / "table.json")

    def product(size: int) -> LayerShape:
        return LayerShape("matrix product", ((1, 8, size), (1, size, 8)), (1, 8, 8), 64 * size)

    assert price(product(64)) == pytest.approx(4 * price(product(16)))
    assert price.measured == 0


def test_the_model_of_a_layer_computes_that_layer() -> None:
    onnx = pytest.importorskip("onnx")
    found = room._model(convolution(8, groups=8), 2)
    (node, *_) = [node for node in found.graph.node if node.op_type == "Conv"]
    assert {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute} == {
        "strides": [1, 1],
        "pads": [1, 1, 1, 1],
        "dilations": [1, 1],
        "group": 8,
    }
    onnx.checker.check_model(found)


@pytest.mark.parametrize("bias", [True, False])
def test_a_dilated_strided_convolution_of_a_program_has_a_price(bias: bool, tmp_path: Path) -> None:
    """Its options come from the operator's schema, whether the arguments before and behind them were given or not."""
    net = torch.nn.Sequential(torch.nn.Conv1d(3, 8, 3, 2, 2, dilation=2, bias=bias), torch.nn.ReLU(), torch.nn.Conv1d(8, 2, 1, bias=bias))
    sizes = Sizes(couple(capture(net.eval(), torch.randn(2, 3, 20))))
    first, second = (sizes.layer(node, sizes.full) for node in sizes.layers)
    assert first.options == ((2,), (2,), (2,))
    assert first.macs == 8 * 10 * 3 * 3
    price = latency_table(Target(threads=1), tmp_path / "table.json")
    assert price(first) > 0
    assert price(second) > 0


def test_tables_are_kept_apart_by_runtime_and_precision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    names = {
        latency_table(Target(runtime, precision)).path.name for runtime in ("onnxruntime", "openvino") for precision in ("fp32", "bf16")
    }
    assert len(names) == 4
    assert room.folder() == tmp_path / "laconic"


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_what_a_call_costs_is_told_beside_the_reference_layer_and_kept(
    runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine is twice as slow when the call is timed as when the table began: it is told as it would have been then."""
    monkeypatch.setattr(room._Timed, "copy_ms", lambda self: 0.1)
    price = latency_table(Target(runtime, threads=1), tmp_path / "table.json")
    assert price.reference_ms == 0.1
    monkeypatch.setattr(room._Timed, "copy_ms", lambda self: 0.2)
    calls: list[object] = []

    def turn(session: room.Session, inputs: list[np.ndarray]) -> float:
        calls.append(session)
        assert np.array_equal(session.run(inputs)[0], np.ones((1, 8)))
        return 0.12

    monkeypatch.setattr(room, "_turn", turn)
    assert price.call_ms == pytest.approx(0.06)
    cost = price.call_cost(("fp32", "int8"))
    assert (cost.parts, {name: float(ms) for name, ms in cost.ms.items()}) == ((), {"fp32": price.call_ms, "int8": price.call_ms})
    price.keep()
    assert json.loads((tmp_path / "table.json").read_text())["call"] == price.call_ms
    assert len(set(calls)) == 1


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_whole_model_is_timed_beside_the_reference_layer(runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "whole.onnx"
    file.write_bytes(room._idle_model().SerializeToString())
    monkeypatch.setattr(room._Timed, "copy_ms", lambda self: 0.1)
    price = latency_table(Target(runtime, threads=1), tmp_path / "table.json")
    assert price.reference_ms == 0.1
    monkeypatch.setattr(room._Timed, "copy_ms", lambda self: 0.2)

    def turn(session: room.Session, inputs: list[np.ndarray]) -> float:
        assert np.array_equal(session.run(inputs)[0], np.ones((1, 8)))
        return 0.12

    monkeypatch.setattr(room, "_turn", turn)
    assert price.whole_ms(file, room._IDLE) == pytest.approx(0.06)
