"""How much of its signal each rounded layer keeps on the calibration data, seen by itself: with exact inputs, rounded as the plan says.

One scale serves all channels of an input. Where one channel is a million times larger than the others, the others get the code 0 and what the layer does with
them is lost, however good the scale is; such a layer stays float.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from laconic.core.calibrate import Batch
from laconic.core.fake_quant import is_fake_quant, weight_of
from laconic.core.graph import get_tensor
from laconic.core.operators import argument, operator_of, row_of
from laconic.core.program import Program, aten
from laconic.core.signal import LOST_DB
from laconic.quantization.placement import operator_name

# Below it an outcome carries a note: int8 layers that serve keep 25 to 45 dB.
NOISY_DB = 20.0
# Examples that are looked at: so many numbers of input are enough, within bounds.
_NUMBERS, _FEWEST, _MOST = 2**20, 4, 32
_POSITIONS = 4096  # of a channel, for its median
# A signal that does not vary counts as one of this share of its power.
_STEADY = 1e-4
Exact = dict[fx.Node, dict[int, Tensor | None]]  # operator -> position -> weight or bias before anything was rounded


def exact_tensors(program: Program, operators: Iterable[fx.Node]) -> Exact:
    """Return weights and biases as they are now, to be compared with what they become."""
    result: Exact = {}
    for node in operators:
        row = operator_of(node)
        if row is not None and row.is_layer:
            sources = {position: argument(node, position) for position in (row.weight, row.bias) if position is not None}
            result[node] = {
                p: get_tensor(program, s).detach().clone() for p, s in sources.items() if isinstance(s, fx.Node) and s.op == "get_attr"
            }
            result[node] |= {p: None for p, s in sources.items() if s is None}
    return result


def examples_enough(leaves: Batch) -> int:
    """Return how many examples show how much signal layers keep: fewer of large ones, for each layer is run twice on them."""
    largest = max((leaf[0].numel() for leaf in leaves if leaf.dim() > 0), default=1)
    return min(_MOST, max(_FEWEST, _NUMBERS // max(largest, 1)))


@dataclass(frozen=True)
class _Pair:
    """A value as it is, and rounded."""

    exact: Any
    rounded: Any


class _Beside(fx.Interpreter):
    """Runs the graph without rounding, and each watched operator a second time with what it reads rounded."""

    def __init__(self, module: fx.GraphModule, operators: set[fx.Node], exact: Exact) -> None:
        super().__init__(module)
        self.operators, self.exact = operators, exact
        self.ratios: dict[str, float] = {}

    def run_node(self, n: fx.Node) -> Any:
        if n.op != "call_function":
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        plain = [_pick(value, False) for value in args]
        if is_fake_quant(n):
            return _Pair(plain[0], n.target(*plain, **kwargs))  # type: ignore[operator]
        named = {key: _pick(value, False) for key, value in kwargs.items()}
        for position, value in self.exact.get(n, {}).items():
            if position < len(plain):
                plain[position] = value
        result = n.target(*plain, **named)  # type: ignore[operator]
        grouped = n.target is aten.reshape.default and is_fake_quant(n.args[0]) and weight_of(n.args[0]) is not None  # type: ignore[arg-type]
        if n not in self.operators and not grouped:
            return result
        rounded = n.target(*[_pick(value, True) for value in args], **{key: _pick(value, True) for key, value in kwargs.items()})  # type: ignore[operator]
        if grouped:
            return _Pair(result, rounded)
        self._take(n, result, rounded)
        return result

    def _take(self, n: fx.Node, result: Any, rounded: Any) -> None:
        first, second = (value if isinstance(value, Tensor) else value[0] for value in (result, rounded))
        name = operator_name(n)
        ratio = typical_sqnr_db(first, second, -1 if first.dim() < 3 else row_of(n).channels)
        self.ratios[name] = min(ratio, self.ratios.get(name, math.inf))


def _pick(value: Any, rounded: bool) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)([_pick(item, rounded) for item in value])
    return value if not isinstance(value, _Pair) else value.rounded if rounded else value.exact


def typical_sqnr_db(exact: Tensor, rounded: Tensor, channels: int) -> float:
    """Return the median over examples of the signal-to-noise ratio in dB; the signal is what varies around each channel's median.

    Args:
        exact: (B, …).
        rounded: of its shape.
        channels: the axis of the channels.
    """
    if exact.dim() == 1:  # a number for each example
        exact, rounded, channels = exact[:, None], rounded[:, None], -1
    largest = float(exact.abs().max())
    if not 1e-15 < largest < 1e15 and 0 < largest < math.inf:  # squares stay within single precision
        exact, rounded = exact / largest, rounded / largest
    noise = (rounded - exact).square().flatten(1).sum(1, dtype=torch.float64)
    power = exact.square().flatten(1).sum(1, dtype=torch.float64)
    rows = exact.movedim(channels, 0).flatten(1)
    if rows.shape[1] > 1:
        shape = [-1 if i == channels % exact.dim() else 1 for i in range(exact.dim())]
        rows = rows[:, :: -(-rows.shape[1] // _POSITIONS)]
        center = rows.median(1).values.reshape(shape)  # not the mean: one odd example would pass for the signal of all
        power = torch.maximum((exact - center).square().flatten(1).sum(1, dtype=torch.float64), _STEADY * power)
    ratios = torch.where(noise == 0, torch.inf, power / noise)
    ratio = float(ratios.nan_to_num(0.0, torch.inf).median())
    return math.inf if math.isinf(ratio) else max(10 * math.log10(ratio), LOST_DB) if ratio > 0 else LOST_DB


@torch.no_grad()
def layer_sqnr_db(program: Program, operators: Iterable[fx.Node], exact: Exact, leaves: Batch) -> dict[str, float]:
    """Return the signal-to-noise ratio of each operator's output when it alone is rounded, by the operator's name.

    Args:
        program: rounded.
        operators: of its graph.
        exact: from before the rounding.
        leaves: flat inputs of some examples.
    """
    runner = _Beside(program.graph_module, set(operators), exact)
    runner.run(*leaves)
    return runner.ratios


@torch.no_grad()
def output_sqnr_db(program: Program, rounded: Program, leaves: Batch) -> float:
    """Return the worst of the outputs: signal over noise in dB, all that was rounded together."""
    pairs = zip(program.graph_module(*leaves), rounded.graph_module(*leaves), strict=True)
    floats = [(a, b) for a, b in pairs if isinstance(a, Tensor) and a.is_floating_point() and a.dim() > 0]
    return min((typical_sqnr_db(a, b, -1 if a.dim() < 3 else 1) for a, b in floats), default=math.inf)


def noise_notes(layers: dict[str, float], outputs_db: float) -> tuple[str, ...]:
    """Return what a user should know about layers and outputs that rounding drowns in noise."""
    noisy = sorted((ratio, name) for name, ratio in layers.items() if ratio < NOISY_DB)
    result = []
    if noisy:
        told = ", ".join(f"{name} ({ratio:.1f} dB)" for ratio, name in noisy[:5]) + (
            f" and {len(noisy) - 5} more" if len(noisy) > 5 else ""
        )
        result.append(
            f"few bits serve these badly, by the signal over noise of their outputs: {told}. Scale the data, or keep them float (keep=…)"
        )
    if outputs_db < NOISY_DB:
        result.append(f"on the calibration data an output of the rounded model keeps {outputs_db:.1f} dB of signal over noise")
    return tuple(result)
