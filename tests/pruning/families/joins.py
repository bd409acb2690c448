"""What joins dimensions, takes them apart and picks from them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.pruning.families.common import AB, LENGTH, between, conv, lines
from tests.pruning.nets import Net, case, image, parameter, sentences, tokens

Make = Callable[..., Net]


def dense(n: int = 6, k: int = 4) -> Net:
    """What is concatenated is read twice, as in DenseNet."""

    def forward(m: Net, x: Tensor) -> Tensor:
        a = m.a(x)
        return m.b(torch.cat([a, m.c(a.sigmoid()), x], 1))

    return Net(forward, a=conv(3, n), c=conv(n, k), b=conv(n + k + 3, 2))


def with_constants() -> Net:
    """Coordinates beside the channels (CoordConv)."""

    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.a(x)
        return m.b(torch.cat([m.places.expand(x.shape[0], -1, -1, -1), x, torch.zeros(x.shape[0], 2, 6, 6)], 1))

    return Net(forward, a=conv(3, 6), b=conv(10, 2), places=torch.randn(1, 2, 6, 6))


def joined_in_length() -> Net:
    """A learned prompt in front of the tokens, of which some can go: their channels meet."""

    def forward(m: Net, x: Tensor) -> Tensor:
        x = torch.cat([m.prompt.expand(x.shape[0], -1, -1), m.a(x)], 1)
        return m.b(x).mean(1)

    return Net(forward, a=nn.Linear(5, 6), prompt=parameter(1, 2, 6), b=nn.Linear(6, 2))


def stacked(n: int = 6) -> Net:
    def forward(m: Net, x: Tensor) -> Tensor:
        return m.b(torch.stack([m.a(x), m.c(x)], -1).flatten(-2))

    return Net(forward, a=nn.Linear(5, n), c=nn.Linear(5, n), b=nn.Linear(2 * n, 2))


def parts(take: Callable[[Tensor], list[Tensor]]) -> Make:
    """One layer makes what two others read."""

    def forward(m: Net, x: Tensor) -> Tensor:
        first, second = take(m.a(x).sigmoid())
        return m.b(first) + m.c(second)

    return lambda n=4, k=6: Net(forward, a=nn.Linear(5, n + k), b=nn.Linear(n, 2), c=nn.Linear(k, 2))


def gate_in_front(n: int = 6) -> Net:
    """Channel 0 weighs all others: it must stay."""
    return between(lambda m, x: x * x[:, :1].sigmoid(), n)


def single_slices() -> Net:
    """Products of single channels that are read as such."""
    return between(lambda m, x: torch.cat([x, x[:, :1] * x[:, 1:2]], 1), 6, 7)


def half_through(n: int = 4) -> Net:
    """Half of the channels goes round, as in CSPNet and ShuffleNet V2."""

    def forward(m: Net, x: Tensor) -> Tensor:
        left, right = m.a(x).chunk(2, 1)
        return m.b(torch.cat([left, m.c(right)], 1))

    return Net(forward, a=conv(3, 2 * n), c=conv(n, n), b=conv(2 * n, 2))


def shifted() -> Net:
    """Channels are shifted against each other in time (TSM)."""
    return lines(lambda m, x: torch.cat([F.pad(x[:, 1:, :2], (0, 0, 0, 1)), x[:, :, 2:]], 2))


def averaged_piece() -> Net:
    """Of the first channels some must be left, or their mean is no number."""
    return between(lambda m, x: x * x[:, :2].mean(1, keepdim=True), 6)


def averaged_part() -> Net:
    """The same with split."""
    return lines(lambda m, x: x * x.split([4, 6], -1)[1].mean(-1, keepdim=True), 10)


def shortcut() -> Net:
    """More channels than before: the shortcut is padded with zeros, as in the first ResNet for CIFAR."""

    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.a(x).relu()
        return m.b(F.pad(x, (0, 0, 0, 0, 1, 2)) + m.c(x))

    return Net(forward, a=conv(3, 4), c=conv(4, 7), b=conv(7, 2))


def cropped() -> Net:
    """Negative padding takes channels away."""
    return between(lambda m, x: F.pad(x, (0, 0, 0, 0, -2, 1), value=1.0), 6, 5)


def written() -> Net:
    """Some channels are overwritten in place by what another layer makes."""

    def forward(m: Net, x: Tensor) -> Tensor:
        y = m.a(x).clone()
        y[:, 1:4] = m.c(x)
        return m.b(y)

    return Net(forward, a=conv(3, 6), c=conv(3, 3), b=conv(6, 2))


def written_at() -> Net:
    """The same at places in a list."""

    def forward(m: Net, x: Tensor) -> Tensor:
        y = m.a(x).clone()
        y[:, torch.tensor([0, 2])] = m.c(x)
        return m.b(y)

    return Net(forward, a=conv(3, 6), c=conv(3, 2), b=conv(6, 2))


def zeroed_in_place(n: int = 6) -> Net:
    """A border is set to zero."""

    def zero(m: Net, x: Tensor) -> Tensor:
        x = x.clone()
        x[..., 0] = 0
        return x

    return between(zero, n)


def chosen() -> Net:
    """A buffer says which channels are read; the list itself gets shorter."""
    return between(lambda m, x: x[:, m.which], 6, 6, which=torch.tensor([3, 1, 4, 1, 5, 0]))


def picked(n: int = 6) -> Net:
    """Tokens at given places."""
    return lines(lambda m, x: x[:, torch.tensor([3, 1])], n)


def gathered(n: int = 6) -> Net:
    def pick(m: Net, x: Tensor) -> Tensor:
        return x.gather(1, m.where.expand(x.shape[0], -1, x.shape[2]))

    return lines(pick, n, where=torch.tensor([[[3], [1]]]))


def of_two_tensors(n: int = 6) -> Net:
    """Rows of a table, at (row, column) pairs."""

    def forward(m: Net, x: Tensor) -> Tensor:
        return m.b(m.a(x) + m.table[m.i, m.j])

    return Net(forward, a=nn.Linear(5, n), b=nn.Linear(n, 2), table=parameter(3, 3, n), i=torch.arange(7) % 3, j=torch.arange(7) // 3)


PARTS = ("4 a.w:0 a.b:0 b.w:1", "6 a.w:0 a.b:0 c.w:1")


def masked_write(n: int = 6) -> Net:
    """A mask over examples and tokens decides what is overwritten."""

    def forward(m: Net, x: Tensor) -> Tensor:
        y = m.a(x).clone()
        y[x[..., 0] > 0] = 0.0
        return m.b(y)

    return Net(forward, a=nn.Linear(5, n), b=nn.Linear(n, 2))


def flat_view(n: int = 6) -> Net:
    """A slice of one channel that becomes a dimension less."""
    return between(lambda m, x: x * x[:, :1].flatten(1).view(-1, 1, 6, 6), n)


CASES = {
    "hstack, vstack": case(
        lambda n=6, k=4: Net(
            lambda m, x: m.b(torch.vstack([torch.hstack([m.a(x), m.c(x)])] * 2)), a=conv(3, n), c=conv(3, k), b=conv(n + k, 2)
        ),
        image,
        "6 a.w:0 a.b:0 b.w:1",
        "4 c.w:0 c.b:0 b.w:1",
    ),
    "write under a mask": case(masked_write, tokens, AB),
    "one channel, in another view": case(lambda: flat_view(), image, "5 a.w:0 a.b:0 b.w:1"),
    "cat": case(dense, image, "6 a.w:0 a.b:0 b.w:1 c.w:1", "4 c.w:0 c.b:0 b.w:1"),
    "cat, constants": case(with_constants, image, AB, "2 places:1 b.w:1", "2 b.w:1"),
    "cat, in length": case(joined_in_length, tokens, "6 a.w:0 a.b:0 prompt:2 b.w:1", "2 prompt:1", zeroed=False),
    "cat, with itself": case(lambda n=6: lines(lambda m, x: torch.cat([x, x], -1), n, 2 * n), tokens, "6 a.w:0 a.b:0 b.w:1*2"),
    "stack": case(stacked, tokens, "6 a.w:0 a.b:0 c.w:0 c.b:0 b.w:1*2"),
    "split": case(lambda: parts(lambda x: x.split([4, 6], -1))(), tokens, *PARTS),
    "split, one size": case(lambda: parts(lambda x: x.split(6, -1)[::-1])(), tokens, "4 a.w:0 a.b:0 b.w:1", "6 a.w:0 a.b:0 c.w:1"),
    "chunk": case(lambda: parts(lambda x: x.chunk(2, -1))(5, 5), tokens, "5 a.w:0 a.b:0 b.w:1", "5 a.w:0 a.b:0 c.w:1"),
    "tensor_split": case(lambda: parts(lambda x: x.tensor_split([4], -1))(), tokens, *PARTS),
    "slice": case(lambda: parts(lambda x: [x[..., :4], x[..., 4:]])(), tokens, *PARTS),
    "slice, negative": case(lambda: parts(lambda x: [x[..., -103:4], x[..., -6:100]])(), tokens, *PARTS),
    "slice, in the middle": case(lambda: lines(lambda m, x: x[..., 2:6], 8, 4), tokens, "4 a.w:0 a.b:0", "4 a.w:0 a.b:0 b.w:1"),
    "slice, every second": case(lambda: lines(lambda m, x: x[..., ::2], 8, 4), tokens),
    "slice, of tokens": case(lambda n=6: lines(lambda m, x: x[:, 1:-1], n), sentences, AB, dynamic=LENGTH),
    "narrow": case(lambda: parts(lambda x: [x.narrow(-1, 0, 4), x.narrow(-1, 4, 6)])(), tokens, *PARTS),
    "unbind": case(lambda: lines(lambda m, x: sum(x.unbind(-1))[..., None].expand(-1, -1, 6), 6), tokens, "6 b.w:1"),
    "unbind, of tokens": case(lambda n=6: lines(lambda m, x: x.unbind(1)[2], n), tokens, AB),
    "select": case(lambda: lines(lambda m, x: x + x[..., 3:4], 6), tokens, "5 a.w:0 a.b:0 b.w:1"),
    "select, of tokens": case(lambda n=6: lines(lambda m, x: x[:, 0], n), sentences, AB, dynamic=LENGTH),
    "gate in front": case(lambda: gate_in_front(), image, "5 a.w:0 a.b:0 b.w:1"),
    "single slices": case(single_slices, image, "1 a.w:0*2 a.b:0*2 b.w:1*3", "4 a.w:0 a.b:0 b.w:1"),
    "half goes round": case(lambda: half_through(), image, "4 a.w:0 a.b:0 b.w:1", "4 a.w:0 a.b:0 c.w:1", "4 c.w:0 c.b:0 b.w:1"),
    "shift in length": case(shifted, tokens, "2 a.w:0 a.b:0 b.w:1", "4 a.w:0 a.b:0 b.w:1"),
    "part that is averaged": case(averaged_part, tokens, "4 a.w:0 a.b:0 b.w:1", "6 a.w:0 a.b:0 b.w:1", zeroed=False),
    "piece that is averaged": case(averaged_piece, image, "2 a.w:0 a.b:0 b.w:1", "4 a.w:0 a.b:0 b.w:1", zeroed=False),
    "pad, channels": case(shortcut, image, "4 a.w:0 a.b:0 c.w:1 c.w:0 c.b:0 b.w:1", "3 c.w:0 c.b:0 b.w:1"),
    "pad, space": case(lambda n=6: between(lambda m, x: F.pad(x, (1, 2, 0, 1)), n), image, AB),
    "pad, reflected": case(lambda n=6: between(lambda m, x: F.pad(x, (1, 2, 2, 1), mode="reflect"), n), image, AB),
    "pad, replicated": case(lambda n=6: between(lambda m, x: F.pad(x, (1, 2, 2, 1), mode="replicate"), n), image, AB),
    "pad, circular": case(lambda n=6: between(lambda m, x: F.pad(x, (1, 2, 2, 1), mode="circular"), n), image, AB),
    "pad, negative": case(cropped, image, "4 a.w:0 a.b:0 b.w:1", "2 a.w:0 a.b:0", "1 b.w:1"),
    "write in place": case(written, image, "3 a.w:0 a.b:0 c.w:0 c.b:0 b.w:1", "3 a.w:0 a.b:0 b.w:1"),
    "write at places": case(written_at, image),
    "zero in place": case(zeroed_in_place, image, AB),
    "index, channels": case(chosen, image, "6 b.w:1 which:0"),
    "index, tokens": case(picked, tokens, AB),
    "index, pairs": case(of_two_tensors, tokens, "6 a.w:0 a.b:0 table:2 b.w:1"),
    "index_select": case(lambda n=6: lines(lambda m, x: x.index_select(1, m.which), n, which=torch.tensor([3, 1])), tokens, AB),
    "gather": case(gathered, tokens, AB),
    "roll": case(lambda n=6: between(lambda m, x: x.roll((1, 2), (2, 3)), n), image, AB),
    "roll, channels": case(lambda: between(lambda m, x: x.roll(1, 1), 6), image),
    "flip": case(lambda n=6: lines(lambda m, x: x.flip(1), n), tokens, AB),
    "flip, channels": case(lambda: lines(lambda m, x: x + x.flip(-1), 6), tokens, "3 a.w:0*2 a.b:0*2 b.w:1*2"),
    "expand": case(
        lambda n=6: Net(lambda m, x: m.b(x.mean(1, keepdim=True).expand(-1, n, -1, -1) * m.s), b=conv(n, 2), s=parameter(n, 1, 1)),
        image,
        "6 s:0 b.w:1",
    ),
    "repeat": case(lambda n=6: lines(lambda m, x: x.repeat(1, 1, 2), n, 2 * n), tokens, "6 a.w:0 a.b:0 b.w:1*2"),
    "repeat, new": case(
        lambda n=6: Net(lambda m, x: m.b(x.mean(-1, keepdim=True).repeat(1, 1, n) + m.s), b=nn.Linear(n, 2), s=parameter(n)),
        tokens,
        "6 s:0 b.w:1",
    ),
    "repeat_interleave": case(lambda n=6: lines(lambda m, x: x.repeat_interleave(3, -1), n, 3 * n), tokens, "6 a.w:0 a.b:0 b.w:1*3"),
    "repeat_interleave, flat": case(lambda: Net(lambda m, x: m.a(x) * m.s.repeat_interleave(2), a=nn.Linear(5, 6), s=parameter(3)), tokens),
}
