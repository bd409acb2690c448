"""Operators that compute each number from those at its place, with broadcasting."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.pruning.families.common import AB, between, conv, lines
from tests.pruning.nets import Net, case, image, parameter, rows, tokens

Make = Callable[..., Net]


def scaled(*shape: int, place: int) -> Make:
    """A parameter of this shape, with the channels at `place`, times the maps and added to them."""

    def make(n: int = 6) -> Net:
        wide = tuple(n if i == place else size for i, size in enumerate(shape))
        return between(lambda m, x: x * m.s + m.s, n, s=parameter(*wide))

    return make


def residual(n: int = 6) -> Net:
    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.a(x)
        return m.b(x + 0.5 * m.c(x).relu())

    return Net(forward, a=conv(3, n), c=conv(n, n, 3, padding=1), b=conv(n, 2))


def input_added() -> Net:
    """A residual around the whole: the input's channels stay, so do those that meet them."""
    return Net(lambda m, x: m.b(x + m.a(x)), a=conv(3, 3), b=conv(3, 2))


def conditioned(n: int = 6) -> Net:
    """One layer makes scale and shift for another's channels (FiLM)."""

    def forward(m: Net, x: Tensor) -> Tensor:
        y = m.a(x)
        scale, shift = m.film(x.mean((2, 3)))[..., None, None].chunk(2, 1)
        return m.b(y * (1 + scale) + shift)

    return Net(forward, a=conv(3, n), film=nn.Linear(3, 2 * n), b=conv(n, 2))


def gated(n: int = 6) -> Net:
    """SwiGLU, with two layers."""
    return Net(lambda m, x: m.b(F.silu(m.a(x)) * m.c(x)), a=nn.Linear(5, n), c=nn.Linear(5, n), b=nn.Linear(n, 2))


def gated_at_once(n: int = 6) -> Net:
    return Net(lambda m, x: m.b(F.glu(m.a(x), -1)), a=nn.Linear(5, 2 * n), b=nn.Linear(n, 2))


def rectified(shared: bool) -> Make:
    return lambda n=6: Net(lambda m, x: m.b(m.p(m.a(x))), a=conv(3, n), p=nn.PReLU(1 if shared else n), b=conv(n, 2))


ACTIVATIONS = {
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "hardswish": F.hardswish,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "softplus": F.softplus,
    "mish": F.mish,
    "clamp": lambda x: x.clamp(-1, 1),
    "where": lambda x: torch.where(x > 0, x, x.exp()),
    "masked_fill": lambda x: x.masked_fill(x < 0, -1.0),
    "type": lambda x: x.double().sin().float().type_as(x),
    "dropout": lambda x: F.dropout(x, 0.5, False),
    "maximum": lambda x: torch.maximum(x, x.new_zeros(1)).pow(2),
}
CASES = {
    "activations": case(lambda n=6: lines(lambda m, x: sum(f(x) for f in ACTIVATIONS.values()), n), tokens, AB),
    "in place": case(lambda n=6: lines(lambda m, x: x.add_(1).relu_(), n), tokens, AB),
    "ones_like": case(lambda n=6: lines(lambda m, x: x + torch.ones_like(x) + x.new_full((n,), 2.0), n), tokens, AB),
    "(1, C, 1, 1)": case(scaled(1, 6, 1, 1, place=1), image, f"{AB} s:1"),
    "(C, 1, 1)": case(scaled(6, 1, 1, place=0), image, f"{AB} s:0"),
    "(1, 1, 1)": case(scaled(1, 1, 1, place=-1), image, AB),
    "()": case(lambda n=6: between(lambda m, x: x * m.s, n, s=parameter()), image, AB),
    "(C)": case(lambda n=6: lines(lambda m, x: x * m.s + m.t, n, s=parameter(n), t=parameter(1)), tokens, f"{AB} s:0"),
    "(H, W)": case(lambda n=6: between(lambda m, x: x + m.s, n, s=parameter(6, 6)), image, AB),
    "residual": case(residual, image, "6 a.w:0 a.b:0 c.w:0 c.w:1 c.b:0 b.w:1"),
    "residual of the input": case(input_added, image),
    "film": case(conditioned, image, "6 a.w:0 a.b:0 film.w:0*2 film.b:0*2 b.w:1"),
    "gated": case(gated, tokens, "6 a.w:0 a.b:0 c.w:0 c.b:0 b.w:1"),
    "glu": case(gated_at_once, rows, "6 a.w:0*2 a.b:0*2 b.w:1"),
    "prelu": case(rectified(False), image, f"{AB} p.w:0"),
    "prelu, one for all": case(rectified(True), image, AB),
}
