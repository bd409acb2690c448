"""What the families share: two layers with something between them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from laconic.pruning.trace import Policy
from tests.pruning.nets import Inputs, Net

CHANNELS, GROUPS, SIZE = Policy(groups="channels"), Policy(groups="groups"), Policy(attention="head_size")
BETWEEN = "a.w:0 a.b:0 b.w:1"  # layer a makes channels, layer b reads them
AB = f"6 {BETWEEN}"
LENGTH = (("inputs_0", ((1, "length"),)),)  # the dynamic dimension of tokens
KINDS: dict[int, tuple[type[nn.Module], ...]] = {
    1: (nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d, nn.InstanceNorm1d),
    2: (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.InstanceNorm2d),
    3: (nn.Conv3d, nn.ConvTranspose3d, nn.BatchNorm3d, nn.InstanceNorm3d),
}
Middle = Callable[[Net, Tensor], Tensor]


def conv(inputs: int, outputs: int, kernel: int = 1, **options: object) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, **options)  # type: ignore[arg-type]


def between(middle: Middle, n: int = 6, read: int | None = None, **parts: nn.Module | Tensor) -> Net:
    """Pixels: layer `a`, something, layer `b` that reads so many channels."""
    return Net(lambda m, x: m.b(middle(m, m.a(x))), a=conv(3, n), b=conv(read or n, 2), **parts)


def lines(middle: Middle, n: int = 6, read: int | None = None, **parts: nn.Module | Tensor) -> Net:
    """The same with linear layers, on rows or tokens."""
    return Net(lambda m, x: m.b(middle(m, m.a(x))), a=nn.Linear(5, n), b=nn.Linear(read or n, 2), **parts)


def volume(d: int) -> Inputs:
    return lambda batch: (torch.randn(batch, 3, *[5] * d),)
