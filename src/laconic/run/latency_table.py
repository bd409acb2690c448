"""What a layer costs on the target, measured: convolutions and linear layers of the shapes that an allocation looks at, once each, kept in a table.

Such a figure is for comparing shapes with each other, in one process, where neither graph optimization nor other layers interfere. How fast the whole model
is, only the timing of the artifact tells.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np

from laconic.core.choices import FLOATS, Cost
from laconic.core.errors import CorruptFile, need
from laconic.core.fields import typed
from laconic.core.files import alone, read_json, write_whole
from laconic.core.macs import LayerShape
from laconic.core.target import PRECISIONS, Target
from laconic.deploy.runtime import Session, default_for, installed, runtime
from laconic.measure.environment import environment

EDITION = 3  # of the models of layers: tables of others are left alone
_COPIES = (2, 10)  # of a layer in the two models whose difference is its time: what a call costs by itself is in both
_LEAST = 1e-3  # of the reference's time: a layer that vanishes in the noise takes so much
_REFERENCE_KEY, _CALL_KEY = "reference", "call"  # what is in a table beside layers
_TURNS, _TURN_SECONDS = 5, 0.004
_SQUARE = (1, 64, 16, 16)
_REFERENCE = LayerShape("convolution", (_SQUARE, (64, 64, 3, 3)), _SQUARE, 64 * 64 * 9 * 16 * 16, ((1, 1), (1, 1), (1, 1)), (1,))
_IDLE = [np.ones((1, 8), np.float32)]  # what the model reads by which a call is timed
_ONNX: dict[str, str] = {"convolution": "Conv", "transposed convolution": "ConvTranspose", "linear": "MatMul"}


def folder() -> Path:
    """Where tables are kept: ``$XDG_CACHE_HOME/laconic`` or ``~/.cache/laconic``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "laconic"


@typed()
def latency_table(target: Target | None = None, table: Path | None = None) -> LayerLatencyTable:
    """The price of layers on a target, for `Context(price=…)`.

    Args:
        target: runtime and precision; by default ONNX Runtime. Layers are timed on one thread.
        table: a JSON file that is read and added to; by default one for this processor, runtime and version in `folder()`.
    """
    return LayerLatencyTable(target or Target(), table)


class LayerLatencyTable:
    """Milliseconds of a layer, relative to a reference layer that is timed beside each, so that the machine's drift cancels.

    Attributes:
        turn: a file that is locked while a layer is timed, for those who time something on this machine by turns.
    """

    def __init__(self, target: Target, table: Path | None) -> None:
        # layers are written as ONNX; runtimes that do not read it have the times of the first one that does: shapes compare alike
        kind = target.runtime if runtime(target.runtime).format == "onnx" else default_for("onnx")
        # on one thread: the threads of two sessions in a process fight over the cores
        self.target = Target(kind, target.precision if target.precision in runtime(kind).precisions else PRECISIONS[0], 1)
        self.path = table or folder() / f"{_key(self.target)}.json"
        self.known = self._read()
        self.turn: Path | None = None
        self.measured = 0
        self._reference: _Timed | None = None

    def __call__(self, layer: LayerShape) -> float:
        """Milliseconds for one example. A layer that is neither convolution nor linear costs as much as the reference does for each of its multiply-adds."""
        if not self.is_timed(layer):
            return self.reference_ms * layer.macs / _REFERENCE.macs
        key = self.key(layer)
        if key not in self.known:
            self.known[key] = self._measure(layer)
            self.measured += 1
            if self.measured % 20 == 0:
                self.keep()
        return self.known[key]

    @staticmethod
    def key(layer: LayerShape) -> str:
        """The name of a layer in the table; bits are told where there are some."""
        told = astuple(layer)
        return json.dumps(told if layer.bits else told[:-1])

    def _read(self) -> dict[str, float]:
        """What the file holds; nothing where there is none.

        Raises:
            CorruptFile: it is no table of milliseconds by layer.
        """
        if not self.path.is_file():
            return {}
        known = read_json(self.path)
        if not isinstance(known, dict) or not all(isinstance(ms, (int, float)) and 0 < ms < math.inf for ms in known.values()):
            raise CorruptFile(f"{self.path} is not a table of milliseconds by layer. Delete it to have it made again.")
        return known

    def keep(self) -> None:
        """Add what is new to the file. What other processes wrote meanwhile stays; where their reference layer took another time, ours are told in theirs."""
        if not self.measured:
            return
        with alone(self.path):
            there = self._read()
            scale = there.get(_REFERENCE_KEY, self.reference_ms) / self.reference_ms
            self.known = {**{key: scale * ms for key, ms in self.known.items()}, **there}
            write_whole(self.path, json.dumps(self.known, indent=0))

    @property
    def reference_ms(self) -> float:
        """The reference layer's time on this machine, as it was when the table began."""
        if _REFERENCE_KEY not in self.known:
            pinned = self._pinned()
            with self._in_turn():
                self.known[_REFERENCE_KEY] = max(1e-9, float(np.median([pinned.copy_ms() for _ in range(3 * _TURNS)])))
        return self.known[_REFERENCE_KEY]

    @property
    def call_ms(self) -> float:
        """What a call costs beside the layers: the time of one of a model that does nearly nothing."""
        if _CALL_KEY not in self.known:
            idle = _loaded(_idle_model(), self.target)
            self.known[_CALL_KEY] = self._beside(lambda: _turn(idle, _IDLE))
            self.measured += 1
        return self.known[_CALL_KEY]

    def call_cost(self, precisions: Collection[str]) -> Cost:
        """Return what a call costs as a part of a table of costs: the same in each precision, whatever is chosen."""
        return Cost(("the call",), (), {precision: np.array(self.call_ms) for precision in precisions})

    def whole_ms(self, file: Path, inputs: Sequence[np.ndarray]) -> float:
        """Return what a call of a whole model takes, on one thread as the layers: an ONNX file, and inputs in its order."""
        session = runtime(self.target.runtime).load(file, self.target)
        _turn(session, list(inputs))
        return self._beside(lambda: _turn(session, list(inputs)))

    def is_timed(self, layer: LayerShape) -> bool:
        """Return whether a layer is timed itself."""
        return layer.weights[:1] == (1,) and layer.family in _ONNX

    def _pinned(self) -> _Timed:
        if self._reference is None:
            self._reference = _Timed(_REFERENCE, self.target)
        return self._reference

    def _measure(self, layer: LayerShape) -> float:
        return self._beside(_Timed(layer, self.target).copy_ms)

    def _beside(self, turn_ms: Callable[[], float]) -> float:
        """Return the milliseconds of something that is timed beside the reference layer."""
        pinned, reference_ms = self._pinned(), self.reference_ms
        with self._in_turn():
            pairs = [(turn_ms(), pinned.copy_ms()) for _ in range(_TURNS)]
        ratios = [own / reference for own, reference in pairs if reference > 0]
        return max(_LEAST, float(np.median(ratios or [1.0]))) * reference_ms

    def _in_turn(self) -> AbstractContextManager[None]:
        return nullcontext() if self.turn is None else alone(self.turn)


class _Timed:
    """Two models with few and with many copies of a layer."""

    def __init__(self, layer: LayerShape, target: Target) -> None:
        self.inputs = [np.random.default_rng(0).standard_normal(layer.inputs[0]).astype(np.float32)]
        self.sessions = [_loaded(_model(layer, copies), target) for copies in _COPIES]
        for session in self.sessions:
            _turn(session, self.inputs)

    def copy_ms(self) -> float:
        """Milliseconds that one more copy takes: of two times the difference, which may be any number where the machine is busy."""
        few, many = (_turn(session, self.inputs) for session in self.sessions)
        return (many - few) / (_COPIES[1] - _COPIES[0])


def _loaded(model: Any, target: Target) -> Session:
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "layer.onnx"
        file.write_bytes(model.SerializeToString())
        return runtime(target.runtime).load(file, target)


def _key(target: Target) -> str:
    processor = "-".join(str(environment()["processor"]).split())
    version = installed(runtime(target.runtime).package)
    return f"{processor}-{target.runtime}-{version}-{target.precision}-{EDITION}".replace("/", "-")


def _turn(session: Session, inputs: list[np.ndarray]) -> float:
    """Milliseconds of the quickest call: what disturbs one only makes it longer, and differences of anything else are noise on a busy machine."""
    times: list[float] = []
    until = time.perf_counter() + _TURN_SECONDS
    while time.perf_counter() < until or len(times) < 3:
        start = time.perf_counter()
        session.run(inputs)
        times.append(time.perf_counter() - start)
    return min(times) * 1e3


def _model(layer: LayerShape, copies: int) -> Any:
    """An ONNX model with copies of a convolution or linear layer on one input, each with its own weights, and one small output.

    Of each copy of a convolution one place is kept, by a pooling of one place with a stride over all of them: what is copied out, or turned into another
    layout for that, is no part of the layer.
    """
    onnx = need("onnx")
    make, draw = onnx.helper, np.random.default_rng(0)
    linear, places = layer.family == "linear", layer.output[2:]
    parts = _Parts(layer.bits, 128 if linear else 0)
    kept = []
    for i in range(copies):
        weight = draw.standard_normal(layer.inputs[1]).astype(np.float32) * 0.05
        read, kernel = parts.read("x", i), parts.weight(f"w{i}", np.ascontiguousarray(weight.T) if linear else weight)
        if linear:
            made = parts.add(_ONNX[layer.family], [read, kernel], f"c{i}")
        else:
            made = parts.add("Relu", [parts.add(_ONNX[layer.family], [read, kernel], f"r{i}", **_attributes(layer))], f"c{i}")
        if layer.bits:
            made = parts.add("QuantizeLinear", [made, "wide", "zero"], f"y{i}")
        kept.append(made if linear else parts.add("MaxPool", [made], f"k{i}", kernel_shape=[1] * len(places), strides=list(places)))
    parts.add("Concat", kept, "y", axis=-1 if linear else 1)
    kind = onnx.TensorProto.UINT8 if layer.bits else onnx.TensorProto.FLOAT
    shape = (*layer.output[:-1], copies * layer.output[-1]) if linear else (layer.output[0], copies * layer.output[1], *(1 for _ in places))
    given = make.make_tensor_value_info("x", onnx.TensorProto.FLOAT, layer.inputs[0])
    graph = make.make_graph(parts.nodes, "layer", [given], [make.make_tensor_value_info("y", kind, shape)], parts.constants)
    return make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=8)


def _idle_model() -> Any:
    """An ONNX model of one small node, which no runtime leaves out."""
    make, kind = need("onnx").helper, need("onnx").TensorProto.FLOAT
    ends = [make.make_tensor_value_info(name, kind, _IDLE[0].shape) for name in ("x", "y")]
    graph = make.make_graph([make.make_node("Relu", ["x"], ["y"])], "call", ends[:1], ends[1:])
    return make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=8)


class _Parts:
    """Nodes and constants of an ONNX graph, whose values are rounded where the layer computes in integers.

    Args:
        bits: of the integers; None: floats; `choices.FLOATS`: floats before a layer in integers, for which what comes out is rounded.
        zero: the integer that stands for 0. Behind a ReLU it is the least one: with any other ONNX Runtime leaves the layer in floats.
    """

    def __init__(self, bits: int | None, zero: int) -> None:
        self.bits = bits
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        scales = {"fine": np.float32(0.002), "one": np.float32(0.02), "wide": np.float32(0.05), "zero": np.uint8(zero)}
        for name, value in scales.items() if bits else ():
            self._keep(name, np.asarray(value))

    def add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add a node; returns its output."""
        self.nodes.append(need("onnx").helper.make_node(kind, inputs, [output], **attributes))
        return output

    def read(self, name: str, copy: int) -> str:
        """Return a value as a copy of the layer reads it, rounded once for all."""
        if self.bits in (None, FLOATS):
            return name
        rounded, turned = f"{name}_q", f"{name}_f"
        if copy == 0:
            self.add("QuantizeLinear", [name, "one", "zero"], rounded)
            self.add("DequantizeLinear", [rounded, "one", "zero"], turned)
        return turned

    def weight(self, name: str, value: np.ndarray) -> str:
        """Return a constant as layers read it."""
        if self.bits in (None, FLOATS):
            return self._keep(name, value)
        stored = self._keep(f"{name}_q", np.clip(np.rint(value / 0.002), -127, 127).astype(np.int8))
        return self.add("DequantizeLinear", [stored, "fine"], name)

    def _keep(self, name: str, value: np.ndarray) -> str:
        self.constants.append(need("onnx").numpy_helper.from_array(value, name))
        return name


def _attributes(layer: LayerShape) -> dict[str, Any]:
    """The attributes of the ONNX node of a convolution."""
    rank = len(layer.inputs[1]) - 2
    strides, pads, dilations, *more = (list(option) for option in layer.options)
    of_each = layer.inputs[1][1]  # channels of one group: of the output of a transposed one, else of the input
    channels = layer.output[1] if more else layer.inputs[0][1]
    common = {"strides": strides, "pads": pads * (2 * rank // len(pads)), "dilations": dilations, "group": channels // of_each}
    return {**common, "output_padding": more[0]} if more else common
