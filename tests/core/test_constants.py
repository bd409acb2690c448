"""Weights that are computed from parameters and buffers alone become stored ones; what changes from call to call does not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils import weight_norm as old_weight_norm
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm

from laconic.core.capture import capture
from laconic.core.constants import fold_constants
from laconic.core.program import Program, aten


class Layer(nn.Module):
    """A layer whose weight is an expression."""

    def __init__(self, expression: Callable[[nn.Module], Tensor], shape: tuple[int, ...] = (5, 6)) -> None:
        super().__init__()
        self.w, self.u, self.v = nn.Parameter(torch.randn(shape)), nn.Parameter(torch.randn(5, 2)), nn.Parameter(torch.randn(2, 6))
        self.register_buffer("mask", (torch.rand(shape) > 0.5).float())
        self.register_buffer("real", torch.randn(5, 4))
        self.expression = expression

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.expression(self))


class Standardized(nn.Conv1d):
    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        return F.conv1d(x, (w - w.mean((1, 2), keepdim=True)) / w.std((1, 2), keepdim=True), self.bias)


def normed(norm: Callable[[nn.Module], nn.Module]) -> nn.Module:
    with pytest.warns(FutureWarning) if norm is old_weight_norm else torch.no_grad():  # type: ignore[attr-defined]
        return nn.Sequential(nn.Conv1d(6, 4, 3), nn.ReLU(), norm(nn.Conv1d(4, 5, 2)))


def rows() -> Tensor:
    return torch.randn(4, 6)


def signals() -> Tensor:
    return torch.randn(4, 6, 9)


# what is computed -> net, input, name of the weight
NETS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor], str]] = {
    "weight norm": (lambda: normed(weight_norm), signals, "2.weight"),
    "weight norm as a hook": (lambda: normed(old_weight_norm), signals, "2.weight"),
    "spectral norm": (lambda: normed(spectral_norm), signals, "2.weight"),
    "spectral norm as a hook": (lambda: normed(old_spectral_norm), signals, "2.weight"),
    "orthogonal": (lambda: nn.Sequential(nn.ReLU(), orthogonal(nn.Linear(6, 6))), rows, "1.weight"),
    "standardized": (lambda: nn.Sequential(Standardized(6, 4, 3)), signals, "0.weight_2"),
    "masked": (lambda: Layer(lambda m: m.w * m.mask), rows, "weight"),
    "turned": (lambda: Layer(lambda m: m.w.t(), (6, 5)), rows, "weight"),
    "product": (lambda: Layer(lambda m: torch.einsum("or,ri->oi", m.u, m.v)), rows, "weight"),
    "complex": (lambda: Layer(lambda m: torch.fft.irfft(torch.complex(m.real, 2 * m.real), n=6)), rows, "weight"),
}


def computed(program: Program) -> list[str]:
    """Operators that read nothing but attributes."""
    return [
        str(n)
        for n in program.graph.nodes
        if n.op == "call_function" and n.all_input_nodes and all(s.op == "get_attr" for s in n.all_input_nodes)
    ]


@pytest.mark.parametrize("name", NETS)
def test_a_computed_weight_is_stored_under_the_name_that_it_has_in_its_module(name: str) -> None:
    """Or with a number behind it, where what it is computed from has that name."""
    torch.manual_seed(0)
    make, inputs, weight = NETS[name]
    net, x = make().eval(), inputs()
    program = capture(net, x)
    before = program.fingerprint()
    found, names = fold_constants(program)
    assert names == (weight,)
    assert weight in found.state_dict()
    assert computed(program)
    assert not computed(found)
    assert (weight in dict(found.named_parameters())) is (name != "complex")  # that one has only a buffer in it
    torch.testing.assert_close(found(x), net(x))
    assert program.fingerprint() == before


class Noise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(5, 6))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.w + torch.randn_like(self.w))


class Expanded(nn.Module):
    """Numbers that are repeated stay as few as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(1, 6))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.w.expand(4, 6)


@pytest.mark.parametrize("make", [Noise, Expanded, lambda: nn.Linear(6, 5)], ids=["random", "expanded", "plain"])
def test_what_is_no_constant_or_only_repeats_one_stays(make: Callable[[], nn.Module]) -> None:
    program = capture(make().eval(), rows(), dynamic_batch=False)
    found, names = fold_constants(program)
    assert names == ()
    assert found is program


def test_a_buffer_that_is_written_is_no_constant() -> None:
    program = capture(Layer(lambda m: m.w * m.mask).eval(), rows())
    mask = next(n for n in program.graph.nodes if n.op == "get_attr" and n.target == "mask")
    x = next(n for n in program.graph.nodes if n.op == "placeholder")
    with program.graph.inserting_after(x):
        program.graph.call_function(aten.add_.Tensor, (mask, 1))
    program.recompile()
    assert fold_constants(program)[1] == ()


def test_a_name_that_is_taken_gets_a_number() -> None:
    class Taken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(5, 6))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.weight * 2) + x @ self.weight.t() + F.linear(x, self.weight)

    x = rows()
    program = capture(Taken().eval(), x)
    found, names = fold_constants(program)
    assert names[0] == "weight_2"
    torch.testing.assert_close(found(x), program(x))
