from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from laconic.core.errors import BadInput
from laconic.core.plan import FitPlan
from laconic.tasks.data import ArrayDataset
from laconic.train.rate import range_test

X = np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32)
DATA = ArrayDataset(X, (X[:, 0] > 0).astype(np.int64))
PLAN = FitPlan(optimizer="sgd", batch_size=16)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))


def test_it_rises_by_a_constant_factor_and_ends_where_the_loss_has_diverged() -> None:
    model = net()
    before = copy.deepcopy(model.state_dict())
    found = range_test(model, PLAN, train=DATA, loss=F.cross_entropy, low=1e-4, high=1e3, steps=50)
    factors = np.diff(np.log(found.rates))
    assert np.allclose(factors, math.log(1e7) / 49, atol=1e-9)
    assert len(found.rates) == len(found.losses) <= 50
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_proposal_lies_where_the_loss_falls() -> None:
    found = range_test(net(), PLAN, train=DATA, loss=F.cross_entropy, low=1e-4, high=1e3, steps=50)
    place = found.rates.index(found.proposal)
    assert place <= int(np.argmin(found.losses))
    assert found.losses[max(0, place - 1)] > found.losses[place + 1]
    assert 1e-3 < found.proposal < 10


def test_steps_are_counted_across_epochs() -> None:
    found = range_test(net(), PLAN, train=DATA, loss=F.cross_entropy, low=1e-6, high=1e-3, steps=30)  # 4 batches an epoch
    assert len(found.rates) == 30
    assert found.rates[0] == pytest.approx(1e-6)
    assert found.rates[-1] == pytest.approx(1e-3)


def test_rates_that_do_not_rise_are_refused() -> None:
    with pytest.raises(BadInput, match="rises from low to high"):
        range_test(net(), PLAN, train=DATA, loss=F.cross_entropy, low=1.0, high=0.1)


def test_a_rate_that_is_too_high_from_the_start() -> None:
    with pytest.raises(BadInput, match="start lower than"):
        range_test(net(), PLAN, train=DATA, loss=lambda o, t: F.cross_entropy(o, t) * float("nan"), steps=20)
