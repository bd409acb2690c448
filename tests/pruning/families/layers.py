"""Layers with weights, and products."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.pruning.families.common import AB, CHANNELS, GROUPS, KINDS, between, conv, lines, volume
from tests.pruning.nets import Net, case, image, parameter, rows, tokens

Make = Callable[..., Net]


def chain(d: int, kind: int) -> Make:
    layer = KINDS[d][kind]
    return lambda n=6: Net(lambda m, x: m.b(m.a(x).sigmoid()), a=layer(3, n, 3), b=layer(n, 2, 2))


def grouped(layer: type[nn.Module]) -> Make:
    return lambda: Net(
        lambda m, x: m.b(m.g(m.a(x).sigmoid()).sigmoid()), a=conv(3, 12), g=layer(12, 8, 3, groups=4, padding=1), b=conv(8, 2)
    )


def depthwise(n: int = 6) -> Net:
    return Net(lambda m, x: m.b(m.d(m.a(x).sigmoid()).sigmoid()), a=conv(3, n), d=conv(n, 2 * n, 3, groups=n), b=conv(2 * n, 2))


def resnext() -> Net:
    """Grouped convolutions with a norm between them and a residual around."""

    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.a(x)
        return m.b(x + m.h(m.norm(m.g(x)).sigmoid()))

    g, h = conv(12, 12, 3, groups=3, padding=1), conv(12, 12, groups=3)
    return Net(forward, a=conv(3, 12), g=g, norm=nn.BatchNorm2d(12), h=h, b=conv(12, 2))


def standardized(n: int = 4, k: int = 6) -> Net:
    """A weight that is computed, with means over what is pruned."""

    def forward(m: Net, x: Tensor) -> Tensor:
        w = m.w - m.w.mean((1, 2, 3), keepdim=True)
        return m.b(F.conv2d(m.a(x), w, m.c, padding=1).relu())

    return Net(forward, a=conv(3, n), w=parameter(k, n, 3, 3), c=parameter(k), b=conv(k, 2))


def doubled(n: int = 6, k: int = 4) -> Net:
    return Net(lambda m, x: m.b(F.conv2d(m.a(x), m.w * 2).relu()), a=conv(3, n), w=parameter(k, n, 3, 3), b=conv(k, 2))


def doubled_depthwise(n: int = 6) -> Net:
    return Net(lambda m, x: m.b(F.conv2d(m.a(x), m.w * 2, groups=n).relu()), a=conv(3, n), w=parameter(n, 1, 3, 3), b=conv(n, 2))


def decayed() -> Net:
    """A kernel that is also read as a table: its places cannot go."""
    return Net(lambda m, x: m.b(m.a(x)) + m.a.weight.mean((0, 1)).sum(), a=conv(3, 6, 3), b=conv(6, 2))


def masked(n: int = 4, k: int = 6) -> Net:
    parts = {"w": parameter(k, n), "mask": torch.rand(k, n), "c": parameter(k)}
    return Net(lambda m, x: m.b(F.linear(m.a(x), m.w * m.mask, m.c)), a=nn.Linear(5, n), b=nn.Linear(k, 2), **parts)


def hypernet() -> Net:
    """The weight is an activation: what one layer computes is another's rows and columns."""

    def forward(m: Net, x: Tensor) -> Tensor:
        return m.b(F.linear(m.a(x), m.w(m.seed).view(6, 4)))

    return Net(forward, a=nn.Linear(5, 4), w=nn.Linear(3, 24), seed=torch.randn(3), b=nn.Linear(6, 2))


def bilinear(n: int = 6, k: int = 4, o: int = 3) -> Net:
    layers = {"a": nn.Linear(5, n), "c": nn.Linear(5, k), "z": nn.Bilinear(n, k, o), "b": nn.Linear(o, 2)}
    return Net(lambda m, x: m.b(m.z(m.a(x), m.c(x))), **layers)


def shared_conv(n: int = 6) -> Net:
    return Net(lambda m, x: m.b(m.s(m.s(m.a(x)).sigmoid())), a=conv(3, n), s=conv(n, n), b=conv(n, 2))


def shared_linear(n: int = 6, k: int = 4) -> Net:
    layers = {"a": nn.Linear(5, n), "c": nn.Linear(5, n), "s": nn.Linear(n, k), "b": nn.Linear(k, 2)}
    return Net(lambda m, x: m.b(m.s(m.a(x)) + m.s(m.c(x))), **layers)


def two_heads(n: int = 6) -> Net:
    return Net(lambda m, x: (m.b(y := m.a(x).relu()), [m.c(y), x]), a=nn.Linear(5, n), b=nn.Linear(n, 2), c=nn.Linear(n, 3))


def seen_trunk() -> Net:
    return Net(lambda m, x: (m.b(y := m.a(x)), y), a=nn.Linear(5, 6), b=nn.Linear(6, 2))


def pairing(product: Callable[[Tensor, Tensor], Tensor]) -> Make:
    """Two layers whose outputs meet in a product."""
    return lambda n=6: Net(lambda m, x: product(m.a(x), m.b(x)), a=nn.Linear(5, n), b=nn.Linear(5, n))


def product(forward: Callable[[Net, Tensor], Tensor], *shapes: Callable[[int], tuple[int, ...]]) -> Make:
    """Parameters p, q, … of shapes that depend on n."""
    return lambda n=6: Net(forward, **{name: parameter(*shape(n)) for name, shape in zip("pqrs", shapes, strict=False)})


def experts(e: int = 3, n: int = 6) -> Net:
    return Net(lambda m, x: ((x[:, None] @ m.p).sigmoid() @ m.q).sum(1), p=parameter(e, 5, n), q=parameter(e, n, 2))


def outer(n: int = 6) -> Net:
    """A product over positions; its rows and columns are then read as one line."""
    return Net(lambda m, x: m.c((m.a(x).mT @ m.b(x)).flatten(1)), a=nn.Linear(5, n), b=nn.Linear(5, 4), c=nn.Linear(n * 4, 2))


def linear_attention(n: int = 6, o: int = 4) -> Net:
    def forward(m: Net, x: Tensor) -> Tensor:
        q, k = F.elu(m.q(x)) + 1, F.elu(m.k(x)) + 1
        return m.o((q @ (k.mT @ m.v(x))) / (q * k.sum(1, keepdim=True)).sum(-1, keepdim=True))

    return Net(forward, q=nn.Linear(5, n), k=nn.Linear(5, n), v=nn.Linear(5, o), o=nn.Linear(o, 2))


MEET = "6 a.w:0 a.b:0 b.w:0 b.b:0"
RESNEXT = "norm.w:0{0} norm.b:0{0} norm.running_mean:0{0} norm.running_var:0{0}"
CASES = {
    **{f"conv{d}d": case(chain(d, 0), volume(d), AB) for d in (1, 2, 3)},
    **{f"transposed{d}d": case(chain(d, 1), volume(d), "6 a.w:1 a.b:0 b.w:0") for d in (1, 2, 3)},
    "conv, same padding": case(lambda n=6: Net(lambda m, x: m.b(m.a(x)), a=conv(3, n, 3, padding="same"), b=conv(n, 2)), image, AB),
    "conv over tokens": case(lambda n=6: lines(lambda m, x: m.mix(x).sigmoid(), n, mix=nn.Conv1d(7, 7, 1)), tokens, AB),
    "transposed over tokens": case(lambda n=6: lines(lambda m, x: m.mix(x).sigmoid(), n, mix=nn.ConvTranspose1d(7, 7, 1)), tokens, AB),
    "conv over tokens, strided": case(lambda: Net(lambda m, x: m.mix(m.a(x)), a=nn.Linear(5, 6), mix=nn.Conv1d(7, 7, 1, stride=2)), tokens),
    "conv, no batch": case(lambda n=6: between(lambda m, x: x.relu(), n), lambda batch: (torch.randn(3, 4, 4),), AB, batched=False),
    "grouped, groups": case(grouped(nn.Conv2d), image, "4 a.w:0*3 a.b:0*3 g.w:0*2 g.b:0*2 b.w:1*2", policy=GROUPS),
    "grouped, channels": case(grouped(nn.Conv2d), image, "3 a.w:0*4 a.b:0*4 g.w:1", "2 g.w:0*4 g.b:0*4 b.w:1*4", policy=CHANNELS),
    "grouped, auto": case(grouped(nn.Conv2d), image, "4 a.w:0*3 a.b:0*3 g.w:0*2 g.b:0*2 b.w:1*2"),
    "transposed, groups": case(grouped(nn.ConvTranspose2d), image, "4 a.w:0*3 a.b:0*3 g.w:0*3 g.b:0*2 b.w:1*2", policy=GROUPS),
    "transposed, channels": case(
        grouped(nn.ConvTranspose2d), image, "3 a.w:0*4 a.b:0*4 g.w:0*4", "2 g.w:1 g.b:0*4 b.w:1*4", policy=CHANNELS
    ),
    "depthwise": case(depthwise, image, "6 a.w:0 a.b:0 d.w:0*2 d.b:0*2 b.w:1*2"),
    "depthwise, channels": case(depthwise, image, "6 a.w:0 a.b:0 d.w:0*2 d.b:0*2 b.w:1*2", policy=CHANNELS),
    "resnext, channels": case(
        resnext,
        image,
        "4 a.w:0*3 a.b:0*3 g.w:1 h.w:0*3 h.b:0*3 b.w:1*3",
        "4 g.w:0*3 g.b:0*3 h.w:1 " + RESNEXT.format("*3"),
        policy=CHANNELS,
    ),
    "resnext, groups": case(
        resnext, image, "3 a.w:0*4 a.b:0*4 g.w:0*4 g.b:0*4 h.w:0*4 h.b:0*4 b.w:1*4 " + RESNEXT.format("*4"), policy=GROUPS
    ),
    "computed weight, means": case(standardized, image, "4 a.w:0 a.b:0 w:1", "6 w:0 c:0 b.w:1", zeroed=False),
    "computed weight": case(doubled, image, "6 a.w:0 a.b:0 w:1", "4 w:0 b.w:1"),
    "computed weight, depthwise": case(doubled_depthwise, image, "6 a.w:0 a.b:0 w:0 b.w:1"),
    "computed weight, linear": case(masked, rows, "4 a.w:0 a.b:0 w:1 mask:1", "6 w:0 mask:0 c:0 b.w:1"),
    "weight read twice": case(decayed, image, AB, zeroed=False),
    "hypernet": case(hypernet, rows, "4 a.w:0 a.b:0 w.w:0*6 w.b:0*6", "3 seed:0 w.w:1"),
    "linear, rows": case(lambda n=6: lines(lambda m, x: x.sigmoid(), n), rows, AB),
    "linear, tokens": case(lambda n=6: lines(lambda m, x: x.sigmoid(), n), tokens, AB),
    "linear, maps": case(lambda n=6: lines(lambda m, x: x.sigmoid(), n), lambda batch: (torch.randn(batch, 2, 4, 5),), AB),
    "bilinear": case(bilinear, rows, "6 a.w:0 a.b:0 z.w:1", "4 c.w:0 c.b:0 z.w:2", "3 z.w:0 z.b:0 b.w:1"),
    "shared conv": case(shared_conv, image, "6 a.w:0 a.b:0 s.w:0 s.w:1 s.b:0 b.w:1"),
    "shared linear": case(shared_linear, rows, "6 a.w:0 a.b:0 c.w:0 c.b:0 s.w:1", "4 s.w:0 s.b:0 b.w:1"),
    "two heads": case(two_heads, rows, "6 a.w:0 a.b:0 b.w:1 c.w:1"),
    "trunk is put out": case(seen_trunk, rows),
    "matmul": case(pairing(lambda a, b: a @ b.mT), tokens, MEET),
    "matmul, no zeros": case(pairing(lambda a, b: a.sigmoid() @ b.sigmoid().mT), tokens, MEET, zeroed=False),
    "bmm": case(pairing(lambda a, b: torch.bmm(a, b.transpose(1, 2))), tokens, MEET),
    "einsum": case(pairing(lambda a, b: torch.einsum("blc,bmc->blm", a, b)), tokens, MEET),
    "einsum, three": case(pairing(lambda a, b: torch.einsum("blc,bmc,bmc->bl", a, b, b)), tokens, MEET),
    "einsum, dots": case(pairing(lambda a, b: torch.einsum("...lc,...mc->...lm", a, b)), tokens, MEET),
    "einsum, weights": case(
        product(
            lambda m, x: torch.einsum("bln,no->blo", torch.einsum("blc,cn->bln", x, m.p).relu(), m.q), lambda n: (5, n), lambda n: (n, 2)
        ),
        tokens,
        "6 p:1 q:0",
    ),
    "baddbmm": case(pairing(lambda a, b: torch.baddbmm(torch.ones(1, 7, 7), a, b.mT, beta=0.5, alpha=2)), tokens, MEET),
    "baddbmm, no zeros": case(
        pairing(lambda a, b: torch.baddbmm(torch.ones(1, 7, 7), a.sigmoid(), b.sigmoid().mT)), tokens, MEET, zeroed=False
    ),
    "einsum, one for all": case(
        pairing(
            lambda a, b: (
                torch.einsum("blc,bmc->blm", a, b[:1].mean(1, keepdim=True))
                if False
                else torch.einsum("blc,uc->bl", a, b.mean((0, 1), keepdim=True)[0])
            )
        ),
        tokens,
        MEET,
        zeroed=False,
    ),
    "outer": case(outer, tokens, "6 a.w:0 a.b:0 c.w:1*4"),
    "weight as it is": case(product(lambda m, x: (x @ m.p).sigmoid() @ m.q, lambda n: (5, n), lambda n: (n, 2)), tokens, "6 p:1 q:0"),
    "weight on the left": case(product(lambda m, x: m.q @ (m.p @ x).sigmoid(), lambda n: (n, 7), lambda n: (2, n)), tokens, "6 p:0 q:1"),
    "weight transposed": case(product(lambda m, x: (x @ m.p.t()).sigmoid() @ m.q.T, lambda n: (n, 5), lambda n: (2, n)), rows, "6 p:0 q:1"),
    "weights of experts": case(experts, tokens, "3 p:0 q:0", "6 p:2 q:1", zeroed=False),
    "vector": case(lambda n=6: Net(lambda m, x: m.a(x).sigmoid() @ m.p, a=nn.Linear(5, n), p=parameter(n)), tokens, "6 a.w:0 a.b:0 p:0"),
    "addmm": case(
        product(
            lambda m, x: torch.addmm(m.s, torch.addmm(m.r, x, m.p).sigmoid(), m.q),
            *(lambda n: (5, n), lambda n: (n, 2), lambda n: (n,), lambda n: (2,)),
        ),
        rows,
        "6 p:1 q:0 r:0",
    ),
    "addmm, one bias": case(
        product(lambda m, x: torch.addmm(m.r, x, m.p).sigmoid() @ m.q, lambda n: (5, n), lambda n: (n, 2), lambda n: (1,)),
        rows,
        "6 p:1 q:0",
    ),
    "linear attention": case(linear_attention, tokens, "6 q.w:0 q.b:0 k.w:0 k.b:0", "4 v.w:0 v.b:0 o.w:1", zeroed=False),
}
