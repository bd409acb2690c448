"""Operators on height and width, and those that trade channels for them."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from tests.pruning.families.common import AB, between, conv, volume
from tests.pruning.families.layers import chain
from tests.pruning.nets import Net, case, image

Make = Callable[..., Net]


def after(operator: Callable[[Tensor], Tensor], times: int = 1) -> Make:
    """Between two layers; the second reads `times` as many channels."""
    return lambda n=6: between(lambda m, x: operator(x), n, times * n)


def shuffled(n: int = 3) -> Net:
    """Sub-pixel upsampling: four channels make one."""
    return between(lambda m, x: F.pixel_shuffle(x, 2), 4 * n, n)


def deep(operator: Callable[[Tensor], Tensor], d: int) -> Make:
    layers = chain(d, 0)

    def make(n: int = 6) -> Net:
        net = layers(n)
        net.run = lambda m, x: m.b(F.pad(operator(m.a(x)), (0, 1) * d))
        return net

    return make


def patches(n: int = 6) -> Net:
    """Windows of 2 × 2 as columns, as im2col has them."""

    def forward(m: Net, x: Tensor) -> Tensor:
        return m.b(F.unfold(m.a(x), 2, stride=2)[..., None])

    return Net(forward, a=conv(3, n), b=conv(4 * n, 2))


def folded(n: int = 3) -> Net:
    """Columns are put together to maps: the parts of a window go together."""

    def forward(m: Net, x: Tensor) -> Tensor:
        return m.b(F.fold(m.a(x).flatten(2), (12, 12), 2, stride=2))

    return Net(forward, a=conv(3, 4 * n), b=conv(n, 2))


def there_and_back(n: int = 6) -> Net:
    """Overlapping windows, added up."""

    def forward(m: Net, x: Tensor) -> Tensor:
        return m.b(F.fold(F.unfold(m.a(x), 3, padding=1), (6, 6), 3, padding=1))

    return Net(forward, a=conv(3, n), b=conv(n, 2))


def along_channels() -> Net:
    """Efficient channel attention convolves over the channels: all of them stay."""

    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.a(x)
        y = m.eca(x.mean((2, 3))[:, None])[:, 0]
        return m.b(x * y.sigmoid()[..., None, None])

    return Net(forward, a=conv(3, 6), eca=chain(1, 0)(1).a.__class__(1, 1, 3, padding=1), b=conv(6, 2))


CASES = {
    "max pool": case(after(lambda x: F.max_pool2d(x, 2)), image, AB),
    "max pool, 1d": case(deep(lambda x: F.max_pool1d(x, 2), 1), volume(1), AB),
    "max pool, 3d": case(deep(lambda x: F.max_pool3d(x, 2), 3), volume(3), AB),
    "average pool": case(after(lambda x: F.avg_pool2d(x, 3, 1, 1)), image, AB),
    "adaptive pool": case(after(lambda x: F.adaptive_avg_pool2d(x, (2, 3))), image, AB),
    "adaptive max pool": case(after(lambda x: F.adaptive_max_pool2d(x, 2)), image, AB),
    "nearest": case(after(lambda x: F.interpolate(x, scale_factor=2)), image, AB),
    "nearest exact": case(after(lambda x: F.interpolate(x, size=(9, 5), mode="nearest-exact")), image, AB),
    "bilinear maps": case(after(lambda x: F.interpolate(x, size=(9, 5), mode="bilinear")), image, AB),
    "bicubic": case(after(lambda x: F.interpolate(x, scale_factor=1.5, mode="bicubic")), image, AB),
    "linear, 1d": case(deep(lambda x: F.interpolate(x, size=9, mode="linear"), 1), volume(1), AB),
    "trilinear": case(deep(lambda x: F.interpolate(x, size=(4, 4, 4), mode="trilinear"), 3), volume(3), AB),
    "pixel shuffle": case(shuffled, image, "3 a.w:0*4 a.b:0*4 b.w:1"),
    "pixel unshuffle": case(after(lambda x: F.pixel_unshuffle(x, 2), 4), image, "6 a.w:0 a.b:0 b.w:1*4"),
    "unfold": case(patches, image, "6 a.w:0 a.b:0 b.w:1*4"),
    "fold": case(folded, image, "3 a.w:0*4 a.b:0*4 b.w:1"),
    "unfold and fold": case(there_and_back, image, AB),
    "sliding windows": case(after(lambda x: x.unfold(3, 2, 2).mean(-1)), image, AB),
    "convolution over channels": case(along_channels, image),
}
