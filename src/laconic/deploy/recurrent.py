"""Plain recurrent layers in ONNX: the exporter has no rule for them and would write one step after the other, of one length only.

L length, B batch, D directions, H size of the state, N layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import fx

from laconic.core.errors import ExportError, need
from laconic.core.operators import argument

aten = torch.ops.aten
_PARAMETERS, _BIASES, _LAYERS, _BOTH_WAYS = 2, 3, 4, 7  # positions of arguments
Value = TypeVar("Value")  # what the exporter passes: any ONNX value, or a list of them


def _lowering(activation: str) -> Callable[..., Any]:
    """Return the translation of a plain recurrent operator with this activation."""

    def lowered(
        input: Value,
        hx: Value,
        params: Sequence[Value],
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> tuple[Value, Value]:
        op: Any = need("onnxscript").opset20
        directions, each = (2 if bidirectional else 1), (4 if has_biases else 2)
        x: Any = op.Transpose(input, perm=[1, 0, 2]) if batch_first else input
        states = []
        for layer in range(num_layers):
            first = layer * directions
            state = op.Slice(hx, [first], [first + directions], axes=[0])
            own = [params[(first + direction) * each : (first + direction + 1) * each] for direction in range(directions)]
            weights = [_stacked(op, [tensors[place] for tensors in own]) for place in range(2)]
            biases = [_stacked(op, [op.Concat(*tensors[2:], axis=0) for tensors in own])] if has_biases else [None]
            answers, last = op.RNN(
                x,
                *weights,
                *biases,
                None,
                state,
                activations=[activation] * directions,
                direction="bidirectional" if bidirectional else "forward",
                hidden_size=hx.shape[2],  # type: ignore[attr-defined]
            )
            x = op.Reshape(op.Transpose(answers, perm=[0, 2, 1, 3]), [0, 0, -1])  # (L, D, B, H) to (L, B, D·H)
            states.append(last)
        x = op.Transpose(x, perm=[1, 0, 2]) if batch_first else x
        return x, (states[0] if len(states) == 1 else op.Concat(*states, axis=0))

    return lowered


def _stacked(op: Any, parts: list[Any]) -> Any:
    """Return the tensors of the directions as one, (D, …)."""
    rows = [op.Unsqueeze(part, [0]) for part in parts]
    return rows[0] if len(rows) == 1 else op.Concat(*rows, axis=0)


# Operator -> function that writes it, as `torch.onnx.export(custom_translation_table=…)` takes them.
TRANSLATIONS: dict[Any, Callable[..., Any]] = {aten.rnn_tanh.input: _lowering("Tanh"), aten.rnn_relu.input: _lowering("Relu")}


def check(graph: fx.Graph) -> None:
    """Check that ONNX has the recurrent layers of a graph.

    Raises:
        ExportError: an LSTM projects its state; the exporter would leave the projection out without a word.
    """
    for node in graph.find_nodes(op="call_function", target=aten.lstm.input):
        biases, layers, both_ways = (argument(node, place) for place in (_BIASES, _LAYERS, _BOTH_WAYS))
        if len(argument(node, _PARAMETERS)) > layers * (1 + both_ways) * (4 if biases else 2):
            raise ExportError(
                f"'{node.name}' is an LSTM with projections (proj_size), which ONNX does not have. Leave proj_size out, or run the model in PyTorch."
            )
