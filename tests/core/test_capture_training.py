"""What only training mode shows: the module itself, trained or run beside its program, is the reference."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import laconic as lc
from laconic.core.capture_training import frozen_parts
from laconic.core.program import Program

X = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
DATA = TensorDataset(X, (X.sum(1) > 0).long())


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Any:
        return self.b(self.norm(self.a(x)).relu())


class Frozen(Plain):
    """Its batch-norm keeps its statistics, as those of detectors do."""

    def train(self, mode: bool = True) -> Frozen:
        super().train(mode)
        self.norm.eval()
        return self


class Dropping(Plain):
    def forward(self, x: Tensor) -> Any:
        return self.b(F.dropout(self.norm(self.a(x)), 0.5, self.training))


class Branch(Plain):
    def forward(self, x: Tensor) -> Any:
        x = self.a(x)
        return self.b((x + torch.randn_like(x) if self.training else x).relu())


class Depth(Plain):
    def forward(self, x: Tensor) -> Any:
        x = self.a(x)
        return self.b(x * (torch.rand(len(x), 1) > 0.5) if self.training else x)


class Further(Plain):
    def forward(self, x: Tensor) -> Any:
        y = super().forward(x)
        return (y, self.a(x)) if self.training else y


class Wanting(Plain):
    def forward(self, x: Tensor, target: Tensor | None = None) -> Any:
        if self.training and target is None:
            raise ValueError("targets should not be none")
        return super().forward(x)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (Plain, None),
        (Dropping, None),
        (Frozen, None),
        (Branch, "answers otherwise"),
        (Depth, "answers otherwise"),
        (Further, "answers otherwise"),
        (Wanting, "ValueError: targets should not be none"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_depends_on_the_mode_is_told(kind: type[Plain], told: str | None) -> None:
    net = kind()
    net.norm.running_mean.uniform_()  # type: ignore[union-attr, operator]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    notes = [note for note in lc.capture(net, X[:4]).interface.notes if "training mode" in note]
    assert len(notes) == (told is not None)
    assert told is None or told in notes[0]
    assert net.training
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_norms_that_the_module_keeps_frozen_stay_so(tmp_path: Path) -> None:
    net = Frozen()
    net.norm.running_mean.uniform_()  # type: ignore[union-attr, operator]
    assert frozen_parts(net) == ("norm",)
    program = Program.load(lc.capture(net, X[:4]).save(tmp_path / "model.pt2"))
    torch.testing.assert_close(program.train()(X), net.train()(X))
    task = lc.Task(net, DATA, DATA, loss=F.cross_entropy)
    before = program.get_buffer("norm.running_mean").clone()
    for trained in (program, net):  # one example a batch, of which no norm that trains has a variance
        lc.fit(trained, lc.FitPlan(epochs=1, batch_size=1, average="swa") if trained is net else lc.FitPlan(epochs=1, batch_size=1), task)
        assert torch.equal(trained.get_buffer("norm.running_mean"), before)


def test_an_instance_norm_of_one_value_is_bad_input_in_a_module_too() -> None:
    net = nn.Sequential(nn.Conv1d(1, 4, 6), nn.InstanceNorm1d(4), nn.Flatten(), nn.Linear(4, 2))
    data = TensorDataset(X[:, None], DATA.tensors[1])
    with pytest.raises(lc.BadInput, match="instance norm was given one value"):
        lc.fit(net, lc.FitPlan(), lc.Task(net, data, data, loss=F.cross_entropy))


class Hooked(Plain):
    def forward(self, x: Tensor) -> Any:
        x = self.a(x)
        if x.requires_grad:
            x.register_hook(lambda gradient: 0.1 * gradient)
        return self.b(x.relu())


class Watched(Plain):
    def forward(self, x: Tensor) -> Any:
        x = self.a(x)
        if x.requires_grad:
            x.register_hook(lambda gradient: None)
        return self.b(x.relu())


def _masked(hook: Any) -> Plain:
    net = Plain()
    net.a.weight.register_hook(hook)
    return net


@pytest.mark.parametrize(
    ("net", "lost"),
    [
        (Hooked(), ("Tensor.register_hook",)),
        (Watched(), ()),
        (_masked(lambda gradient: gradient * (gradient > 0)), ("a hook of a.weight",)),
        (_masked(lambda gradient: None), ()),
    ],
    ids=["tensor", "tensor-looks", "parameter", "parameter-looks"],
)
def test_hooks_that_change_gradients_are_told_and_not_trained(net: Plain, lost: tuple[str, ...]) -> None:
    program = lc.capture(net, X[:4])
    assert program.interface.limits.custom_gradients == lost
    task = lc.Task(net, DATA, DATA, loss=F.cross_entropy)
    if lost:
        with pytest.raises(lc.BadInput, match="hook"):
            lc.fit(program, lc.FitPlan(), task)
    else:
        lc.fit(program, lc.FitPlan(), task)


@pytest.mark.parametrize("kind", [list, dict, deque], ids=lambda kind: str(kind.__name__))
def test_a_container_that_forward_fills_is_told(kind: Any) -> None:
    class Filling(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.kept = kind()

        def forward(self, x: Tensor) -> Any:
            if kind is dict:
                self.kept[len(self.kept)] = 1
            else:
                self.kept.append(1)
            return super().forward(x) * len(self.kept)

    assert any("the attribute kept;" in note for note in lc.capture(Filling(), X[:4]).interface.notes)
    assert not any("attribute" in note for note in lc.capture(nn.LSTM(6, 3), X[:, None]).interface.notes)
