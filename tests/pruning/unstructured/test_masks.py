from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import laconic as lc
from laconic.core.errors import BadInput
from laconic.core.hook import StatefulHook
from laconic.pruning.unstructured.dynamics import Gradual, Surgery
from laconic.pruning.unstructured.masks import Masks
from laconic.pruning.unstructured.regrowth import Regrow
from laconic.train.engine import fit
from tests.pruning.unstructured import nets

OPTIONS: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": "sgd", "momentum": 0.0},
    "momentum": {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.1},
    "adamw": {"optimizer": "adamw", "weight_decay": 0.1},
    "ema": {"average": "ema", "ema_decay": 0.5},
    "swa": {"average": "swa"},
    "sam": {"sam": 0.05},
    "channels last": {"channels_last": True},
}


def sparse_net() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    net = nets.net()
    chooser = nets.chooser(net)
    return net, chooser.kept(chooser.scores())


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_zeros_are_held_and_the_rest_trains(options: dict[str, Any]) -> None:
    net, kept = sparse_net()
    Masks(kept).apply(net)
    before = copy.deepcopy(net.state_dict())
    fit(
        net, lc.FitPlan(**{"epochs": 1, "lr": 0.01, "batch_size": 8, **options}), train=nets.DATA, loss=F.cross_entropy, hooks=[Masks(kept)]
    )
    for name, p in net.named_parameters():
        if name in kept:
            assert bool((p[~kept[name]] == 0).all())
            assert bool((p[kept[name]] != before[name][kept[name]]).any())


def test_a_zero_has_no_sign() -> None:
    net = nn.Linear(2, 1)
    net.weight.data = torch.tensor([[-1.0, 2.0]])
    Masks({"weight": torch.tensor([[False, True]])}).apply(net)
    assert not bool(net.weight.signbit().any())


def test_masks_of_zeros_are_where_the_zeros_are() -> None:
    net, kept = sparse_net()
    Masks(kept).apply(net)
    found = Masks.of_zeros(net).kept
    assert set(found) == set(kept)
    assert all(torch.equal(found[name], kept[name]) for name in kept)
    assert set(Masks.of_zeros(net, ["head.weight"]).kept) == {"head.weight"}


def test_a_mask_of_nothing_or_of_another_shape_is_told() -> None:
    with pytest.raises(BadInput, match=r"no parameter 'weigth'\. Did you mean 'weight'"):
        Masks({"weigth": torch.ones(1, 2, dtype=torch.bool)}).apply(nn.Linear(2, 1))
    with pytest.raises(BadInput, match=r"is for the shape \(3,\); the parameter's is \(1, 2\)"):
        Masks({"weight": torch.ones(3, dtype=torch.bool)}).apply(nn.Linear(2, 1))


class Stop(Exception):
    pass


HOOKS: dict[str, Any] = {
    "masks": lambda net: Masks(nets.chooser(net).kept(nets.chooser(net).scores())),
    "gradual": lambda net: Gradual(nets.chooser(net, 0.8), updates=5),
    "movement": lambda net: Gradual(nets.chooser(net, 0.8, "movement"), updates=5),
    "first_order": lambda net: Gradual(nets.chooser(net, 0.8, "first_order"), updates=5),
    "curvature": lambda net: Gradual(nets.chooser(net, 0.8, "curvature"), updates=5),
    "surgery": lambda net: Surgery(nets.chooser(net, 0.8), updates=5, until=0.9),
    "rigl": lambda net: Regrow(nets.chooser(net, 0.8), updates=5, until=0.9),
    "set": lambda net: Regrow(nets.chooser(net, 0.8), "random", updates=5, until=0.9),
}


@pytest.mark.parametrize("make", HOOKS.values(), ids=HOOKS)
def test_interrupted_and_continued_is_bit_equal(make: Any, tmp_path: Path) -> None:
    plan = lc.FitPlan(epochs=3, lr=0.02, batch_size=12, optimizer="sgd")

    def trained(*more: Any, **options: Any) -> tuple[nn.Module, StatefulHook]:
        net = nets.net()
        hook = make(net)
        fit(net, plan, train=nets.DATA, loss=F.cross_entropy, hooks=[hook, *more], **options)
        return net, hook

    seen = []

    def interrupt(model: nn.Module, progress: float) -> None:
        seen.append(progress)
        if len(seen) == 7:
            raise Stop

    (whole, expected) = trained()
    with pytest.raises(Stop):
        trained(interrupt, checkpoint=tmp_path)
    again, hook = trained(checkpoint=tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))
    assert all(torch.equal(value, hook.state()[name]) for name, value in expected.state().items())
