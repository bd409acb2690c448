from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import laconic as lc

X = torch.randn(24, 3, 8, 8)


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()


class PartlyHalf(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 4), nn.Linear(4, 2).half()

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).half()).float()


class Halves(nn.Module):
    """Parameters in float32, a product in half."""

    def __init__(self, kind: torch.dtype) -> None:
        super().__init__()
        self.a, self.kind = nn.Linear(6, 4), kind

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(self.kind) @ self.a.weight.T.to(self.kind)).float()


class PutsOut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x.float()).bfloat16()


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16], ids=str)
def test_half_precisions_are_refused_at_once_by_name(kind: torch.dtype, tmp_path: Path) -> None:
    name = str(kind).removeprefix("torch.")
    data = TensorDataset(X.to(kind), torch.zeros(24, dtype=torch.long))
    for work in (
        lambda: lc.capture(net().to(kind), X.to(kind)),
        lambda: lc.optimize(lc.Task(net().to(kind), data, data, loss=nn.functional.cross_entropy), out=tmp_path / "run"),
    ):
        with pytest.raises(lc.BadInput, match=f"(?s)parameter '0.weight' in {name}.*float32"):
            work()


@pytest.mark.parametrize(
    ("model", "x", "words"),
    [
        (PartlyHalf(), torch.randn(4, 6), "parameter 'b.weight' in float16"),
        (Halves(torch.float16), torch.randn(4, 6), "matmul.* in float16"),
        (Halves(torch.bfloat16), torch.randn(4, 6), "matmul.* in bfloat16"),
        (PutsOut(), torch.randn(4, 6), "output .* is bfloat16"),
        (nn.Linear(6, 2), torch.randn(4, 6).bfloat16(), "input 'input' is bfloat16"),
    ],
    ids=["mixed", "half-product", "bfloat16-product", "output", "input"],
)
def test_what_no_runtime_takes_is_refused_at_capture(model: nn.Module, x: Tensor, words: str) -> None:
    with pytest.raises(lc.BadInput, match=f"(?s){words}.*float32"):
        lc.capture(model, x)


@pytest.mark.parametrize(
    ("wide", "kind"), [(True, torch.float32), (False, torch.float64), (False, torch.float16)], ids=["double", "float", "half"]
)
def test_an_example_of_another_type_than_the_model_is_bad_input(wide: bool, kind: torch.dtype) -> None:
    model = nn.Linear(6, 4).double() if wide else nn.Linear(6, 4)
    with pytest.raises(
        lc.BadInput, match=rf"Linear cannot answer this example \('input' \(4, 6\) {str(kind)[6:]}\): RuntimeError: .*dtype"
    ):
        lc.capture(model, torch.randn(4, 6).to(kind))


def test_double_can_be_captured_but_neither_rounded_nor_shipped(tmp_path: Path) -> None:
    double = X.double()
    data = TensorDataset(double, torch.zeros(24, dtype=torch.long))
    task = lc.Task(net().double(), data, data, loss=nn.functional.cross_entropy)
    program = lc.capture(task.build(), double[:4])
    assert torch.equal(program(double), task.build()(double))
    context = lc.Context(task, lc.fit)
    for work in (
        lambda: lc.quantize(program, lc.Quantize(target="onnxruntime"), task),
        lambda: lc.quantize_mixed(program, None, task),
        lambda: lc.qat(program, lc.Qat(target="onnxruntime"), context),
        *(lambda kind=kind: lc.export(program, tmp_path / f"model.{kind}") for kind in ("onnx", "pt2", "ts")),
        lambda: lc.optimize(task),
        lambda: lc.export(lc.capture(net(), X[:4]).double(), tmp_path / "model.onnx"),
    ):
        with pytest.raises(lc.BadInput, match=r"(?=.*float32)(?=.*float64).*model\.float"):
            work()
    assert not list(tmp_path.glob("model*"))


class Casts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x.float())


@pytest.mark.parametrize("kind", [torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("rounded", [False, True], ids=["fp32", "int8"])
def test_inputs_that_a_float32_model_casts_itself_are_taken(kind: torch.dtype, rounded: bool, tmp_path: Path) -> None:
    import onnxruntime

    x = torch.randn(24, 6).to(kind)
    data = TensorDataset(x, torch.zeros(24, dtype=torch.long))
    program = lc.capture(Casts().eval(), x[:4])
    if rounded:
        program, _ = lc.quantize(program, lc.Quantize(target="onnxruntime"), lc.Task(Casts(), data, data))
    session = onnxruntime.InferenceSession(str(lc.export(program, tmp_path / "model.onnx").file), providers=["CPUExecutionProvider"])
    torch.testing.assert_close(torch.from_numpy(session.run(None, {"x": x.numpy()})[0]), program(x).detach(), rtol=0.02, atol=0.02)
