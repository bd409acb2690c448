"""Small nets with the traits that decide where a graph is rounded."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laconic.core.task import Task
from laconic.tasks.data import ArrayDataset


class Residual(nn.Module):
    """conv-bn-relu, then a block whose input is added to its output."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.one = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(8)
        self.two = nn.Conv2d(8, 8, 3, padding=1)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.stem(x)))
        y = self.two(self.relu(self.norm1(self.one(x))))
        return self.head(self.pool(self.relu(x + y)).flatten(1))


class Branches(nn.Module):
    """Two convolutions of one input, concatenated for a third."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1)
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cat([self.left(x).relu(), self.right(x)], 1))


class Pools(nn.Module):
    """Max-pools and a flatten between what is computed in integers."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(4 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.pool(self.one(x).relu()))
        return self.head(self.two(x).relu().flatten(1))


class Functional(nn.Module):
    """No modules but this one: its operators have one path, the empty one."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(4, 3, 3, 3) * 0.3)
        self.matrix = nn.Parameter(torch.randn(3, 4 * 8 * 8) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.relu(F.conv2d(x, self.kernel, padding=1)).flatten(1), self.matrix)


class TiedWords(nn.Module):
    """An embedding whose table is also the output layer's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.mix = nn.Linear(8, 8)
        self.out = nn.Linear(8, 20, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.mix(self.embed(ids)).relu().mean(1))


class TwoHeads(nn.Module):
    """One trunk read by two linear layers and put out itself."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = self.trunk(x).relu()
        return self.a(y), self.b(y), y


class Attention(nn.Module):
    """Pre-norm self-attention with a residual and a gated MLP behind it; `kind` chooses the mask."""

    def __init__(self, kind: str = "none", scale: float | None = None, dim: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.kind, self.scale = heads, kind, scale
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.ModuleList(nn.Linear(dim, dim) for _ in range(3))
        self.out = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.up, self.down = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)
        self.register_buffer("bias", torch.randn(5, 5))
        self.register_buffer("allowed", torch.rand(5, 5) > 0.4)
        self.allowed.fill_diagonal_(True)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.norm(x)
        q, k, v = (layer(seen).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in self.qkv)
        mask = {"float": self.bias, "boolean": self.allowed}.get(self.kind)
        y = F.scaled_dot_product_attention(q, k, v, mask, is_causal=self.kind == "causal", scale=self.scale)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Words(nn.Module):
    """Embedding, LSTM, linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 6)
        self.rnn = nn.LSTM(6, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.rnn(self.embed(ids))[0][:, -1])


class Upsampled(nn.Module):
    """Transposed convolutions, one of them with groups."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.wide = nn.ConvTranspose2d(4, 4, 2, stride=2, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.wide(self.up(self.down(x).relu()).relu())


def shared_relu() -> nn.Module:
    relu = nn.ReLU()
    return nn.Sequential(nn.Conv2d(3, 4, 1), relu, nn.Conv2d(4, 4, 1), relu, nn.Conv2d(4, 2, 1))


def grouped() -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, 8, 3, groups=2, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8, padding=1), nn.Conv2d(8, 4, 1))


def mlp(*sizes: int) -> nn.Module:
    layers: list[nn.Module] = []
    for first, second in itertools.pairwise(sizes):
        layers += [nn.Linear(first, second), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def images(n: int = 8, channels: int = 3, side: int = 8) -> Tensor:
    return torch.randn(n, channels, side, side)


def ids(n: int = 8, length: int = 5) -> Tensor:
    return torch.randint(0, 20, (n, length))


# name -> net and inputs that it takes
NETS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "residual": (Residual, images),
    "branches": (Branches, images),
    "pools": (Pools, images),
    "shared relu": (shared_relu, images),
    "functional": (Functional, images),
    "tied embedding": (TiedWords, ids),
    "two heads": (TwoHeads, lambda: torch.randn(8, 6)),
    "mlp": (lambda: mlp(6, 8, 8, 3), lambda: torch.randn(8, 6)),
    "attention": (Attention, lambda: torch.randn(8, 5, 16)),
    "causal attention": (lambda: Attention("causal"), lambda: torch.randn(8, 5, 16)),
    "grouped": (grouped, lambda: images(channels=4)),
    "transposed": (Upsampled, images),
    "lstm": (Words, ids),
}


def task_of(inputs: Any, model: nn.Module | None = None) -> Task:
    """A task whose train data are these inputs, (n, …)."""
    array = np.asarray(inputs)
    data = ArrayDataset(array, np.zeros(len(array), np.int64))
    return Task(model or nn.Identity(), data, data)


def with_statistics(net: nn.Module) -> nn.Module:
    """Batch-norms as after training, not as initialized."""
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return net.eval()
