"""Views, and dimensions that change places."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.pruning.families.common import AB, GROUPS, LENGTH, between, conv, lines
from tests.pruning.nets import Net, case, image, sentences, tokens

Make = Callable[..., Net]


def flattened(flatten: Callable[[Tensor], Tensor]) -> Make:
    """Maps of 2 × 2 become a row: each channel has four columns of the next layer."""
    return lambda n=6: Net(lambda m, x: m.b(flatten(m.a(x))), a=conv(3, n, 5), b=nn.Linear(4 * n, 2))


def pixels(move: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]) -> Make:
    """Channels go last, meet a linear layer, and return."""
    return lambda n=6, k=4: Net(lambda m, x: m.b(back(m.l(move(m.a(x))))), a=conv(3, n), l=nn.Linear(n, k), b=conv(k, 2))


def patches(n: int = 6) -> Net:
    """A vision transformer's first steps."""

    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.a(x)
        return m.b(x.flatten(2).transpose(1, 2)).mean(1)

    return Net(forward, a=conv(3, n, 2, stride=2), b=nn.Linear(n, 2))


def rows_of_tokens(n: int = 6) -> Net:
    """(B, L, C) to (B · L, C) and back, with both dynamic."""

    def forward(m: Net, x: Tensor) -> Tensor:
        b, length = x.shape[:2]
        return m.b(m.a(x).view(b * length, -1)).view(b, length, 2)

    return Net(forward, a=nn.Linear(5, n), b=nn.Linear(n, 2))


def named(n: int = 6) -> Net:
    """Every size is written out."""

    def forward(m: Net, x: Tensor) -> Tensor:
        b, length = x.shape[:2]
        x = m.a(x).view(b * length, n).view(b, length, n).reshape(b, length, n, 1).expand(b, length, n, 3)
        return m.b(x.reshape(b, length, n * 3))

    return Net(forward, a=nn.Linear(5, n), b=nn.Linear(3 * n, 2))


def merging(n: int = 6) -> Net:
    """Patches of four tokens become one (Swin); a token's channels lie side by side."""

    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.a(x)
        x = torch.cat([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)], 1)
        return m.b(x.flatten(2).mT)

    return Net(forward, a=conv(3, n), b=nn.Linear(4 * n, 2))


def windows(n: int = 6, k: int = 6) -> Net:
    """Maps are cut into windows of 3 × 3 and put together again."""

    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.a(x).permute(0, 2, 3, 1)
        b = x.shape[0]
        x = x.view(b, 2, 3, 2, 3, n).permute(0, 1, 3, 2, 4, 5).reshape(-1, 9, n)
        x = m.l(x)
        return m.b(x.view(b, 2, 2, 3, 3, k).permute(0, 5, 1, 3, 2, 4).reshape(b, k, 6, 6))

    return Net(forward, a=conv(3, n), l=nn.Linear(n, k), b=conv(k, 2))


def shuffled(groups: int) -> Make:
    """ShuffleNet's: (groups, channels) become (channels, groups)."""

    def make() -> Net:
        def shuffle(m: Net, x: Tensor) -> Tensor:
            b, c, h, w = x.shape
            return x.view(b, groups, c // groups, h, w).transpose(1, 2).reshape(b, c, h, w)

        return between(shuffle, 12)

    return make


def mixed_with_places() -> Net:
    """Channels and pixels change places: nothing can go alone."""
    return Net(lambda m, x: m.b(m.a(x).reshape(-1, 18, 8)), a=conv(3, 4), b=nn.Linear(8, 2))


def space_to_depth(n: int = 6) -> Net:
    def forward(m: Net, x: Tensor) -> Tensor:
        b, _, h, w = (x := m.a(x)).shape
        return m.b(x.view(b, n, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4).reshape(b, 4 * n, h // 2, w // 2))

    return Net(forward, a=conv(3, n), b=conv(4 * n, 2))


def without_squeeze_axis(n: int = 6) -> Net:
    """`squeeze()` of a (B, C, 1, 1): a single channel that is left must not be taken for one of those ones."""
    return Net(lambda m, x: m.b(F.adaptive_avg_pool2d(m.a(x), 1).squeeze()), a=conv(3, n), b=nn.Linear(n, 2))


def squeezed_in_vain(n: int = 6) -> Net:
    return lines(lambda m, x: x.squeeze(-1), n)


def pooled_line(n: int = 6) -> Net:
    """Channels and a dynamic length in one line, averaged."""

    def forward(m: Net, x: Tensor) -> Tensor:
        return m.b(m.a(x) * m.a(x).mT.flatten(1).mean(1)[:, None, None])

    return Net(forward, a=nn.Linear(5, n), b=nn.Linear(n, 2))


def window_attention(n: int = 6, p: int = 6, q: int = 6) -> Net:
    """Two layers in the windows of MaxViT on maps of 14 × 14: windows of 7 × 7, then a grid of 7 × 7, with nothing between that forgets how H was cut."""

    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.a(x)
        b = x.shape[0]
        x = x.view(b, -1, 2, 7, 2, 7).permute(0, 2, 4, 3, 5, 1)  # H = (2, 7)
        x = m.l(x.reshape(b, 4, 49, -1)).view(b, 2, 2, 7, 7, -1).permute(0, 5, 1, 3, 2, 4)
        x = x.reshape(b, -1, 7, 2, 7, 2).permute(0, 2, 4, 3, 5, 1)  # H = (7, 2)
        x = m.k(x.reshape(b, 49, 4, -1)).view(b, 7, 7, 2, 2, -1).permute(0, 5, 1, 3, 2, 4)
        return m.b(x.reshape(b, -1, 14, 14))

    return Net(forward, a=conv(3, n), l=nn.Linear(n, p), k=nn.Linear(p, q), b=conv(q, 2))


def one_block_mixed(n: int = 6, k: int = 8) -> Net:
    """Tokens and heads of one layer change places in a reshape; what another layer makes passes it."""

    def forward(m: Net, x: Tensor) -> Tensor:
        mixed = m.a(x)[..., None] * m.c(x)[:, :, None]  # (B, 7, 6, C)
        return m.b(mixed.reshape(x.shape[0], 6, 7, -1))

    return Net(forward, a=nn.Linear(5, n), c=nn.Linear(5, k), b=nn.Linear(k, 2))


def batch_like_heads(n: int = 6) -> Net:
    """As many tokens as examples at capture: sizes alone do not say which is which."""

    def forward(m: Net, x: Tensor) -> Tensor:
        y = m.a(x)  # (B, 4, C)
        return m.b(y.transpose(0, 1).reshape(4 * x.shape[0], -1).view(4, x.shape[0], n).transpose(0, 1))

    return Net(forward, a=nn.Linear(5, n), b=nn.Linear(n, 2))


CASES = {
    "windows, then a grid": case(
        window_attention, lambda batch: image(batch, side=14), "6 a.w:0 a.b:0 l.w:1", "6 l.w:0 l.b:0 k.w:1", "6 k.w:0 k.b:0 b.w:1"
    ),
    "one block cannot be followed": case(lambda k=8: one_block_mixed(6, k), tokens, "8 c.w:0 c.b:0 b.w:1"),
    "as many tokens as examples": case(batch_like_heads, lambda batch: (torch.randn(batch, 4, 5),), AB),
    "channels and length in one line": case(pooled_line, sentences, AB, zeroed=False, dynamic=LENGTH),
    "flatten": case(flattened(lambda x: x.flatten(1)), image, "6 a.w:0 a.b:0 b.w:1*4"),
    "view": case(flattened(lambda x: x.view(x.shape[0], -1)), image, "6 a.w:0 a.b:0 b.w:1*4"),
    "reshape, written out": case(lambda: flattened(lambda x: x.reshape(-1, 24))(), image, "6 a.w:0 a.b:0 b.w:1*4"),
    "permute": case(
        pixels(lambda x: x.permute(0, 2, 3, 1), lambda x: x.permute(0, 3, 1, 2)), image, "6 a.w:0 a.b:0 l.w:1", "4 l.w:0 l.b:0 b.w:1"
    ),
    "transpose": case(
        pixels(lambda x: x.transpose(1, -1), lambda x: x.transpose(-1, 1)), image, "6 a.w:0 a.b:0 l.w:1", "4 l.w:0 l.b:0 b.w:1"
    ),
    "movedim": case(
        pixels(lambda x: x.movedim(1, -1), lambda x: x.movedim((-1, 2), (1, 2))), image, "6 a.w:0 a.b:0 l.w:1", "4 l.w:0 l.b:0 b.w:1"
    ),
    "patches": case(patches, image, AB),
    "rows of tokens": case(rows_of_tokens, sentences, AB, dynamic=LENGTH),
    "every size written out": case(named, sentences, "6 a.w:0 a.b:0 b.w:1*3", dynamic=LENGTH),
    "patch merging": case(merging, image, "6 a.w:0 a.b:0 b.w:1*4"),
    "windows": case(windows, image, "6 a.w:0 a.b:0 l.w:1", "6 l.w:0 l.b:0 b.w:1"),
    "channel shuffle by view": case(shuffled(3), image, "4 a.w:0*3 a.b:0*3 b.w:1*3"),
    "channel shuffle": case(lambda: between(lambda m, x: F.channel_shuffle(x, 3), 12), image, "4 a.w:0*3 a.b:0*3 b.w:1*3"),
    "channel shuffle of groups": case(
        lambda: Net(lambda m, x: m.b(F.channel_shuffle(m.g(m.a(x)), 3)), a=conv(3, 12), g=conv(12, 12, groups=3), b=conv(12, 2)),
        image,
        "3 a.w:0*4 a.b:0*4 g.w:0*4 g.b:0*4 b.w:1*4",
        policy=GROUPS,
    ),
    "pixels and channels mixed": case(mixed_with_places, image),
    "space to depth": case(space_to_depth, image, "6 a.w:0 a.b:0 b.w:1*4"),
    "squeeze of all ones": case(lambda: without_squeeze_axis(), image, AB),
    "squeeze in vain": case(lambda: squeezed_in_vain(), tokens, AB),
    "unsqueeze": case(lambda n=6: lines(lambda m, x: x.unsqueeze(-1).unsqueeze(1).squeeze(1).squeeze(-1), n), tokens, AB),
}
