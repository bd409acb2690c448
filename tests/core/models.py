"""Small modules with the traits that break capturing tools."""

from __future__ import annotations

import dataclasses
from collections import namedtuple
from typing import Any

import torch
from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self, channels: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.bn(self.conv(x)).relu() + x)


class ConvNet(nn.Module):
    """Batch-norm, dropout, a residual, an unused layer and a transient buffer."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3)
        self.layers = nn.Sequential(Block(8, dropout), Block(8, dropout))
        self.head = nn.Linear(8, 10)
        self.unused = nn.Linear(3, 3)
        self.register_buffer("scale", torch.ones(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(self.stem(x)).mean((2, 3))) * self.scale


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase] = nn.LSTM, dropout: float = 0.0) -> None:
        super().__init__()
        self.rnn = kind(6, 16, num_layers=2, batch_first=True, bidirectional=True, dropout=dropout)
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


@dataclasses.dataclass
class Answer:
    logits: Tensor
    extras: tuple[Tensor, Tensor]
    version: int = 3


Pair = namedtuple("Pair", "left right")


class Nested(nn.Module):
    """Takes a mapping and an optional keyword, returns what `kind` says."""

    def __init__(self, kind: str = "dataclass") -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)
        self.kind = kind

    def forward(self, batch: dict[str, Any], *, scale: float | None = None, mask: Tensor | None = None) -> Any:
        y = self.linear(batch["a"]) + self.linear(batch["deep"]["b"])
        if scale is not None:
            y = y * scale
        if mask is not None:
            y = y * mask
        with torch.no_grad():
            mean = y.mean() * 2
        return {
            "dataclass": lambda: Answer(y, (mean, y.sum(1))),
            "tuple": lambda: (y, [mean, None]),
            "dict": lambda: {"logits": y, "mean": mean},
            "namedtuple": lambda: Pair(y, mean),
            "tensor": lambda: y,
        }[self.kind]()


class Tied(nn.Module):
    """Embedding and output layer share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 5)
        self.out = nn.Linear(5, 11, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.embed(ids).mean(1))


class ReadsValue(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return x * 2


class FixesBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(2, -1)
