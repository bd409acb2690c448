"""Surgery behind merged dimensions (batch · heads): what holds at the example's batch must hold at every other, and at every length."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laconic.core.capture import capture
from laconic.pruning.coupling import couple
from laconic.pruning.proof import prove, random_choice
from laconic.pruning.surgery import remove
from tests.pruning.families.common import LENGTH, conv
from tests.pruning.nets import CAPTURED, Net, difference, parameter, randomized, tokens, zeroed

N, D = 4, 6  # heads, head size: as many heads as examples at capture
Middle = Callable[[Net, Tensor, int, int], Tensor]  # net, (B · N, L, D), B, L to the same shape


def merged(middle: Middle) -> Net:
    """Attention over (B · N, L, D), and something behind it."""

    def forward(m: Net, x: Tensor) -> Tensor:
        b, length = x.shape[:2]
        q, k = (part(x).view(b, length, N, D).transpose(1, 2).reshape(b * N, length, D) for part in (m.a, m.k))
        y = middle(m, (q @ k.transpose(1, 2)).softmax(-1) @ q, b, length)
        return m.b(y.reshape(b, N, length, D).transpose(1, 2).reshape(b, length, N * D))

    return Net(forward, a=nn.Linear(5, N * D), k=nn.Linear(5, N * D), b=nn.Linear(N * D, 2), table=parameter(N, D), row=parameter(1, D))


GOES: dict[str, Middle] = {
    "slice, all": lambda m, y, b, n: y[:, :, :],
    "slice, of length": lambda m, y, b, n: y[:, 1:].repeat(1, 2, 1)[:, :n],
    "slice, up to its size": lambda m, y, b, n: y[: y.shape[0]],
    "slice, up to the product": lambda m, y, b, n: torch.ops.aten.slice(y, 0, 0, b * N),
    "slice, no end": lambda m, y, b, n: torch.ops.aten.slice(y, 0, 0, sys.maxsize),
    "slice, a step of one": lambda m, y, b, n: y[::1, :n, :D],
    "narrow": lambda m, y, b, n: y.narrow(0, 0, y.shape[0]),
    "narrow, product": lambda m, y, b, n: y.narrow(0, 0, b * N),
    "view by its size": lambda m, y, b, n: y.view(y.shape[0], -1).view(y.shape[0], n, D),
    "expand": lambda m, y, b, n: y.unsqueeze(1).expand(b * N, 3, n, D).sum(1),
    "expand, own size": lambda m, y, b, n: y.unsqueeze(1).expand(y.shape[0], 3, n, D).sum(1),
    "repeat": lambda m, y, b, n: y.repeat(2, 1, 1).view(2, b * N, n, D).sum(0),
    "mask, repeated": lambda m, y, b, n: y * torch.ones(b, 1, n).repeat(1, N, 1).view(b * N, n, 1),
    "mask, expanded": lambda m, y, b, n: y * torch.ones(b, 1, n, 1).expand(b, N, n, 1).reshape(b * N, n, 1),
    "split": lambda m, y, b, n: torch.cat(y.split([2, 4], -1)[::-1], -1),
    "chunk": lambda m, y, b, n: torch.cat(y.chunk(2, -1)[::-1], -1),
    "unflatten": lambda m, y, b, n: (y.unflatten(0, (b, N)) * 2).flatten(0, 1),
    "unflatten, by its size": lambda m, y, b, n: (y.unflatten(0, (y.shape[0] // N, N)) * 2).flatten(0, 1),
    "pad and cut": lambda m, y, b, n: F.pad(y, (0, 1, 1, 0))[:, :n, :D],
    "view_as": lambda m, y, b, n: (y.reshape(b * N * n, D) * 2).view_as(y),
}
STAYS: dict[str, Middle] = {
    "arange": lambda m, y, b, n: y * (1 + torch.arange(y.shape[0]))[:, None, None],
    "index": lambda m, y, b, n: y[torch.arange(b * N)],
    "table by index": lambda m, y, b, n: y + m.table[torch.arange(b * N) % N][:, None],
    "ones": lambda m, y, b, n: y + torch.ones(y.shape[0], n, D),
    "expanded parameter": lambda m, y, b, n: y + m.row[None].expand(b * N, -1, -1),
    "repeated parameter": lambda m, y, b, n: y + m.row[None].repeat(y.shape[0], 1, 1),
    "flip": lambda m, y, b, n: y.flip(0),
    "padded heads": lambda m, y, b, n: F.pad(y, (0, 0, 0, 0, 1, 0))[1:],
    "halves": lambda m, y, b, n: torch.cat([y[2 * b :], y[: 2 * b]], 0),
    "part as long as the example": lambda m, y, b, n: y + y[: CAPTURED * N].mean(0, keepdim=True),
}


@pytest.mark.parametrize(
    ("name", "dynamic"),
    [*((name, dynamic) for name in GOES for dynamic in (False, True)), *((name, True) for name in STAYS)],
    ids=lambda value: value if isinstance(value, str) else ("length fixed", "length dynamic")[value],
)
@torch.no_grad()
def test_other_batches_and_lengths_compute_the_same(name: str, dynamic: bool) -> None:
    torch.manual_seed(0)
    module = randomized(merged({**GOES, **STAYS}[name]))
    program = capture(module, tokens(CAPTURED), dynamic={key: dict(dims) for key, dims in LENGTH} if dynamic else {})
    coupling = couple(program)
    assert bool(coupling.groups) == (name in GOES)
    keep = random_choice(coupling, 0.5, seed=3)
    pruned, expected = remove(coupling, keep), zeroed(module, coupling, keep)
    for batch, length in [(1, 7), (2, 7), (3, 7), (7, 7), *([(3, 5), (5, 11)] if dynamic else [])]:
        x = torch.randn(batch, length, 5)
        assert difference(pruned(x), expected(x)) < 1e-5
    if coupling.groups:
        assert prove(coupling, keep, pruned).difference < 1e-5


def bottleneck_attention(side: int = 4) -> Net:
    """BoTNet's attention (Srinivas et al. 2021): heads merged into the batch, positions relative in both directions (pad, flatten, slice)."""

    def relative(q: Tensor, table: Tensor) -> Tensor:
        """q (B · N, H, W, D), table (2 W − 1, D) to (B · N, H, W, W)."""
        bn, h, w, _ = q.shape
        x = (q @ table.T).reshape(-1, w, 2 * w - 1)
        x = F.pad(F.pad(x, (0, 1)).flatten(1), (0, w - 1)).reshape(-1, w + 1, 2 * w - 1)
        return x[:, :w, w - 1 :].reshape(bn, h, w, w)

    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.a(x).relu()
        b, h, w = x.shape[0], x.shape[2], x.shape[3]
        q, k, v = (part(x).reshape(b * N, D, h * w) for part in (m.q, m.k, m.v))
        logits = q.transpose(1, 2) @ k
        pixels = q.transpose(1, 2).reshape(b * N, h, w, D)
        across = relative(pixels, m.columns)[:, :, None].expand(-1, -1, h, -1, -1).permute(0, 1, 3, 2, 4)
        down = relative(pixels.transpose(1, 2), m.rows)[:, :, None].expand(-1, -1, w, -1, -1).permute(0, 3, 1, 4, 2)
        logits = logits + across.reshape(b * N, h * w, h * w) + down.reshape(b * N, h * w, h * w)
        out = (v @ logits.softmax(-1).transpose(1, 2))[:, :, :].reshape(b, N * D, h, w)
        return m.last(m.b(out).relu())

    tables = {name: parameter(2 * side - 1, D) for name in ("rows", "columns")}
    return Net(forward, a=conv(3, 8), q=conv(8, N * D), k=conv(8, N * D), v=conv(8, N * D), b=conv(N * D, 6), last=conv(6, 2), **tables)


def halo_attention(block: int = 2, halo: int = 1) -> Net:
    """HaloNet's attention (Vaswani et al. 2021): blocks and heads merged into the batch, windows by `unfold`."""
    window = block + 2 * halo

    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.a(x).relu()
        b, h, w = x.shape[0], x.shape[2], x.shape[3]
        rows, columns = h // block, w // block
        q = (
            m.q(x)
            .reshape(-1, D, rows, block, columns, block)
            .permute(0, 1, 3, 5, 2, 4)
            .reshape(b * N, D, -1, rows * columns)
            .transpose(1, 3)
        )
        kv = F.pad(m.kv(x), (halo,) * 4).unfold(2, window, block).unfold(3, window, block)
        kv = kv.reshape(b * N, 2 * D, rows * columns, -1).permute(0, 2, 3, 1)
        k, v = kv.split([D, D], -1)
        out = ((q @ k.transpose(-1, -2)) * D**-0.5).softmax(-1) @ v
        out = out[:, :, :].transpose(1, 3).reshape(-1, block, block, rows, columns).permute(0, 3, 1, 4, 2)
        return m.last(m.b(out.reshape(b, N * D, h, w)).relu())

    return Net(forward, a=conv(3, 8), q=conv(8, N * D), kv=conv(8, 2 * N * D), b=conv(N * D, 6), last=conv(6, 2))


@pytest.mark.parametrize("make", [bottleneck_attention, halo_attention], ids=lambda make: make.__name__)
@torch.no_grad()
def test_attention_over_pixels_at_every_batch(make: Callable[[], Net]) -> None:
    torch.manual_seed(0)
    module = randomized(make())
    coupling = couple(capture(module, torch.randn(2, 3, 4, 4)))
    assert {"a", "b"} <= {group.name for group in coupling.groups}
    keep = random_choice(coupling, 0.5, seed=1)
    pruned, expected = remove(coupling, keep), zeroed(module, coupling, keep)
    for batch in (1, 2, 3, 5, 8):
        x = torch.randn(batch, 3, 4, 4)
        assert difference(pruned(x), expected(x)) < 1e-5
    assert prove(coupling, keep, pruned).difference < 1e-5
