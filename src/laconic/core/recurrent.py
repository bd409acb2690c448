"""Recurrent operators while a graph is traced: PyTorch's own rule unrolls them step by step, which fixes the length; here the shapes of their results do.

L length, B batch, D directions, H size of a state (with a projection, of what it gives), N layers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch._decomp import decomposition_table

aten = torch.ops.aten
_KEYS = (torch._C.DispatchKey.CompositeImplicitAutograd, torch._C.DispatchKey.Autograd)


def _sequence(x: Tensor, state: Tensor, bidirectional: bool, batch_first: bool) -> Tensor:
    """Return an empty (L, B, D·H), or (B, L, D·H) laid out as PyTorch lays it out: transposed."""
    width = state.shape[-1] * (2 if bidirectional else 1)
    if not batch_first:
        return x.new_empty((x.shape[0], x.shape[1], width))
    return x.new_empty((x.shape[1], x.shape[0], width)).transpose(0, 1)


def _one_state(
    x: Tensor, state: Tensor, params: Any, biases: bool, layers: int, dropout: float, train: bool, both: bool, first: bool
) -> Any:
    """Return results of the shapes of a GRU's or a plain RNN's: the sequence, and the state (N·D, B, H)."""
    return _sequence(x, state, both, first), state.new_empty(state.shape)


def _two_states(
    x: Tensor, states: Any, params: Any, biases: bool, layers: int, dropout: float, train: bool, both: bool, first: bool
) -> Any:
    """Return results of the shapes of an LSTM's: the sequence, and both states (N·D, B, H)."""
    hidden, cell = states
    return _sequence(x, hidden, both, first), hidden.new_empty(hidden.shape), cell.new_empty(cell.shape)


_SHAPES: dict[Any, Callable[..., Any]] = {
    aten.lstm.input: _two_states,
    **dict.fromkeys((aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input), _one_state),
}


@contextlib.contextmanager
def traced_by_shape() -> Iterator[None]:
    """Let whatever traces inside (`torch.export`, the ONNX exporter) know recurrent operators by their shapes alone, so that lengths may stay dynamic."""
    before = {operator: dict(operator.py_kernels) for operator in _SHAPES}
    table = {operator: decomposition_table[operator] for operator in _SHAPES if operator in decomposition_table}
    decomposition_table.update(_SHAPES)  # which is asked first where sizes are symbols
    for operator, shapes in _SHAPES.items():
        operator.py_kernels.update(dict.fromkeys({*operator.py_kernels, *_KEYS}, shapes))
        operator._dispatch_cache.clear()
    try:
        yield
    finally:
        for operator in _SHAPES:
            del decomposition_table[operator]
        decomposition_table.update(table)
        for operator, kernels in before.items():
            operator.py_kernels.clear()
            operator.py_kernels.update(kernels)
            operator._dispatch_cache.clear()
