"""One small net for each operator family, the operator between two layers that can be pruned, and its groups by hand."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laconic.prune.coupling import Policy
from tests.prune.nets import Case, Net, case, image, parameter, rows, tokens, words

CHANNELS, GROUPS, SIZE = Policy(groups="channels"), Policy(groups="groups"), Policy(attention="head_size")
BETWEEN = "a.w:0 a.b:0 b.w:1"  # layer a makes channels, layer b reads them


def conv(inputs: int, outputs: int, kernel: int = 1, **options: object) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, **options)  # type: ignore[arg-type]


def between(middle, n: int = 6, read: int | None = None, **parts) -> Net:
    """Pixels: layer `a`, something, layer `b` that reads so many channels."""
    return Net(lambda m, x: m.b(middle(m, m.a(x))), a=conv(3, n), b=conv(read or n, 2), **parts)


def lines(middle, n: int = 6, read: int | None = None, **parts) -> Net:
    """The same with linear layers, on rows or tokens."""
    return Net(lambda m, x: m.b(middle(m, m.a(x))), a=nn.Linear(5, n), b=nn.Linear(read or n, 2), **parts)


# Layers -----------------------------------------------------------------------------------------------------------------------------------

KINDS = {
    1: (nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d, nn.InstanceNorm1d),
    2: (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.InstanceNorm2d),
    3: (nn.Conv3d, nn.ConvTranspose3d, nn.BatchNorm3d, nn.InstanceNorm3d),
}


def chain(d: int, kind: int):
    layer = KINDS[d][kind]
    return lambda n=6: Net(lambda m, x: m.b(m.a(x).sigmoid()), a=layer(3, n, 3), b=layer(n, 2, 2))


def volume(d: int):
    return lambda batch: (torch.randn(batch, 3, *[5] * d),)


def grouped(transpose: bool = False):
    layer = nn.ConvTranspose2d if transpose else nn.Conv2d
    return lambda: Net(lambda m, x: m.b(m.g(m.a(x).sigmoid()).sigmoid()), a=conv(3, 12), g=layer(12, 8, 3, groups=4, padding=1), b=conv(8, 2))


def depthwise(n: int = 6) -> Net:
    return Net(lambda m, x: m.b(m.d(m.a(x).sigmoid()).sigmoid()), a=conv(3, n), d=conv(n, 2 * n, 3, groups=n), b=conv(2 * n, 2))


def resnext() -> Net:
    """Grouped convolutions with a norm between them and a residual around."""

    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.a(x)
        return m.b(x + m.h(m.norm(m.g(x)).sigmoid()))

    return Net(forward, a=conv(3, 12), g=conv(12, 12, 3, groups=3, padding=1), norm=nn.BatchNorm2d(12), h=conv(12, 12, groups=3), b=conv(12, 2))


def standardized(n: int = 6) -> Net:
    """A weight that is computed."""

    def forward(m: Net, x: Tensor) -> Tensor:
        w = m.w - m.w.mean((1, 2, 3), keepdim=True)
        return m.b(F.conv2d(m.a(x), w, m.c, padding=1).relu())

    return Net(forward, a=conv(3, 4), w=parameter(n, 4, 3, 3), c=parameter(n), b=conv(n, 2))


def doubled(groups: int):
    def make(n: int = 6) -> Net:
        return Net(
            lambda m, x: m.b(F.conv2d(m.a(x), m.w * 2, groups=n if groups > 1 else 1).relu()),
            a=conv(3, n),
            w=parameter(n, 1 if groups > 1 else n, 3, 3),
            b=conv(n, 2),
        )

    return make


def masked_linear(n: int = 6) -> Net:
    return Net(lambda m, x: m.b(F.linear(m.a(x), m.w * m.mask, m.c)), a=nn.Linear(5, 4), w=parameter(n, 4), mask=torch.rand(n, 4), c=parameter(n), b=nn.Linear(n, 2))


def hypernet() -> Net:
    """The weight is an activation."""
    return Net(lambda m, x: m.b(F.linear(m.a(x), m.w(m.seed).view(6, 4))), a=nn.Linear(5, 4), w=nn.Linear(3, 24), seed=torch.randn(3), b=nn.Linear(6, 2))


LAYERS = {
    **{f"conv{d}d": case(chain(d, 0), volume(d), f"6 {BETWEEN}") for d in (1, 2, 3)},
    **{f"transposed{d}d": case(chain(d, 1), volume(d), "6 a.w:1 a.b:0 b.w:0") for d in (1, 2, 3)},
    "conv same": case(lambda n=6: Net(lambda m, x: m.b(m.a(x)), a=conv(3, n, 3, padding="same"), b=conv(n, 2)), image, f"6 {BETWEEN}"),
    "conv unbatched": case(
        lambda n=6: between(lambda m, x: x.relu(), n), lambda batch: (torch.randn(3, 4, 4),), f"6 {BETWEEN}", batched=False
    ),
    "grouped, groups": case(grouped(), image, "4 a.w:0*3 a.b:0*3 g.w:0*2 g.b:0*2 b.w:1*2", policy=GROUPS),
    "grouped, channels": case(grouped(), image, "3 a.w:0*4 a.b:0*4 g.w:1", "2 g.w:0*4 g.b:0*4 b.w:1*4", policy=CHANNELS),
    "grouped, auto": case(grouped(), image, "4 a.w:0*3 a.b:0*3 g.w:0*2 g.b:0*2 b.w:1*2"),
    "transposed grouped, groups": case(grouped(True), image, "4 a.w:0*3 a.b:0*3 g.w:0*3 g.b:0*2 b.w:1*2", policy=GROUPS),
    "transposed grouped, channels": case(grouped(True), image, "3 a.w:0*4 a.b:0*4 g.w:0*4", "2 g.w:1 g.b:0*4 b.w:1*4", policy=CHANNELS),
    "depthwise": case(depthwise, image, "6 a.w:0 a.b:0 d.w:0*2 d.b:0*2 b.w:1*2"),
    "depthwise, channels": case(depthwise, image, "6 a.w:0 a.b:0 d.w:0*2 d.b:0*2 b.w:1*2", policy=CHANNELS),
    "resnext, channels": case(
        resnext,
        image,
        "4 a.w:0*3 a.b:0*3 g.w:1 h.w:0*3 h.b:0*3 b.w:1*3",
        "4 g.w:0*3 g.b:0*3 norm.w:0*3 norm.b:0*3 norm.running_mean:0*3 norm.running_var:0*3 h.w:1",
        policy=CHANNELS,
    ),
    "resnext, groups": case(
        resnext,
        image,
        "3 a.w:0*4 a.b:0*4 g.w:0*4 g.b:0*4 norm.w:0*4 norm.b:0*4 norm.running_mean:0*4 norm.running_var:0*4 h.w:0*4 h.b:0*4 b.w:1*4",
        policy=GROUPS,
    ),
    "computed weight": case(standardized, image, "4 a.w:0 a.b:0 w:1", "6 w:0 c:0 b.w:1", zeroed=False),
    "computed weight, doubled": case(doubled(1), image, "6 a.w:0 a.b:0 w:1", "6 w:0 b.w:1"),
    "computed weight, depthwise": case(doubled(6), image, "6 a.w:0 a.b:0 w:0 b.w:1"),
    "masked weight": case(masked_linear, rows, "4 a.w:0 a.b:0 w:1 mask:1", "6 w:0 mask:0 c:0 b.w:1"),
    "linear, rows": case(lambda n=6: lines(lambda m, x: x.sigmoid(), n), rows, f"6 {BETWEEN}"),
    "linear, tokens": case(lambda n=6: lines(lambda m, x: x.sigmoid(), n), tokens, f"6 {BETWEEN}"),
    "linear, maps": case(lambda n=6: lines(lambda m, x: x.sigmoid(), n), lambda batch: (torch.randn(batch, 2, 4, 5),), f"6 {BETWEEN}"),
    "bilinear": case(
        lambda n=6, k=4: Net(lambda m, x: m.b(m.z(m.a(x), m.c(x))), a=nn.Linear(5, n), c=nn.Linear(5, k), z=nn.Bilinear(n, k, 3), b=nn.Linear(3, 2)),
        rows,
        "6 a.w:0 a.b:0 z.w:1",
        "4 c.w:0 c.b:0 z.w:2",
        "3 z.w:0 z.b:0 b.w:1",
    ),
    "shared conv": case(
        lambda n=6: Net(lambda m, x: m.b(m.s(m.s(m.a(x)).sigmoid())), a=conv(3, n), s=conv(n, n), b=conv(n, 2)),
        image,
        "6 a.w:0 a.b:0 s.w:0 s.w:1 s.b:0 b.w:1",
    ),
    "shared linear": case(
        lambda n=6, k=4: Net(lambda m, x: m.b(m.s(m.a(x)) + m.s(m.c(x))), a=nn.Linear(5, n), c=nn.Linear(5, n), s=nn.Linear(n, k), b=nn.Linear(k, 2)),
        rows,
        "6 a.w:0 a.b:0 c.w:0 c.b:0 s.w:1",
        "4 s.w:0 s.b:0 b.w:1",
    ),
    "two heads": case(
        lambda n=6: Net(lambda m, x: (m.b(y := m.a(x).relu()), [m.c(y), x]), a=nn.Linear(5, n), b=nn.Linear(n, 2), c=nn.Linear(n, 3)),
        rows,
        "6 a.w:0 a.b:0 b.w:1 c.w:1",
    ),
    "trunk is put out": case(lambda: Net(lambda m, x: (m.b(y := m.a(x)), y), a=nn.Linear(5, 6), b=nn.Linear(6, 2)), rows),
}

# Products ---------------------------------------------------------------------------------------------------------------------------------


def pairing(product):
    """Two layers whose outputs meet in a product."""
    return lambda n=6: Net(lambda m, x: product(m.a(x), m.b(x)), a=nn.Linear(5, n), b=nn.Linear(5, n))


def linear_attention(n: int = 6, k: int = 4) -> Net:
    def forward(m: Net, x: Tensor) -> Tensor:
        q, k = F.elu(m.q(x)) + 1, F.elu(m.k(x)) + 1
        return m.o((q @ (k.mT @ m.v(x))) / (q * k.sum(1, keepdim=True)).sum(-1, keepdim=True))

    return Net(forward, q=nn.Linear(5, n), k=nn.Linear(5, n), v=nn.Linear(5, k), o=nn.Linear(k, 2))


MEET = "6 a.w:0 a.b:0 b.w:0 b.b:0"
PRODUCTS = {
    "matmul": case(pairing(lambda a, b: a @ b.mT), tokens, MEET),
    "bmm": case(pairing(lambda a, b: torch.bmm(a, b.transpose(1, 2))), tokens, MEET),
    "einsum": case(pairing(lambda a, b: torch.einsum("blc,bmc->blm", a, b)), tokens, MEET),
    "einsum of three": case(pairing(lambda a, b: torch.einsum("blc,bmc,c->bl", a, b, torch.ones(6)[: a.shape[2]])), tokens, MEET),
    "einsum with dots": case(pairing(lambda a, b: torch.einsum("...lc,...mc->...lm", a, b)), tokens),
    "baddbmm": case(pairing(lambda a, b: torch.baddbmm(torch.ones(1, 7, 7), a, b.transpose(1, 2), beta=0.5, alpha=2)), tokens, MEET),
    "baddbmm, no zeros": case(
        pairing(lambda a, b: torch.baddbmm(torch.ones(1, 7, 7), a.sigmoid(), b.sigmoid().transpose(1, 2))), tokens, MEET, zeroed=False
    ),
    "matmul, no zeros": case(pairing(lambda a, b: a.sigmoid() @ b.sigmoid().mT), tokens, MEET, zeroed=False),
    "outer": case(
        lambda n=6, k=4: Net(
            lambda m, x: m.c((m.a(x).mT @ m.b(x)).flatten(1)), a=nn.Linear(5, n), b=nn.Linear(5, 4), c=nn.Linear(n * 4, 2)
        ),
        tokens,
        "6 a.w:0 a.b:0 c.w:1*4",
    ),
    "weight as it is": case(lambda n=6: Net(lambda m, x: (x @ m.p).sigmoid() @ m.q, p=parameter(5, n), q=parameter(n, 2)), tokens, "6 p:1 q:0"),
    "weight on the left": case(
        lambda n=6: Net(lambda m, x: (m.q @ (m.p @ x).sigmoid()), p=parameter(n, 7), q=parameter(2, n)), tokens, "6 p:0 q:1"
    ),
    "weight transposed": case(lambda n=6: Net(lambda m, x: (x @ m.p.t()).sigmoid() @ m.q.T, p=parameter(n, 5), q=parameter(2, n)), rows, "6 p:0 q:1"),
    "weights of experts": case(
        lambda n=6: Net(lambda m, x: ((x[:, None] @ m.p).sigmoid() @ m.q).sum(1), p=parameter(3, 5, n), q=parameter(3, n, 2)),
        tokens,
        "6 p:2 q:1",
        "3 p:0 q:0",
        zeroed=False,
    ),
    "addmm": case(
        lambda n=6: Net(lambda m, x: torch.addmm(m.c, torch.addmm(m.b, x, m.p).sigmoid(), m.q), b=parameter(n), p=parameter(5, n), c=parameter(2), q=parameter(n, 2)),
        rows,
        "6 b:0 p:1 q:0",
    ),
    "addmm, one bias": case(
        lambda n=6: Net(lambda m, x: torch.addmm(m.b, x, m.p).sigmoid() @ m.q, b=parameter(1), p=parameter(5, n), q=parameter(n, 2)),
        rows,
        "6 p:1 q:0",
    ),
    "vector": case(lambda n=6: Net(lambda m, x: m.a(x).sigmoid() @ m.p, a=nn.Linear(5, n), p=parameter(n)), tokens, "6 a.w:0 a.b:0 p:0"),
    "linear attention": case(linear_attention, tokens, "6 q.w:0 q.b:0 k.w:0 k.b:0", "4 v.w:0 v.b:0 o.w:1", zeroed=False),
}

# Attention --------------------------------------------------------------------------------------------------------------------------------

HEADS = "q.w:0{0} q.b:0{0} k.w:0{0} k.b:0{0} v.w:0{0} v.b:0{0} o.w:1{0}"
D = 3  # head size


def merged(y: Tensor) -> Tensor:
    return y.transpose(1, 2).flatten(2)


def attention(inner, shape: bool = False):
    """Four heads of size three; `inner` makes an output of q, k, v (B, N, L, D)."""

    def make(n: int = 4) -> Net:
        def forward(m: Net, x: Tensor) -> Tensor:
            b, length = x.shape[:2]
            q, k, v = (p(x).view(b, length, n, D).transpose(1, 2) if shape else p(x).unflatten(-1, (n, -1)).transpose(1, 2) for p in (m.q, m.k, m.v))
            return m.o(merged(inner(m, q, k, v)))

        parts = {"per_head": torch.randn(n, 7, 7), "bias": parameter(n, 7, 7), "mask": torch.randn(7, 7), "flatbias": parameter(7, 7)}
        return Net(forward, **{p: nn.Linear(5, n * D) for p in "qkv"}, o=nn.Linear(n * D, 2), **parts)

    return make


def sdpa(m: Net, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def by_hand(m: Net, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return ((q @ k.transpose(-2, -1)) * D**-0.5 + m.bias).softmax(-1) @ v


def as_batch(m: Net, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Heads are folded into the batch, as older code does."""
    b, n, length, d = q.shape
    q, k, v = (t.reshape(b * n, length, d) for t in (q, k, v))
    return torch.bmm(torch.baddbmm(m.mask[None], q, k.transpose(1, 2), alpha=0.5).softmax(-1), v).view(b, n, length, d)


def grouped_queries(repeat) -> object:
    def make() -> Net:
        def forward(m: Net, x: Tensor) -> Tensor:
            b, length = x.shape[:2]
            q = m.q(x).view(b, length, 4, D).transpose(1, 2)
            k, v = (p(x).view(b, length, 2, D).transpose(1, 2) for p in (m.k, m.v))
            return m.o(merged(repeat(q, k, v)))

        return Net(forward, q=nn.Linear(5, 4 * D), k=nn.Linear(5, 2 * D), v=nn.Linear(5, 2 * D), o=nn.Linear(4 * D, 2))

    return make


def by_expanding(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    b, n, length, d = k.shape
    k, v = (t[:, :, None].expand(b, n, 2, length, d).reshape(b, 2 * n, length, d) for t in (k, v))
    return F.scaled_dot_product_attention(q, k, v)


def fused(split):
    def make() -> Net:
        return Net(lambda m, x: m.o(merged(F.scaled_dot_product_attention(*split(m.qkv(x))))), qkv=nn.Linear(5, 36), o=nn.Linear(12, 2))

    return make


def stacked(y: Tensor) -> list[Tensor]:
    b, length = y.shape[:2]
    return list(y.view(b, length, 3, 4, D).permute(2, 0, 3, 1, 4).unbind(0))


def in_chunks(y: Tensor) -> list[Tensor]:
    return [part.unflatten(-1, (4, D)).transpose(1, 2) for part in y.chunk(3, -1)]


def in_heads(y: Tensor) -> list[Tensor]:
    b, length = y.shape[:2]
    return list(y.view(b, length, 4, 3 * D).transpose(1, 2).chunk(3, -1))


def rotated(m: Net, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Rotary positions: halves change places."""

    def turn(x: Tensor) -> Tensor:
        a, b = x[..., :2], x[..., 2:]
        return x + torch.cat((-b, a), -1)

    return F.scaled_dot_product_attention(turn(q), turn(k), v)


def rotary(n: int = 4) -> Net:
    def forward(m: Net, x: Tensor) -> Tensor:
        q, k, v = (p(x).unflatten(-1, (n, 4)).transpose(1, 2) for p in (m.q, m.k, m.v))
        return m.o(merged(rotated(m, q, k, v)))

    return Net(forward, **{p: nn.Linear(5, n * 4) for p in "qkv"}, o=nn.Linear(n * 4, 2))


def memory() -> Net:
    """Keys and values that are learned as they are, and one more of each."""

    def forward(m: Net, x: Tensor) -> Tensor:
        q = m.q(x)
        return m.o(F.scaled_dot_product_attention(q, m.k.expand(x.shape[0], -1, -1), m.v.expand(x.shape[0], -1, -1)))

    return Net(forward, q=nn.Linear(5, 6), k=parameter(1, 8, 6), v=parameter(1, 8, 4), o=nn.Linear(4, 2))


def latents() -> Net:
    """Learned queries, averaged."""

    def forward(m: Net, x: Tensor) -> Tensor:
        return m.o(F.scaled_dot_product_attention(m.q.expand(x.shape[0], -1, -1), m.k(x), m.v(x)).mean(1))

    return Net(forward, q=parameter(1, 8, 6), k=nn.Linear(5, 6), v=nn.Linear(5, 4), o=nn.Linear(4, 2))


ALL_HEADS, ALL_SIZES = "4 " + HEADS.format("*3"), "3 " + "q.w:0*4 q.b:0*4 k.w:0*4 k.b:0*4"
VALUES = "3 v.w:0*4 v.b:0*4 o.w:1*4"
FUSED = "4 qkv.w:0*9 qkv.b:0*9 o.w:1*3"
GROUPED = "2 q.w:0*6 q.b:0*6 k.w:0*3 k.b:0*3 v.w:0*3 v.b:0*3 o.w:1*6"
SECOND = (("inputs_0", ((1, "batch"),)),)
LENGTH = (("inputs_0", ((1, "length"),)),)
ATTENTION = {
    "attention": case(attention(sdpa), tokens, ALL_HEADS),
    "attention, dynamic length": case(attention(sdpa, shape=True), tokens, ALL_HEADS, dynamic=LENGTH),
    "attention, head size": case(attention(sdpa), tokens, ALL_SIZES, VALUES, policy=SIZE),
    "attention, causal": case(attention(lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True)), tokens, ALL_HEADS),
    "attention, mask": case(attention(lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v, m.mask)), tokens, ALL_HEADS),
    "attention, learned mask": case(attention(lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v, m.flatbias)), tokens, ALL_HEADS),
    "attention, mask of each head": case(
        attention(lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v, m.per_head)), tokens, ALL_HEADS + " per_head:0"
    ),
    "attention, learned mask of each head": case(
        attention(lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v, m.bias[None])), tokens, ALL_HEADS + " bias:0"
    ),
    "attention by hand": case(attention(by_hand), tokens, ALL_HEADS + " bias:0"),
    "attention by hand, head size": case(attention(by_hand), tokens, ALL_SIZES, VALUES, policy=SIZE),
    "attention in the batch": case(attention(as_batch, shape=True), tokens, ALL_HEADS),
    "attention, rotary": case(rotary, tokens, "4 " + HEADS.format("*4")),
    "attention, rotary, head size": case(
        rotary, tokens, "2 q.w:0*8 q.b:0*8 k.w:0*8 k.b:0*8", "4 v.w:0*4 v.b:0*4 o.w:1*4", policy=SIZE
    ),
    "grouped queries": case(grouped_queries(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True)), tokens, GROUPED),
    "grouped queries, expanded": case(grouped_queries(by_expanding), tokens, GROUPED, dynamic=LENGTH),
    "grouped queries, repeated": case(
        grouped_queries(lambda q, k, v: F.scaled_dot_product_attention(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1))), tokens, GROUPED
    ),
    "grouped queries, tiled": case(
        grouped_queries(lambda q, k, v: F.scaled_dot_product_attention(q, k.repeat(1, 2, 1, 1), v.repeat(1, 2, 1, 1))), tokens, GROUPED
    ),
    "fused, stacked": case(fused(stacked), tokens, FUSED, dynamic=LENGTH),
    "fused, in chunks": case(fused(in_chunks), tokens, FUSED),
    "fused, in heads": case(fused(in_heads), tokens, FUSED, dynamic=LENGTH),
    "fused, stacked, head size": case(fused(stacked), tokens, "3 qkv.w:0*12 qkv.b:0*12 o.w:1*4", policy=SIZE),
    "fused, in chunks, head size": case(fused(in_chunks), tokens, "3 qkv.w:0*8 qkv.b:0*8", "3 qkv.w:0*4 qkv.b:0*4 o.w:1*4", policy=SIZE),
    "fused, in heads, head size": case(fused(in_heads), tokens, "3 qkv.w:0*8 qkv.b:0*8", "3 qkv.w:0*4 qkv.b:0*4 o.w:1*4", policy=SIZE),
    "learned keys": case(memory, tokens, "6 q.w:0 q.b:0 k:2", "4 v:2 o.w:1"),
    "learned queries": case(latents, tokens, "6 q:2 k.w:0 k.b:0", "4 v.w:0 v.b:0 o.w:1", "8 q:1"),
}

# Recurrence and tables --------------------------------------------------------------------------------------------------------------------


def recurrent(kind: type[nn.RNNBase], state: str = "none", first: bool = True, **options):
    """An embedding-like layer, the network, a head; the initial state is left out, made of zeros or learned."""
    places = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    both = 2 if options.get("bidirectional") else 1

    def make(i: int = 3, n: int = 4, p: int | None = None) -> Net:
        shown = n if p is None else p

        def forward(m: Net, x: Tensor) -> Tensor:
            x = m.a(x)
            given = None
            if state != "none":
                batch = x.shape[0] if first else x.shape[1]
                h = torch.zeros(places, batch, shown) if state == "zeros" else m.h.expand(-1, batch, -1).contiguous()
                given = (h, x.new_zeros(places, batch, n)) if kind is nn.LSTM else h
            return m.b(m.rnn(x, given)[0])

        proj = {} if p is None else {"proj_size": p}
        parts = {"h": parameter(places, 1, shown)} if state == "learned" else {}
        return Net(forward, a=nn.Linear(5, i), rnn=kind(i, n, batch_first=first, **options, **proj), b=nn.Linear(both * shown, 2), **parts)

    if options.pop("projected", False):
        return lambda i=3, n=4, p=2: make(i, n, p)
    return lambda i=3, n=4: make(i, n)


def recurrent_groups(gates: int, layers: int = 1, both: bool = False, extra: str = "", bias: bool = True) -> tuple[str, str]:
    ends = ["", "_reverse"] if both else [""]
    times = f"*{gates}" if gates > 1 else ""
    reads = " ".join(f"rnn.weight_ih_l0{end}:1" for end in ends)
    units = []
    for layer in range(layers):
        for end in ends:
            at = f"_l{layer}{end}"
            units += [f"rnn.weight_ih{at}:0{times}", f"rnn.weight_hh{at}:0{times}", f"rnn.weight_hh{at}:1"]
            units += [f"rnn.bias_ih{at}:0{times}", f"rnn.bias_hh{at}:0{times}"] if bias else []
            units += [f"rnn.weight_ih{at}:1" + ("*2" if both else "")] if layer else []
    return f"3 a.w:0 a.b:0 {reads}", f"4 {' '.join(units)} b.w:1" + ("*2" if both else "") + extra


def last_state(kind: type[nn.RNNBase]):
    """The head reads what is left in both layers at the end."""

    def make(n: int = 4) -> Net:
        def forward(m: Net, x: Tensor) -> Tensor:
            h = torch.zeros(2, x.shape[0], n)
            found = m.rnn(x, (h, h) if kind is nn.LSTM else h)[1]
            found = found[0] if kind is nn.LSTM else found
            return m.b(found.transpose(0, 1).reshape(-1, 2 * n))

        return Net(forward, rnn=kind(5, n, num_layers=2, batch_first=True), b=nn.Linear(2 * n, 2))

    return make


def tied(n: int = 6) -> Net:
    net = Net(lambda m, i: m.out(m.mix(m.embed(i)).relu()), embed=nn.Embedding(11, n), mix=nn.Linear(n, n), out=nn.Linear(n, 11, bias=False))
    net.out.weight = net.embed.weight
    return net


def positions(n: int = 6) -> Net:
    """Words, positions, a class token in front."""

    def forward(m: Net, i: Tensor) -> Tensor:
        x = m.words(i) + m.places(torch.arange(i.shape[1]))
        x = torch.cat([m.token.expand(i.shape[0], -1, -1), x], 1) + m.more
        return m.b(x[:, 0])

    return Net(forward, words=nn.Embedding(11, n), places=nn.Embedding(7, n), token=parameter(1, 1, n), more=parameter(1, 8, n), b=nn.Linear(n, 2))


LSTM, GRU, RNN = recurrent_groups(4), recurrent_groups(3), recurrent_groups(1)
RECURRENT = {
    "lstm": case(recurrent(nn.LSTM), tokens, *LSTM),
    "lstm, length first": case(recurrent(nn.LSTM, first=False), lambda batch: (torch.randn(7, batch, 5),), *LSTM, batched=False, dynamic=SECOND),
    "lstm, zeros": case(recurrent(nn.LSTM, "zeros"), tokens, *LSTM),
    "lstm, 2 layers, both ways": case(recurrent(nn.LSTM, num_layers=2, bidirectional=True), tokens, *recurrent_groups(4, 2, True)),
    "lstm, 2 layers, both ways, zeros": case(
        recurrent(nn.LSTM, "zeros", num_layers=2, bidirectional=True), tokens, *recurrent_groups(4, 2, True)
    ),
    "lstm, no bias": case(recurrent(nn.LSTM, bias=False), tokens, *recurrent_groups(4, bias=False)),
    "lstm, projected": case(
        recurrent(nn.LSTM, "zeros", num_layers=2, projected=True),
        tokens,
        LSTM[0],
        "4 "
        + " ".join(f"rnn.{p}_l{i}:0*4" for p in ("weight_ih", "weight_hh", "bias_ih", "bias_hh") for i in (0, 1))
        + " rnn.weight_hr_l0:1 rnn.weight_hr_l1:1",
        "2 rnn.weight_hh_l0:1 rnn.weight_hh_l1:1 rnn.weight_ih_l1:1 rnn.weight_hr_l0:0 rnn.weight_hr_l1:0 b.w:1",
    ),
    "gru": case(recurrent(nn.GRU), tokens, *GRU),
    "gru, 2 layers, both ways, zeros": case(recurrent(nn.GRU, "zeros", num_layers=2, bidirectional=True), tokens, *recurrent_groups(3, 2, True)),
    "gru, learned": case(recurrent(nn.GRU, "learned"), tokens, GRU[0], GRU[1] + " h:2"),
    "gru, learned, 2 layers": case(recurrent(nn.GRU, "learned", num_layers=2), tokens, GRU[0], recurrent_groups(3, 2)[1] + " h:2"),
    "rnn": case(recurrent(nn.RNN), tokens, *RNN),
    "rnn, relu": case(recurrent(nn.RNN, nonlinearity="relu", num_layers=2), tokens, *recurrent_groups(1, 2)),
    "gru, last state": case(last_state(nn.GRU), tokens, recurrent_groups(3, 2)[1].replace("b.w:1", "b.w:1*2")),
    "lstm, last state": case(last_state(nn.LSTM), tokens, recurrent_groups(4, 2)[1].replace("b.w:1", "b.w:1*2")),
    "embedding": case(lambda n=6: Net(lambda m, i: m.b(m.e(i)), e=nn.Embedding(11, n), b=nn.Linear(n, 2)), words, "6 e.w:1 b.w:1"),
    "embedding, tied": case(tied, words, "6 out.w:1 mix.w:0 mix.w:1 mix.b:0"),
    "embedding, positions": case(positions, words, "6 words.w:1 places.w:1 token:2 more:2 b.w:1"),
}
RECURRENT["embedding, tied"] = case(
    lambda n=6, k=6: (net := Net(
        lambda m, i: m.out(m.mix(m.embed(i)).relu() + m.embed(i)), embed=nn.Embedding(11, n), mix=nn.Linear(n, n), out=nn.Linear(n, 11, bias=False)
    ), setattr(net.out, "weight", net.embed.weight))[0],
    words,
    "6 embed.w:1 mix.w:0 mix.w:1 mix.b:0",
)

# Normalization ----------------------------------------------------------------------------------------------------------------------------

RUNNING = "{0}.w:0 {0}.b:0 {0}.running_mean:0 {0}.running_var:0"


def normed(d: int, kind: int, **options):
    conv_d, norm_d = KINDS[d][0], KINDS[d][kind]
    return lambda n=6: Net(lambda m, x: m.b(m.n(m.a(x))), a=conv_d(3, n, 1), n=norm_d(n, **options), b=conv_d(n, 2, 1))


def channels_last(n: int = 6) -> Net:
    """As ConvNeXt has it."""
    return between(lambda m, x: m.n(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), n, n=nn.LayerNorm(n))


def wrap_last(n: int = 6) -> Net:
    return Net(lambda m, x: m.b(m.norm(m.a(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)), a=conv(3, n), norm=nn.LayerNorm(n), b=conv(n, 2))


def group_normed(groups: int, channels: int = 12):
    return lambda: Net(lambda m, x: m.b(m.n(m.a(x)).relu()), a=conv(3, channels), n=nn.GroupNorm(groups, channels), b=conv(channels, 2))


def norm_of_heads() -> Net:
    """A group norm over channels that were heads before."""

    def forward(m: Net, x: Tensor) -> Tensor:
        y = m.a(x).unflatten(-1, (4, 3))
        y = F.scaled_dot_product_attention(y.transpose(1, 2), y.transpose(1, 2), y.transpose(1, 2))
        return m.b(m.n(y.permute(0, 1, 3, 2).flatten(1, 2)).mT)

    return Net(forward, a=nn.Linear(5, 12), n=nn.GroupNorm(4, 12), b=nn.Linear(12, 2))


def rms_by_hand(n: int = 6) -> Net:
    def norm(m: Net, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * m.w

    return lines(norm, n, w=parameter(n))


def moments(n: int = 6) -> Net:
    def norm(m: Net, x: Tensor) -> Tensor:
        var, mean = torch.var_mean(x, 1, keepdim=True, correction=0)
        return (x - mean) / (var + 1e-3).sqrt()

    return between(norm, n)


GN = "n.w:0{0} n.b:0{0}"
NORMS = {
    **{f"batch norm {d}d": case(normed(d, 2), volume(d), f"6 {BETWEEN} {RUNNING.format('n')}") for d in (1, 2, 3)},
    "batch norm, rows": case(lambda n=6: lines(lambda m, x: m.n(x), n, n_=None) if False else Net(lambda m, x: m.b(m.n(m.a(x))), a=nn.Linear(5, n), n=nn.BatchNorm1d(n), b=nn.Linear(n, 2)), rows, f"6 {BETWEEN} {RUNNING.format('n')}"),
    "batch norm, plain": case(normed(2, 2, affine=False), image, f"6 {BETWEEN} n.running_mean:0 n.running_var:0"),
    "instance norm": case(normed(2, 3), image, f"6 {BETWEEN}"),
    "instance norm, affine": case(normed(2, 3, affine=True), image, f"6 {BETWEEN} n.w:0 n.b:0"),
    "layer norm": case(lambda n=6: Net(lambda m, x: m.b(m.n(m.a(x))), a=nn.Linear(5, n), n=nn.LayerNorm(n), b=nn.Linear(n, 2)), tokens, f"6 {BETWEEN} n.w:0 n.b:0", zeroed=False),
    "layer norm, plain": case(lambda n=6: lines(lambda m, x: F.layer_norm(x, x.shape[-1:]), n), tokens, f"6 {BETWEEN}", zeroed=False),
    "layer norm, no bias": case(lambda n=6: Net(lambda m, x: m.b(m.n(m.a(x))), a=nn.Linear(5, n), n=nn.LayerNorm(n, bias=False), b=nn.Linear(n, 2)), tokens, f"6 {BETWEEN} n.w:0", zeroed=False),
    "layer norm, maps": case(lambda n=6: Net(lambda m, x: m.b(m.n(m.a(x))), a=conv(3, n), n=nn.LayerNorm([n, 6, 6]), b=conv(n, 2)), image, f"6 {BETWEEN} n.w:0 n.b:0", zeroed=False),
    "layer norm, channels last": case(wrap_last, image, f"6 {BETWEEN} norm.w:0 norm.b:0", zeroed=False),
    "rms norm": case(lambda n=6: Net(lambda m, x: m.b(m.n(m.a(x))), a=nn.Linear(5, n), n=nn.RMSNorm(n), b=nn.Linear(n, 2)), tokens, f"6 {BETWEEN} n.w:0", zeroed=False),
    "rms norm by hand": case(rms_by_hand, tokens, f"6 {BETWEEN} w:0", zeroed=False),
    "moments": case(moments, image, f"6 {BETWEEN}", zeroed=False),
    "group norm, auto": case(group_normed(4), image, "4 a.w:0*3 a.b:0*3 b.w:1*3 " + GN.format("*3")),
    "group norm, groups": case(group_normed(3), image, "3 a.w:0*4 a.b:0*4 b.w:1*4 " + GN.format("*4"), policy=GROUPS),
    "group norm, channels": case(group_normed(3), image, "4 a.w:0*3 a.b:0*3 b.w:1*3 " + GN.format("*3"), policy=CHANNELS, zeroed=False),
    "group norm, one group": case(lambda n=6: Net(lambda m, x: m.b(m.n(m.a(x)).relu()), a=conv(3, n), n=nn.GroupNorm(1, n), b=conv(n, 2)), image, f"6 {BETWEEN} n.w:0 n.b:0", zeroed=False),
    "group norm, each channel": case(group_normed(6, 6), image, f"6 {BETWEEN} n.w:0 n.b:0"),
    "group norm of heads": case(norm_of_heads, tokens, "4 a.w:0*3 a.b:0*3 n.w:0*3 n.b:0*3 b.w:1*3"),
}
CASES = {**LAYERS, **PRODUCTS, **ATTENTION, **RECURRENT, **NORMS}
