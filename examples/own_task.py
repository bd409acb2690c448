"""Your own task, whole: `laconic optimize examples.own_task:waves` from the root of a clone.

A small recurrent net tells three kinds of waves apart. Yours would load its weights and its data instead of making them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset, random_split

import laconic as lc


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRU(1, 24, batch_first=True), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0].mean(1))


def data(n: int = 1200, length: int = 60) -> TensorDataset:
    draw = torch.Generator().manual_seed(0)
    kind, t = torch.randint(0, 3, (n,), generator=draw), torch.linspace(0, 1, length)
    phase = 6.28 * (t * (2 + 4 * torch.rand(n, 1, generator=draw)) + torch.rand(n, 1, generator=draw))
    waves = torch.stack([phase.sin(), phase.sin().sign(), phase.sin().asin()])[kind, torch.arange(n)]
    return TensorDataset((waves + 0.1 * torch.randn(n, length, generator=draw)).unsqueeze(-1), kind)


def waves() -> lc.Task:
    train, valid, test = random_split(data(), (800, 200, 200), torch.Generator().manual_seed(0))
    plan = lc.FitPlan(epochs=15, lr=1e-2)  # leave out `fit` if your model is trained
    return lc.Task(Net(), train, valid, test, loss=F.cross_entropy, metric="accuracy", name="waves", plan=plan)
