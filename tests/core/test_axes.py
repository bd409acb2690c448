from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import laconic as lc
from laconic.core.axes import batch_size, joined, resize, take
from laconic.core.interface import TensorSpec

X, H, W = (TensorSpec(name, shape, "float32") for name, shape in (("x", ("batch", 3)), ("h", (2, "batch", 4)), ("w", (5,))))
SPECS = (W, X, H)


def leaves(n: int) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(5), torch.randn(n, 3), torch.randn(2, n, 4)


@pytest.mark.parametrize("rows", [[0], [2, 0], [1, 1, 1, 2]])
def test_examples_are_taken_along_each_inputs_own_axis(rows: list[int]) -> None:
    w, x, h = leaves(3)
    for given in ((w, x, h), tuple(t.numpy() for t in (w, x, h))):
        found = [torch.as_tensor(t) for t in take(SPECS, given, rows)]  # type: ignore[type-var]
        for mine, theirs in zip(found, (w, x[rows], h[:, rows]), strict=True):
            assert torch.equal(mine, theirs)


@pytest.mark.parametrize("size", [1, 3, 7])
def test_a_batch_is_cut_or_repeated(size: int) -> None:
    w, x, h = leaves(3)
    found = resize(SPECS, (w, x, h), {"batch": size})
    assert batch_size(SPECS, found) == size
    assert torch.equal(found[2], h[:, np.arange(size) % 3])
    assert batch_size((W,), (w,)) is None
    assert torch.equal(resize((W,), (w,), {"batch": 9})[0], w)


@pytest.mark.parametrize("size", [2, 4, 99])
def test_batches_are_joined_along_each_inputs_own_axis(size: int) -> None:
    w, x, h = leaves(6)
    parts = [take(SPECS, (w, x, h), rows) for rows in ([0, 1, 2], [3, 4], [5])]
    found = joined(SPECS, parts, size)
    assert torch.equal(found[1], x[:size])
    assert torch.equal(found[2], h[:, :size])
    assert torch.equal(found[0], w)


class Fixed(nn.Module):
    """Takes `n` examples and no other number."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n, self.c, self.f = n, nn.Conv1d(4, 16, 5, padding=2), nn.Linear(16 * 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.f(F.relu(self.c(x)).reshape(self.n, -1))


DATA = TensorDataset(torch.randn(24, 4, 8), torch.randint(0, 3, (24,)))


@pytest.mark.parametrize("n", [1, 4, 5])
def test_steps_on_a_fixed_program_are_given_batches_of_its_size(n: int) -> None:
    net = Fixed(n).eval()
    x = DATA.tensors[0][:n]
    with pytest.raises(lc.CaptureError, match=r"exactly this size.*dynamic_batch=False.*Task\(dynamic_batch=False\)"):
        lc.capture(net, x)
    program = lc.capture(net, x, dynamic_batch=False)
    task = lc.Task(net, DATA, DATA, loss=F.cross_entropy, batch_size=n, dynamic_batch=False)
    context = lc.Context(task, lc.fit)
    for found, _ in (
        lc.quantize(program, lc.Quantize(target="onnxruntime", examples=16), task),
        lc.quantize_mixed(program, lc.Mixed(target="onnxruntime", examples=16), task),
        lc.prune(program, lc.Prune(macs=0.5, recovery={"epochs": 1, "distill": 0.0}), context),
        lc.prune(program, lc.Prune(macs=0.5, criterion="taylor", recovery={"epochs": 0}), context),
        lc.qat(program, lc.Qat(target="onnxruntime", recovery={"epochs": 1, "distill": 0.0}), context),
    ):
        assert found(x).shape == (n, 3)
    with pytest.raises(lc.BadInput, match=f"exactly {n} example.*batch_size={n}"):
        program(DATA.tensors[0])
