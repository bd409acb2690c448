"""Recurrent layers of any length: the program and its ONNX file answer as the module does, at lengths and batches that capture did not see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import laconic as lc
from laconic.core.recurrent import traced_by_shape

KINDS = {"lstm": nn.LSTM, "gru": nn.GRU, "tanh": nn.RNN, "relu": lambda *a, **k: nn.RNN(*a, nonlinearity="relu", **k)}


class Reader(nn.Module):
    """Two layers in both directions, over the length of (B, L, 6) or (L, B, 6)."""

    def __init__(self, kind: str, batch_first: bool, biases: bool = True) -> None:
        super().__init__()
        self.axis = 1 if batch_first else 0
        self.read: Any = KINDS[kind](6, 8, num_layers=2, bidirectional=True, batch_first=batch_first, bias=biases)
        self.out = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.read(x)[0].amax(self.axis))  # type: ignore[no-any-return]


@pytest.mark.parametrize("batch_first", [True, False], ids=["batch first", "length first"])
@pytest.mark.parametrize("kind", KINDS)
def test_lengths_stay_dynamic(kind: str, batch_first: bool, tmp_path: Path) -> None:
    import onnxruntime

    torch.manual_seed(0)
    net = Reader(kind, batch_first, biases=batch_first).eval()
    axes = {1: "length"} if batch_first else {0: "length", 1: "batch"}
    program = lc.capture(net, torch.randn(4, 7, 6), dynamic={"x": axes})
    lc.export(program, tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    for shape in [(3, 9, 6), (5, 2, 6)]:
        x = torch.randn(shape)
        expected = net(x).detach()
        torch.testing.assert_close(program(x), expected)
        [answer] = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        np.testing.assert_allclose(answer, expected.numpy(), atol=1e-5)


def test_rules_are_given_back() -> None:
    operator = torch.ops.aten.gru.input
    before = dict(operator.py_kernels)
    with traced_by_shape():
        assert operator.py_kernels != before
    assert operator.py_kernels == before
