"""A small detector for whole runs, also by `tests.run.detector:task` from other processes: a backbone that can be captured, and a head that cannot."""

from __future__ import annotations

import functools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

import laconic as lc

SIZE, MOST = 16, 3  # of pictures; boxes at most


class Squares(Dataset[tuple[Tensor, Tensor]]):
    """Pictures (1, 16, 16) of one bright square of 4×4 in noise, and where it begins, (2,)."""

    def __init__(self, n: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.places = rng.integers(0, SIZE - 4, (n, 2))
        self.pictures = 0.3 * rng.standard_normal((n, 1, SIZE, SIZE)).astype(np.float32)
        for picture, (y, x) in zip(self.pictures, self.places, strict=True):
            picture[0, y : y + 4, x : x + 4] += 1.5

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(self.pictures[index]), torch.from_numpy(self.places[index])


class Backbone(nn.Module):
    """A map of scores, in a mapping as torchvision's backbones answer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.body, self.last = nn.Conv2d(16, 16, 4, padding=(2, 2)), nn.Conv2d(16, 1, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"map": self.last(self.body(self.norm(self.stem(x)).relu()).relu()[..., :SIZE, :SIZE])}


class Detector(nn.Module):
    """Pictures (B, 1, 16, 16) to the corners of at most three squares, (B, 3, 2), best first: greedy non-maximum suppression, picture by picture."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        scores = self.backbone(images * 2)["map"]
        return {"corners": torch.stack([self.suppressed(one[0]) for one in scores]), "map": scores}

    def suppressed(self, scores: Tensor) -> Tensor:
        """Find the peaks of one map (16, 16)."""
        places = (scores > 0).nonzero()
        order = scores[scores > 0].argsort(descending=True)
        found: list[Tensor] = []
        for place in places[order]:
            if len(found) < MOST and all(int((place - other).abs().max()) > 3 for other in found):
                found.append(place)
        return torch.stack([*found, *[torch.full((2,), -1)] * (MOST - len(found))]).float() - 2


def hits(corners: Tensor, target: Tensor) -> float:
    """Return in how many of a hundred pictures the best corner lies within a pixel of the square's."""
    return 100 * float(((corners[:, 0] - target).abs().max(-1).values <= 1).float().mean())


def map_loss(outputs: dict[str, Tensor], target: Tensor) -> Tensor:
    wanted = torch.zeros_like(outputs["map"])
    rows = torch.arange(len(target))
    wanted[rows, 0, target[:, 0] + 2, target[:, 1] + 2] = 1
    return F.binary_cross_entropy_with_logits(outputs["map"], wanted, pos_weight=torch.tensor(30.0))


@functools.cache
def trained() -> Detector:
    torch.manual_seed(0)
    model, data = Detector(), Squares(256, 0)
    lc.fit(model, lc.FitPlan(epochs=6, lr=0.01, batch_size=32), train=data, loss=map_loss)
    return model.eval()


def task() -> lc.Task:
    return lc.Task(
        trained(), Squares(96, 1), Squares(64, 2), Squares(64, 3), loss=map_loss, metric=hits, direction="max", name="detector", batch_size=32,
        logits=lambda outputs: outputs["corners"], part="backbone",
    )  # fmt: skip
