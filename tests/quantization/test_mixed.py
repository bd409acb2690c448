"""Sensitivity by operator, and what stays float for it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import laconic as lc
from laconic.core.errors import BadInput
from laconic.core.fake_quant import is_fake_quant
from laconic.core.program import aten
from laconic.quantization.mixed import sqnr_db
from laconic.tasks.data import ArrayDataset

RNG = np.random.default_rng(0)


class Fragile(nn.Module):
    """Three layers; the second sees one channel that is a thousand times larger than the one that matters.

    Static quantization by itself keeps such a layer float: the tests switch that off (`min_sqnr_db=None`).
    """

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.fragile, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        with torch.no_grad():
            self.first.weight[0] *= 1000
            self.fragile.weight[:, 0] *= 1e-3

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.fragile(self.first(x)).relu())


X = RNG.standard_normal((128, 6)).astype(np.float32)
MODEL = Fragile().eval()
with torch.no_grad():
    Y = MODEL(torch.from_numpy(X)).argmax(1).numpy()
TASK = lc.Task(MODEL, ArrayDataset(X, Y), ArrayDataset(X, Y), loss=F.cross_entropy)


@pytest.fixture
def program() -> lc.Program:
    return lc.capture(MODEL, torch.from_numpy(X[:2]))


def test_sensitivity_is_what_rounding_one_operator_alone_does() -> None:
    """The reference: everything else is kept float by the option. Without biases, which are rounded in the parameters of the program that is ranked."""
    net = Fragile().eval()
    for layer in net.children():
        layer.bias.data.zero_()
    program = lc.capture(net, torch.from_numpy(X[:2]))
    full, _ = lc.quantize(program, lc.Quantize(target="openvino", min_sqnr_db=None, correct_bias=False), TASK)
    leaves = (torch.from_numpy(X[:64]),)
    found = {item.name: item.sqnr_db for item in lc.sensitivity(full, leaves)}
    for name in ("first", "fragile", "last"):
        others = tuple({"first", "fragile", "last"} - {name})
        alone, _ = lc.quantize(program, lc.Quantize(target="openvino", min_sqnr_db=None, correct_bias=False, keep=others), TASK)
        with torch.no_grad():
            expected = sqnr_db([program(*leaves)], [alone(*leaves)])
        assert found[name] == pytest.approx(expected, abs=0.1)
    assert next(iter(found)) == "fragile"


def test_the_fragile_one_stays_float(program: lc.Program) -> None:
    found, outcome = lc.quantize_mixed(program, lc.Mixed(target="openvino", min_sqnr_db=None, float_operators=1), TASK)
    kept = [row["name"] for row in outcome.changed["sensitivity"] if row["kept_float"]]
    assert kept == ["fragile"]
    rounded = [is_fake_quant(node.args[1]) for node in found.graph.nodes if node.target is aten.linear.default]
    assert rounded == [True, False, True]


def test_as_few_as_the_loss_asks_for(program: lc.Program) -> None:
    strict, loose = (
        lc.quantize_mixed(program, lc.Mixed(target="openvino", min_sqnr_db=None, max_loss_rise=limit), TASK)[1].changed
        for limit in (0.01, 1e6)
    )
    assert loose["float_operators"] == 0
    assert strict["float_operators"] >= 1


def test_without_a_loss_the_outputs_decide(program: lc.Program) -> None:
    task = dataclasses.replace(TASK, loss=None)
    assert (
        lc.quantize_mixed(program, lc.Mixed(target="openvino", min_sqnr_db=None, max_loss_rise=1e-4), task)[1].changed["float_operators"]
        >= 1
    )
    assert (
        lc.quantize_mixed(program, lc.Mixed(target="openvino", min_sqnr_db=None, max_loss_rise=1.0), task)[1].changed["float_operators"]
        == 0
    )


def test_an_option_changes_the_outcome(program: lc.Program) -> None:
    for one, other in (({"float_operators": 0}, {"float_operators": 1}), ({"max_loss_rise": 1e-4}, {"max_loss_rise": 1e6})):
        found = [lc.quantize_mixed(program, lc.Mixed(target="openvino", min_sqnr_db=None, **options), TASK)[0] for options in (one, other)]  # type: ignore[arg-type]
        assert found[0].fingerprint() != found[1].fingerprint()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"mode": "weights"}, "mode: 'weights'"),
        ({"mode": "dynamic"}, "mode: 'dynamic'"),
        ({"max_loss_rise": 0.02, "float_operators": 1}, "Give one of them"),
        ({"max_loss_rise": -1.0}, "0 or more"),
        ({"float_operators": -1}, "0 or more"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object], word: str) -> None:
    with pytest.raises(BadInput, match=word):
        lc.Mixed(**options)  # type: ignore[arg-type]


def test_something_must_be_left_to_round(program: lc.Program) -> None:
    with pytest.raises(BadInput, match="float_operators: 9, but only 3 are rounded"):
        lc.quantize_mixed(program, lc.Mixed(target="openvino", min_sqnr_db=None, float_operators=9), TASK)
