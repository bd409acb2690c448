"""Layers that few bits do not serve: they stay float, and it is said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import laconic as lc
from laconic.core.capture import capture
from laconic.core.errors import BadInput
from laconic.quantization.fidelity import exact_tensors, examples_enough, layer_sqnr_db, typical_sqnr_db
from laconic.quantization.placement import place
from laconic.quantization.quantize import Quantize, quantize
from tests.quantization.nets import images, mlp, task_of


def table(columns: int, scale: float) -> tuple[nn.Module, Tensor]:
    """A net that gives each column its share, and data whose first column is `scale` times larger than the others."""
    torch.manual_seed(0)
    net = mlp(columns, 32, 16, 1).eval()
    x = torch.rand(200, columns)
    x[:, 0] *= scale
    net[0].weight.data[:, 0] /= scale
    return net, x


@pytest.mark.parametrize("mode", ["static", "dynamic", "weights"])
@pytest.mark.parametrize("scale", [3e4, 1e7])
@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
def test_a_column_in_millions_keeps_the_first_layer_float(mode: Any, scale: float, target: str) -> None:
    net, x = table(5, scale)
    found, outcome = quantize(capture(net, x), Quantize(mode=mode, target=target), task_of(x))
    assert outcome.changed["operators"] == ["2", "4"]
    (row,) = [item for item in outcome.skipped if item.name == "0"]
    assert "dB of signal over noise" in row.reason
    assert "min_sqnr_db" in row.reason
    plain, exact = found(x).detach(), net(x).detach()
    assert float((plain - exact).abs().mean()) < 0.1 * float(exact.std())


def test_the_option_rounds_it_all_the_same_and_a_note_tells() -> None:
    net, x = table(5, 1e6)
    _, outcome = quantize(capture(net, x), Quantize(target="openvino", min_sqnr_db=None), task_of(x))
    assert outcome.changed["operators"] == ["0", "2", "4"]
    assert outcome.changed["layer_sqnr_db"]["0"] < 10
    assert any("few bits serve these badly" in note and "0 (" in note for note in outcome.notes)
    assert any("on the calibration data an output" in note for note in outcome.notes)


def test_layers_that_are_served_well_are_not_named() -> None:
    x = torch.rand(64, 5)
    _, outcome = quantize(capture(mlp(5, 32, 16, 1).eval(), x), Quantize(target="onnxruntime"), task_of(x))
    assert outcome.notes == ()
    assert all(ratio is None or ratio > 20 for ratio in outcome.changed["layer_sqnr_db"].values())


@pytest.mark.parametrize(
    "make", [lambda: nn.Conv2d(3, 4, 3), lambda: nn.Sequential(nn.ReLU(), nn.Conv2d(3, 4, 1))], ids=["conv", "behind relu"]
)
def test_the_figure_is_that_of_a_model_of_one_layer(make: Callable[[], nn.Module]) -> None:
    net, x = make().eval(), images(16)
    found, outcome = quantize(capture(net, x), Quantize(target="openvino", correct_bias=False), task_of(x))
    (ratio,) = outcome.changed["layer_sqnr_db"].values()
    with torch.no_grad():
        a, b = net(x).double().numpy(), found(x).double().numpy()
    center = np.median(np.moveaxis(a, 1, 0).reshape(4, -1), axis=1).reshape(1, 4, 1, 1)
    each = [10 * np.log10(((p - center[0]) ** 2).sum() / ((p - q) ** 2).sum()) for p, q in zip(a, b, strict=True)]
    assert ratio == pytest.approx(float(np.median(each)), abs=0.5)  # the median of an even number, and a tenth of a dB


def test_a_ratio_ignores_one_odd_example_and_the_mean() -> None:
    exact = torch.randn(16, 4) + 100
    noise = torch.full((16, 4), 0.1)
    assert typical_sqnr_db(exact, exact + noise, -1) == pytest.approx(20.0, abs=3.0)
    odd = exact.clone()
    odd[3] = 1e6
    assert typical_sqnr_db(odd, odd + noise, -1) == pytest.approx(20.0, abs=3.0)
    assert typical_sqnr_db(exact, exact, -1) == float("inf")
    assert typical_sqnr_db(exact, exact * float("nan"), -1) == -300.0


class Scores(nn.Module):
    """Answers one number for each example, once by a product with a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.w = nn.Linear(4, 16), nn.Linear(16, 1), nn.Parameter(torch.randn(16))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.a(x).relu()
        return self.b(x).squeeze(-1), x @ self.w


@pytest.mark.parametrize("mode", ["static", "weights"])
def test_one_number_for_each_example_can_be_rounded(mode: Any) -> None:
    torch.manual_seed(0)
    net, x = Scores().eval(), torch.randn(64, 4)
    found, outcome = quantize(capture(net, x), Quantize(mode=mode, target="onnxruntime"), task_of(x))
    assert all(ratio is None or ratio > 20 for ratio in outcome.changed["layer_sqnr_db"].values())
    with torch.no_grad():
        answers, exacts = found(x), net(x)
    for answer, exact in zip(answers, exacts, strict=True):
        assert answer.shape == (64,)
        assert float((answer - exact).abs().mean()) < 0.1 * float(exact.std())
    exact = torch.randn(64)
    assert typical_sqnr_db(exact, exact + 0.1 * exact.std(), -1) == pytest.approx(20.0, abs=6.0)


def test_nothing_rounded_nothing_lost() -> None:
    net, x = mlp(4, 8, 2).eval(), torch.randn(8, 4)
    program = capture(net, x)
    operators = place(program, "openvino").operators
    ratios = layer_sqnr_db(program, operators, exact_tensors(program, operators), (x,))
    assert set(ratios.values()) == {float("inf")}


@pytest.mark.parametrize(
    "config",
    [
        lc.Quantize(target="openvino"),
        lc.Quantize(mode="dynamic", target="onnxruntime"),
        lc.Quantize(mode="weights", bits=4, target="openvino"),
        lc.Mixed(target="onnxruntime"),
    ],
    ids=["static", "dynamic", "weights", "mixed"],
)
def test_a_quantization_that_rounds_nothing_is_refused(config: Any) -> None:
    class Sines(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sin() * 2

    x = torch.randn(16, 4)
    run = lc.quantize_mixed if isinstance(config, lc.Mixed) else lc.quantize
    with pytest.raises(BadInput, match=r"rounded nothing.*found no operator.*mul\.Tensor, sin\.default"):
        run(capture(Sines(), x), config, task_of(x))


def test_what_stays_float_is_named_where_nothing_is_left() -> None:
    x = torch.randn(16, 5, 4)
    program = capture(nn.GRU(4, 4, batch_first=True).eval(), x)
    for mode, reason in (("static", "recurrent"), ("dynamic", "no runtime has a GRU")):
        with pytest.raises(BadInput, match=f"rounded nothing.*{reason}"):
            quantize(program, Quantize(mode=mode, target="onnxruntime"), task_of(x))  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="rounded nothing.*it is to stay float"):
        quantize(capture(mlp(4, 2).eval(), x), Quantize(target="openvino", keep=("0",)), task_of(x))


@pytest.mark.parametrize("scale", [1e-25, 1e-10, 1.0, 1e25])
def test_the_ratio_does_not_depend_on_the_scale(scale: float) -> None:
    exact = torch.randn(16, 4, 80, 80)
    noise = 0.1 * torch.randn_like(exact)
    result = typical_sqnr_db(exact * scale, (exact + noise) * scale, 1)
    assert result == pytest.approx(20.0, abs=0.2)


@pytest.mark.parametrize(("size", "examples"), [(5, 32), (3 * 32 * 32, 32), (3 * 224 * 224, 6), (3 * 1024 * 1024, 4)])
def test_large_examples_are_looked_at_in_small_numbers(size: int, examples: int) -> None:
    assert examples_enough((torch.zeros(2, size), torch.zeros(2, 1))) == examples
