"""Normalization. Where numbers meet along what is pruned, the small net itself is the reference."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.pruning.families.common import AB, CHANNELS, GROUPS, KINDS, between, conv, lines, volume
from tests.pruning.nets import Net, case, image, parameter, rows, tokens

Make = Callable[..., Net]
RUNNING = f"{AB} n.w:0 n.b:0 n.running_mean:0 n.running_var:0"
SCALED = f"{AB} n.w:0 n.b:0"
GROUP = "a.w:0{0} a.b:0{0} b.w:1{0} n.w:0{0} n.b:0{0}"


def pixels(norm: Callable[[int], nn.Module]) -> Make:
    return lambda k=6: Net(lambda m, x: m.b(m.n(m.a(x)).sigmoid()), a=conv(3, k), n=norm(k), b=conv(k, 2))


def words(norm: Callable[[int], nn.Module]) -> Make:
    return lambda k=6: Net(lambda m, x: m.b(m.n(m.a(x)).sigmoid()), a=nn.Linear(5, k), n=norm(k), b=nn.Linear(k, 2))


def normed(d: int, kind: int, **options: object) -> Make:
    layer, norm = KINDS[d][0], KINDS[d][kind]
    return lambda k=6: Net(lambda m, x: m.b(m.n(m.a(x))), a=layer(3, k, 1), n=norm(k, **options), b=layer(k, 2, 1))


def channels_last(k: int = 6) -> Net:
    """As ConvNeXt has it."""

    def forward(m: Net, x: Tensor) -> Tensor:
        return m.b(m.n(m.a(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2))

    return Net(forward, a=conv(3, k), n=nn.LayerNorm(k), b=conv(k, 2))


def group_normed(groups: int, channels: int = 12) -> Make:
    return lambda: pixels(lambda k: nn.GroupNorm(groups, k))(channels)


def norm_of_heads() -> Net:
    """A group norm over channels that were heads before."""

    def forward(m: Net, x: Tensor) -> Tensor:
        y = m.a(x).unflatten(-1, (4, 3)).transpose(1, 2)
        y = F.scaled_dot_product_attention(y, y, y)
        return m.b(m.n(y.permute(0, 1, 3, 2).flatten(1, 2)).mT)

    return Net(forward, a=nn.Linear(5, 12), n=nn.GroupNorm(4, 12), b=nn.Linear(12, 2))


def rms_by_hand(k: int = 6) -> Net:
    return lines(lambda m, x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * m.w, k, w=parameter(k))


def moments(k: int = 6) -> Net:
    def norm(m: Net, x: Tensor) -> Tensor:
        var, mean = torch.var_mean(x, 1, keepdim=True, correction=0)
        return (x - mean) / (var + 1e-3).sqrt()

    return between(norm, k)


def norm_across_heads() -> Net:
    """The same where each group has one channel of every head."""

    def forward(m: Net, x: Tensor) -> Tensor:
        y = m.a(x).unflatten(-1, (4, 3)).transpose(1, 2)
        y = F.scaled_dot_product_attention(y, y, y)
        return m.b(m.n(y.permute(0, 3, 1, 2).flatten(1, 2)).mT)

    return Net(forward, a=nn.Linear(5, 12), n=nn.GroupNorm(3, 12), b=nn.Linear(12, 2))


def native_batch_norm(k: int = 6) -> Net:
    """The operator that also puts out mean and deviation."""

    def norm(m: Net, x: Tensor) -> Tensor:
        n = m.n
        return torch.native_batch_norm(x, n.weight, n.bias, n.running_mean, n.running_var, False, 0.1, 1e-5)[0]

    return Net(lambda m, x: m.b(norm(m, m.a(x))), a=conv(3, k), n=nn.BatchNorm2d(k), b=conv(k, 2))


CASES = {
    "group norm, across heads": case(norm_across_heads, tokens, "4 " + GROUP.format("*3"), zeroed=False),
    **{f"batch norm {d}d": case(normed(d, 2), volume(d), RUNNING) for d in (1, 2, 3)},
    "batch norm, rows": case(words(nn.BatchNorm1d), rows, RUNNING),
    "batch norm, not affine": case(normed(2, 2, affine=False), image, f"{AB} n.running_mean:0 n.running_var:0"),
    "batch norm, of the batch": case(normed(2, 2, track_running_stats=False), image, SCALED),
    "native batch norm": case(native_batch_norm, image, RUNNING),
    "instance norm": case(normed(2, 3), image, AB),
    "instance norm, affine": case(normed(1, 3, affine=True), volume(1), SCALED),
    "layer norm": case(words(nn.LayerNorm), tokens, SCALED, zeroed=False),
    "layer norm, functional": case(lambda k=6: lines(lambda m, x: F.layer_norm(x, (k,)), k), tokens, AB, zeroed=False),
    "layer norm, no bias": case(words(lambda k: nn.LayerNorm(k, bias=False)), tokens, f"{AB} n.w:0", zeroed=False),
    "layer norm, maps": case(pixels(lambda k: nn.LayerNorm([k, 6, 6])), image, SCALED, zeroed=False),
    "layer norm, channels last": case(channels_last, image, SCALED, zeroed=False),
    "rms norm": case(words(nn.RMSNorm), tokens, f"{AB} n.w:0", zeroed=False),
    "rms norm, eps": case(words(lambda k: nn.RMSNorm(k, eps=0.1)), tokens, f"{AB} n.w:0", zeroed=False),
    "rms norm, by hand": case(rms_by_hand, tokens, f"{AB} w:0", zeroed=False),
    "moments": case(moments, image, AB, zeroed=False),
    "normalize": case(lambda k=6: lines(lambda m, x: F.normalize(x, dim=-1), k), tokens, AB),
    "group norm, auto": case(group_normed(4), image, "4 " + GROUP.format("*3")),
    "group norm, groups": case(group_normed(3), image, "3 " + GROUP.format("*4"), policy=GROUPS),
    "group norm, channels": case(group_normed(3), image, "4 " + GROUP.format("*3"), policy=CHANNELS, zeroed=False),
    "group norm, one group": case(pixels(lambda k: nn.GroupNorm(1, k)), image, SCALED, zeroed=False),
    "group norm, each channel": case(pixels(lambda k: nn.GroupNorm(k, k)), image, SCALED),
    "group norm, heads": case(norm_of_heads, tokens, "4 " + GROUP.format("*3")),
}
