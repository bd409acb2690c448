"""Reductions over what is pruned and over what is not, and what needs all numbers of a dimension."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.pruning.families.common import AB, between, conv, lines
from tests.pruning.nets import Net, case, image, parameter, tokens

Make = Callable[..., Net]


def over_space(reduce: Callable[[Tensor], Tensor]) -> Make:
    return lambda n=6: Net(lambda m, x: m.b(reduce(m.a(x))), a=conv(3, n), b=nn.Linear(n, 2))


def over_channels(reduce: Callable[[Tensor], Tensor]) -> Make:
    """(B, C, H, W) to (B, 1, H, W), which weighs the channels."""
    return lambda n=6: between(lambda m, x: x * reduce(x), n)


def everything(n: int = 6) -> Net:
    return between(lambda m, x: x / x.std(), n)


def squeeze_and_excite(n: int = 6, k: int = 3) -> Net:
    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.a(x)
        return m.b(x * m.up(m.down(x.mean((2, 3), keepdim=True)).relu()).sigmoid())

    return Net(forward, a=conv(3, n), down=conv(n, k), up=conv(k, n), b=conv(n, 2))


def response_norm(n: int = 6) -> Net:
    """ConvNeXt V2's: a channel's energy over the mean of all channels' (GRN)."""

    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.a(x).permute(0, 2, 3, 1)
        g = x.norm(p=2, dim=(1, 2), keepdim=True)
        return m.b((m.s * (x * (g / (g.mean(-1, keepdim=True) + 1e-6))) + m.t + x).permute(0, 3, 1, 2))

    return Net(forward, a=conv(3, n), s=parameter(1, 1, 1, n), t=parameter(1, 1, 1, n), b=conv(n, 2))


def spatial_attention(n: int = 6) -> Net:
    """CBAM: mean and maximum over channels, convolved."""

    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.a(x)
        seen = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return m.b(x * m.look(seen).sigmoid())

    return Net(forward, a=conv(3, n), look=conv(2, 1, 3, padding=1), b=conv(n, 2))


def ordered() -> Net:
    """A layer for each of the operators that need all channels."""
    layers = {f"l{i}": conv(3, 6) for i in range(len(FROZEN))}

    def forward(m: Net, x: Tensor) -> Tensor:
        return m.b(torch.cat([f(m.get_submodule(name)(x)) for name, f in zip(layers, FROZEN.values(), strict=True)], 1))

    return Net(forward, b=conv(6 * len(FROZEN), 2), **layers)


MEAN = {"mean": torch.mean, "sum": torch.sum, "amax": torch.amax, "amin": torch.amin, "logsumexp": torch.logsumexp}
FROZEN = {
    "softmax": lambda x: x.softmax(1),
    "log_softmax": lambda x: x.log_softmax(1),
    "cumsum": lambda x: x.cumsum(1),
    "argmax": lambda x: x * x.argmax(1, keepdim=True),
    "topk": lambda x: x + x.topk(1, 1)[0],
    "sort": lambda x: x.sort(1)[0],
    "max with places": lambda x: x + x.max(1, keepdim=True)[0],
    "prod": lambda x: x + x.prod(1, keepdim=True),
}
CASES = {
    "over space": case(over_space(lambda x: sum(f(x, (2, 3)) for f in MEAN.values()) + x.var((2, 3))), image, AB),
    **{
        f"{name} over channels": case(over_channels(lambda x, f=f: f(x, 1, keepdim=True)), image, AB, zeroed=name == "sum")
        for name, f in MEAN.items()
    },
    "std over channels": case(over_channels(lambda x: x.std(1, keepdim=True, correction=0)), image, AB, zeroed=False),
    "norm over channels": case(over_channels(lambda x: torch.linalg.vector_norm(x, dim=1, keepdim=True)), image, AB),
    "old norm over channels": case(over_channels(lambda x: x.norm(dim=1, keepdim=True)), image, AB),
    "std of everything": case(everything, image, AB, zeroed=False),
    "max over space": case(over_space(lambda x: x.flatten(2).max(-1)[0]), image, AB),
    "squeeze and excitation": case(squeeze_and_excite, image, "6 a.w:0 a.b:0 down.w:1 up.w:0 up.b:0 b.w:1", "3 down.w:0 down.b:0 up.w:1"),
    "response norm": case(response_norm, image, "6 a.w:0 a.b:0 s:3 t:3 b.w:1", zeroed=False),
    "spatial attention": case(spatial_attention, image, AB, zeroed=False),
    "all of a dimension": case(ordered, image),
    "softmax over space": case(lambda n=6: between(lambda m, x: x.flatten(2).softmax(-1).view_as(x), n), image, AB),
    "softmax over tokens": case(lambda n=6: lines(lambda m, x: x * x.softmax(1), n), tokens, AB),
    "triangle of a weight": case(
        lambda: Net(lambda m, x: m.b(m.mix.tril() @ m.a(x)).mean(1), a=nn.Linear(5, 6), mix=parameter(7, 7), b=nn.Linear(6, 2)), tokens, AB
    ),
    "cosine": case(
        lambda: Net(lambda m, x: F.cosine_similarity(m.a(x), m.b(x), dim=-1), a=nn.Linear(5, 6), b=nn.Linear(5, 6)),
        tokens,
        "6 a.w:0 a.b:0 b.w:0 b.b:0",
    ),
}
