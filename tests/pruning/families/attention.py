"""Attention, in the ways in which people write it."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.pruning.families.common import LENGTH, SIZE
from tests.pruning.nets import Net, case, parameter, sentences, tokens

D = 3  # head size
Inner = Callable[[Net, Tensor, Tensor, Tensor], Tensor]
Make = Callable[..., Net]


def merged(y: Tensor) -> Tensor:
    """(B, N, L, D) to (B, L, N · D)."""
    return y.transpose(1, 2).flatten(2)


def attention(inner: Inner, view: bool = False, bias: bool = False, **shapes: tuple[int, ...]) -> Make:
    """Four heads of size three; `inner` makes an output of q, k, v (B, N, L, D). A bias has a matrix for each head."""

    def make(n: int = 4) -> Net:
        def forward(m: Net, x: Tensor) -> Tensor:
            b, length = x.shape[:2]
            parts = [m.q(x), m.k(x), m.v(x)]
            q, k, v = (p.view(b, length, n, D) if view else p.unflatten(-1, (n, -1)) for p in parts)
            return m.o(merged(inner(m, q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))))

        layers: dict[str, nn.Module] = {p: nn.Linear(5, n * D) for p in "qkv"}
        tensors = {"bias": parameter(n, 7, 7)} if bias else {}
        return Net(forward, **layers, o=nn.Linear(n * D, 2), **tensors, **{name: parameter(*shape) for name, shape in shapes.items()})

    return make


def any_size(make: Make) -> Make:
    """Without an argument: what is pruned are no heads."""
    return lambda: make()


def sdpa(m: Net, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def by_hand(m: Net, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return ((q @ k.transpose(-2, -1)) * D**-0.5 + m.bias).softmax(-1) @ v


def padded(m: Net, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Keys that are padding have a weight of minus infinity, said for each head, as PyTorch's encoder does."""
    mask = torch.where(torch.arange(7) < 2, -torch.inf, 0.0)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask.expand(*q.shape[:2], 7, 7))


def as_batch(m: Net, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Heads are folded into the batch, as older code does."""
    b, n, length, d = q.shape
    q, k, v = (t.reshape(b * n, length, d) for t in (q, k, v))
    return torch.bmm(torch.baddbmm(m.mask[None], q, k.transpose(1, 2), alpha=0.5).softmax(-1), v).view(b, n, length, d)


def as_batch_unsaid(m: Net, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same; the length follows from the rest, so the number of heads in all examples must be right."""
    b, n, _, d = q.shape
    q, k, v = (t.reshape(b * n, -1, d) for t in (q, k, v))
    return torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(-1), v).view(b, n, -1, d)


def relative(m: Net, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Positions relative to each other choose rows of a table, one column for each head (Swin, T5)."""
    places = torch.arange(7)
    bias = m.table[(places[:, None] - places[None] + 6).flatten()].view(7, 7, -1).permute(2, 0, 1)
    return F.scaled_dot_product_attention(q, k, v, bias[None])


def swin(n: int = 4) -> Net:
    net = attention(relative)(n)
    net.table = parameter(13, n)
    return net


def rotary(n: int = 4) -> Net:
    """Halves of the head size change places."""

    def turn(x: Tensor) -> Tensor:
        return x + torch.cat((-x[..., 2:], x[..., :2]), -1)

    def forward(m: Net, x: Tensor) -> Tensor:
        q, k, v = (p(x).unflatten(-1, (n, 4)).transpose(1, 2) for p in (m.q, m.k, m.v))
        return m.o(merged(F.scaled_dot_product_attention(turn(q), turn(k), v)))

    layers: dict[str, nn.Module] = {p: nn.Linear(5, n * 4) for p in "qkv"}
    return Net(forward, **layers, o=nn.Linear(n * 4, 2))


def rotary_pairs(n: int = 4) -> Net:
    """Pairs of neighbors are turned; there are as many of them as heads, or more (GPT-J, RoFormer)."""

    def turn(x: Tensor) -> Tensor:
        x = x.view(*x.shape[:2], n, 4, 2)
        p, q = x[..., 0], x[..., 1]
        return torch.stack([0.6 * p - 0.8 * q, 0.8 * p + 0.6 * q], -1).flatten(3).transpose(1, 2)

    def forward(m: Net, x: Tensor) -> Tensor:
        v = m.v(x).unflatten(-1, (n, 8)).transpose(1, 2)
        return m.o(merged(F.scaled_dot_product_attention(turn(m.q(x)), turn(m.k(x)), v)))

    layers: dict[str, nn.Module] = {p: nn.Linear(5, n * 8) for p in "qkv"}
    return Net(forward, **layers, o=nn.Linear(n * 8, 2))


def normed_heads(n: int = 4) -> Net:
    """Queries and keys are normalized, each head temperate (Swin v2)."""

    def forward(m: Net, x: Tensor) -> Tensor:
        q, k, v = (p(x).unflatten(-1, (n, D)).transpose(1, 2) for p in (m.q, m.k, m.v))
        seen = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * m.temperature.exp()).softmax(-1)
        return m.o(merged(seen @ v))

    layers: dict[str, nn.Module] = {p: nn.Linear(5, n * D) for p in "qkv"}
    return Net(forward, **layers, o=nn.Linear(n * D, 2), temperature=parameter(n, 1, 1))


def grouped_queries(inner: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Make:
    """Four heads of queries for two of keys and values."""

    def make(n: int = 2) -> Net:
        def forward(m: Net, x: Tensor) -> Tensor:
            b, length = x.shape[:2]
            q = m.q(x).view(b, length, 2 * n, D).transpose(1, 2)
            k, v = (p(x).view(b, length, n, D).transpose(1, 2) for p in (m.k, m.v))
            return m.o(merged(inner(q, k, v)))

        return Net(forward, q=nn.Linear(5, 2 * n * D), k=nn.Linear(5, n * D), v=nn.Linear(5, n * D), o=nn.Linear(2 * n * D, 2))

    return make


def enabled(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)


def expanded(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    b, n, length, d = k.shape
    k, v = (t[:, :, None].expand(b, n, 2, length, d).reshape(b, 2 * n, length, d) for t in (k, v))
    return F.scaled_dot_product_attention(q, k, v)


def repeated(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1))


def tiled(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k.repeat(1, 2, 1, 1), v.repeat(1, 2, 1, 1))


def one_key_head() -> Net:
    """All heads of queries share one of keys and values, which is broadcast."""

    def forward(m: Net, x: Tensor) -> Tensor:
        q = m.q(x).unflatten(-1, (4, D)).transpose(1, 2)
        return m.o(merged((q @ m.k(x)[:, None].mT).softmax(-1) @ m.v(x)[:, None]))

    return Net(forward, q=nn.Linear(5, 4 * D), k=nn.Linear(5, D), v=nn.Linear(5, D), o=nn.Linear(4 * D, 2))


def fused(split: Callable[[Tensor, int], list[Tensor]]) -> Make:
    def make(n: int = 4) -> Net:
        layers = {"qkv": nn.Linear(5, 3 * n * D), "o": nn.Linear(n * D, 2)}
        return Net(lambda m, x: m.o(merged(F.scaled_dot_product_attention(*split(m.qkv(x), n)))), **layers)

    return make


def stacked(y: Tensor, n: int) -> list[Tensor]:
    return list(y.view(*y.shape[:2], 3, n, D).permute(2, 0, 3, 1, 4).unbind(0))


def in_chunks(y: Tensor, n: int) -> list[Tensor]:
    return [part.unflatten(-1, (n, D)).transpose(1, 2) for part in y.chunk(3, -1)]


def in_heads(y: Tensor, n: int) -> list[Tensor]:
    return list(y.view(*y.shape[:2], n, 3 * D).transpose(1, 2).chunk(3, -1))


def pytorchs(n: int = 4, weights: bool = False) -> Net:
    """`nn.MultiheadAttention`, with its weights put out or not."""
    net = Net(lambda m, x: m.t(x, x, x, need_weights=weights), t=nn.MultiheadAttention(12, n, batch_first=True))
    return (
        net
        if weights
        else Net(lambda m, x: m.b(m.t(m.a(x), m.a(x), m.a(x), need_weights=False)[0]), t=net.t, a=nn.Linear(5, 12), b=nn.Linear(12, 2))
    )


def memory(n: int = 6, k: int = 4) -> Net:
    """Keys and values that are learned as they are: softmax sees all of them."""

    def forward(m: Net, x: Tensor) -> Tensor:
        return m.o(F.scaled_dot_product_attention(m.q(x), m.k.expand(x.shape[0], -1, -1), m.v.expand(x.shape[0], -1, -1)))

    return Net(forward, q=nn.Linear(5, n), k=parameter(1, 8, n), v=parameter(1, 8, k), o=nn.Linear(k, 2))


def latents() -> Net:
    """Learned queries, averaged in the end: of them, too, some can go. The scale knows the head size, so the module itself is no smaller twin."""

    def forward(m: Net, x: Tensor) -> Tensor:
        return m.o(F.scaled_dot_product_attention(m.q.expand(x.shape[0], -1, -1), m.k(x), m.v(x)).mean(1))

    return Net(forward, q=parameter(1, 8, 6), k=nn.Linear(5, 6), v=nn.Linear(5, 4), o=nn.Linear(4, 2))


HEADS = "q.w:0{0} q.b:0{0} k.w:0{0} k.b:0{0} v.w:0{0} v.b:0{0} o.w:1{0}"
ALL = "4 " + HEADS.format("*3")
SIZES = ("3 q.w:0*4 q.b:0*4 k.w:0*4 k.b:0*4", "3 v.w:0*4 v.b:0*4 o.w:1*4")
FUSED = "4 qkv.w:0*9 qkv.b:0*9 o.w:1*3"
FUSED_SIZES = ("3 qkv.w:0*8 qkv.b:0*8", "3 qkv.w:0*4 qkv.b:0*4 o.w:1*4")
GROUPED = "2 q.w:0*6 q.b:0*6 k.w:0*3 k.b:0*3 v.w:0*3 v.b:0*3 o.w:1*6"


def with_mask(name: str) -> Inner:
    return lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v, getattr(m, name))


CASES = {
    "attention": case(attention(sdpa), tokens, ALL),
    "attention, dynamic length": case(attention(sdpa, view=True), sentences, ALL, dynamic=LENGTH),
    "attention, head size": case(any_size(attention(sdpa)), tokens, *SIZES, policy=SIZE),
    "attention, causal": case(attention(lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True)), tokens, ALL),
    "attention, learned mask": case(attention(with_mask("mask"), mask=(7, 7)), tokens, ALL),
    "attention, padding": case(attention(padded), tokens, ALL),
    "attention, mask of each head": case(attention(with_mask("bias"), bias=True), tokens, ALL + " bias:0"),
    "attention, relative positions": case(swin, tokens, ALL + " table:1"),
    "attention, by hand": case(attention(by_hand, bias=True), tokens, ALL + " bias:0"),
    "attention, by hand, head size": case(any_size(attention(by_hand, bias=True)), tokens, *SIZES, policy=SIZE),
    "attention, in the batch": case(attention(as_batch, view=True, mask=(7, 7)), tokens, ALL),
    "attention, in the batch, length unsaid": case(attention(as_batch_unsaid, view=True), sentences, ALL, dynamic=LENGTH),
    "attention, rotary": case(rotary, tokens, "4 " + HEADS.format("*4")),
    "attention, rotary pairs": case(rotary_pairs, tokens, "4 " + HEADS.format("*8")),
    "attention, rotary, head size": case(
        any_size(rotary), tokens, "2 q.w:0*8 q.b:0*8 k.w:0*8 k.b:0*8", "4 v.w:0*4 v.b:0*4 o.w:1*4", policy=SIZE
    ),
    "attention, normed heads": case(normed_heads, tokens, ALL + " temperature:0"),
    "attention, normed heads, head size": case(any_size(normed_heads), tokens, *SIZES, policy=SIZE),
    "attention, PyTorch's": case(
        lambda: pytorchs(),
        tokens,
        "4 t.in_proj_weight:0*9 t.in_proj_bias:0*9 t.out_proj.w:1*3",
        "12 a.w:0 a.b:0 t.in_proj_weight:1",
        "12 t.out_proj.w:0 t.out_proj.b:0 b.w:1",
    ),
    "attention, PyTorch's with weights": case(
        lambda: pytorchs(weights=True),
        lambda batch: (torch.randn(batch, 7, 12),),
        "4 t.in_proj_weight:0*9 t.in_proj_bias:0*9 t.out_proj.w:1*3",
        zeroed=False,
    ),
    "grouped queries": case(grouped_queries(enabled), tokens, GROUPED),
    "grouped queries, expanded": case(grouped_queries(expanded), sentences, GROUPED, dynamic=LENGTH),
    "grouped queries, repeated": case(grouped_queries(repeated), tokens, GROUPED),
    "grouped queries, tiled": case(grouped_queries(tiled), tokens, GROUPED),
    "one head of keys": case(one_key_head, tokens, "4 q.w:0*3 q.b:0*3 o.w:1*3"),
    "one head of keys, head size": case(one_key_head, tokens, "3 q.w:0*4 q.b:0*4 k.w:0 k.b:0", "3 v.w:0 v.b:0 o.w:1*4", policy=SIZE),
    "fused, stacked": case(fused(stacked), sentences, FUSED, dynamic=LENGTH),
    "fused, stacked, two heads": case(lambda: fused(stacked)(2), tokens, "2 qkv.w:0*9 qkv.b:0*9 o.w:1*3"),
    "fused, in chunks": case(fused(in_chunks), tokens, FUSED),
    "fused, in heads": case(fused(in_heads), sentences, FUSED, dynamic=LENGTH),
    "fused, stacked, head size": case(any_size(fused(stacked)), tokens, "3 qkv.w:0*12 qkv.b:0*12 o.w:1*4", policy=SIZE),
    "fused, in chunks, head size": case(any_size(fused(in_chunks)), tokens, *FUSED_SIZES, policy=SIZE),
    "fused, in heads, head size": case(any_size(fused(in_heads)), tokens, *FUSED_SIZES, policy=SIZE),
    "learned keys": case(any_size(memory), tokens, "6 q.w:0 q.b:0 k:2", "4 v:2 o.w:1"),
    "learned queries": case(latents, tokens, "6 q:2 k.w:0 k.b:0", "4 v.w:0 v.b:0 o.w:1", "8 q:1", zeroed=False),
}
