"""A program tells how it is called, and its mode follows whoever sets it."""

from __future__ import annotations

import copy
import inspect
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import laconic as lc
from laconic.core.interface import signature


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm, self.drop = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)

    def forward(self, x: Tensor, double: bool = False, mask: Tensor | None = None) -> Tensor:
        y = self.drop(self.norm(self.layer(x))) * (2 if double else 1)
        return y if mask is None else y * mask


class Several(nn.Module):
    def forward(self, *parts: Tensor) -> Tensor:
        return parts[0] + parts[1]


ROWS = torch.ones(3, 4)


@pytest.fixture(scope="module")
def program() -> lc.Program:
    return lc.capture(Net(), {"x": ROWS, "double": True})


@pytest.mark.parametrize(
    ("net", "example", "shown"),
    [
        (Net(), (ROWS,), "(x)"),
        (Net(), {"x": ROWS, "double": True}, "(x, double=True)"),
        (Net(), {"x": ROWS, "double": True, "mask": ROWS}, "(x, double, mask)"),
        (Several(), (ROWS, ROWS), "(parts_0, parts_1)"),
    ],
    ids=["one input", "a constant behind", "a constant between", "positional"],
)
def test_forward_names_the_inputs(net: nn.Module, example: object, shown: str) -> None:
    program = lc.capture(net, example)
    assert str(inspect.signature(program.forward)) == str(inspect.signature(program)) == shown


def test_the_names_outlive_copies_and_files(program: lc.Program, tmp_path: Path) -> None:
    for twin in (copy.deepcopy(program), lc.Program.load(program.save(tmp_path / "m.pt2"))):
        assert str(inspect.signature(twin.forward)) == "(x, double=True)"
        assert torch.equal(twin(x=ROWS), program(ROWS, double=True))
        assert twin.forward.__self__ is twin  # type: ignore[attr-defined]


def test_names_that_python_has_not_are_not_shown(program: lc.Program) -> None:
    odd = {**program.interface.input_structure, "keys": ["x y", "double"]}
    assert str(signature(replace(program.interface, input_structure=odd))) == "(*args, **kwargs)"


def test_a_module_that_is_taught_is_called_as_its_student(program: lc.Program) -> None:
    module = lc.teach(copy.deepcopy(program), program, lc.FitPlan(distill=0.5, soft="mse_logits"), loss=nn.functional.mse_loss).module
    assert str(inspect.signature(module.forward)) == "(x, double=True)"
    assert torch.equal(module.eval()(x=ROWS, double=True), program(ROWS))
    assert module.train()(x=ROWS).teachers[0].shape == (3, 4)


def test_setting_the_mode_sets_it(program: lc.Program) -> None:
    """Loops that remember modes and restore them (Lightning's, around validation) set the attribute and call no `train()`."""
    program, calm = copy.deepcopy(program), program(ROWS)
    kept = {name: module.training for name, module in program.train().named_modules()}
    program.eval()
    assert torch.equal(program(ROWS), calm)
    for name, module in program.named_modules():
        module.training = kept[name]
    assert program.training
    assert (program(ROWS) == 0).any()  # dropout acts
    assert program.norm.num_batches_tracked == 1
    assert torch.equal(copy.deepcopy(program).eval()(ROWS), program.eval()(ROWS))


def test_it_shows_what_goes_in_and_comes_out(program: lc.Program) -> None:
    text, page = repr(program), program._repr_html_()
    assert text.splitlines()[0] == "Program(28 parameters, 4 operators, in evaluation mode)"
    assert text.splitlines()[1] == "  input x (batch, 4) float32"
    assert "<td>x</td><td>(batch, 4)</td><td>float32</td>" in page
    noted = lc.Program(program.graph_module, replace(program.interface, notes=("<b>&",)))
    assert "<li>&lt;b&gt;&amp;</li>" in noted._repr_html_()
