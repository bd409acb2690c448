"""Weights and statistics that belong together: averages, two passes a step, accumulated batches."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import laconic as lc
from tests.train.test_engine import DATA, PLAN, X, _order, accuracy, net, same, trained


def statistics(model: nn.Module) -> tuple[Tensor, Tensor]:
    """What the batch-norm of `net` sees of all training data in one batch: mean, variance."""
    with torch.no_grad():
        seen = model[0](torch.from_numpy(X))  # type: ignore[operator, index]
    return seen.mean(0), seen.var(0)


@pytest.mark.parametrize(("options", "scored"), [({"average": "swa"}, False), ({"average": "swa", "patience": 1}, True),
                                                 ({"optimizer": "schedule_free"}, False), ({"optimizer": "schedule_free", "patience": 2}, True)])  # fmt: skip
def test_weights_at_which_no_step_was_taken_get_their_own_statistics(options: dict[str, Any], scored: bool) -> None:
    """One batch holds all data, so the mean over batches is exact."""
    plan = dataclasses.replace(PLAN, epochs=9, batch_size=96, **options)
    model, record = trained(plan, **({"valid": DATA, "score": accuracy} if scored else {}))
    mean, var = statistics(model)
    assert torch.allclose(model[1].running_mean, mean, atol=1e-5)  # type: ignore[index]
    assert torch.allclose(model[1].running_var, var, atol=1e-5)  # type: ignore[index]
    if scored:
        best = max(epoch.metric or 0.0 for epoch in record.epochs[6 if "average" in options else 0 :])
        model.eval()
        assert accuracy(model(torch.from_numpy(X)), DATA.target) == pytest.approx(best)


def test_patience_with_swa_counts_from_the_epoch_in_which_averages_begin() -> None:
    """Nine epochs; the last quarter begins in the seventh, and only its averages can be delivered."""
    scores = iter([0.9, 0.1, 0.1, 0.1, 0.1, 0.1, 0.5, 0.4, 0.3])
    plan = dataclasses.replace(PLAN, epochs=9, average="swa", patience=1)
    model, record = trained(plan, valid=DATA, score=lambda outputs, target: next(scores))
    assert [epoch.metric for epoch in record.epochs] == [0.9, 0.1, 0.1, 0.1, 0.1, 0.1, 0.5, 0.4]
    twin, _ = trained(dataclasses.replace(PLAN, epochs=9))
    assert not same(model, twin)


def test_estimating_anew_between_epochs_changes_no_training() -> None:
    plan = dataclasses.replace(PLAN, epochs=8, average="swa")
    one, _ = trained(plan)
    two, _ = trained(plan, valid=DATA, score=accuracy)
    assert same(one, two)


@pytest.mark.parametrize("captured", [False, True], ids=["module", "program"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_sam_counts_each_batch_once_in_batch_norms(captured: bool, accumulate: int) -> None:
    """At a rate of (nearly) 0 both trainings see the same values, so their running statistics must be the same."""
    plan = dataclasses.replace(PLAN, lr=1e-30, accumulate=accumulate)
    models = []
    for sam in (0.0, 0.5):
        model = net(dropout=0.0)
        models.append(lc.capture(model.eval(), torch.from_numpy(X[:4])) if captured else model)
        trained(dataclasses.replace(plan, sam=sam), models[-1])
    plain, sharp = (model.state_dict() for model in models)
    assert int(sharp["1.num_batches_tracked"]) == int(plain["1.num_batches_tracked"]) == 18
    assert torch.allclose(sharp["1.running_mean"], plain["1.running_mean"], atol=1e-7)
    assert torch.allclose(sharp["1.running_var"], plain["1.running_var"], atol=1e-7)


def test_sam_equals_its_two_passes_written_out() -> None:
    """Foret et al. 2021, algorithm 1; the gradient is clipped once, behind both passes."""
    model, twin = net(dropout=0.0), net(dropout=0.0)
    trained(dataclasses.replace(PLAN, epochs=1, schedule="constant", sam=0.1, grad_clip=0.05), model)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    order = torch.randperm(96, generator=_order(0))
    twin.train()
    for rows in order.split(16):
        x, y = torch.from_numpy(X)[rows], DATA.target[rows]
        optimizer.zero_grad()
        F.cross_entropy(twin(x), y).backward()  # type: ignore[no-untyped-call]
        statistics = copy.deepcopy(twin[1].state_dict())  # type: ignore[index]
        own = [p.detach().clone() for p in twin.parameters()]
        length = torch.cat([p.grad.flatten() for p in twin.parameters() if p.grad is not None]).norm()
        with torch.no_grad():
            for p in twin.parameters():
                p += 0.1 * p.grad / length  # type: ignore[operator]
        optimizer.zero_grad()
        F.cross_entropy(twin(x), y).backward()  # type: ignore[no-untyped-call]
        twin[1].load_state_dict({**statistics, "weight": twin[1].weight, "bias": twin[1].bias})  # type: ignore[index, arg-type]
        with torch.no_grad():
            for p, before in zip(twin.parameters(), own, strict=True):
                p.copy_(before)
        nn.utils.clip_grad_norm_(twin.parameters(), 0.05)
        optimizer.step()
    assert all(torch.allclose(value, twin.state_dict()[name], atol=1e-6) for name, value in model.state_dict().items())


@pytest.mark.parametrize("options", [{"average": "ema", "ema_decay": 0.5}, {"average": "swa"}, {"optimizer": "schedule_free"}], ids=str)
def test_averages_count_optimizer_steps_not_batches(options: dict[str, Any]) -> None:
    """Two accumulated batches of 16 are one of 32: the same steps, and so the same averages."""
    plan = dataclasses.replace(PLAN, epochs=4, lr=0.01, **options)
    small, large = net(dropout=0.0), net(dropout=0.0)
    for model in (small, large):
        model[1] = nn.Identity()  # batch-norm looks at each batch by itself
    trained(dataclasses.replace(plan, accumulate=2), small)
    trained(dataclasses.replace(plan, batch_size=32), large)
    assert all(torch.allclose(value, large.state_dict()[name], atol=1e-5) for name, value in small.state_dict().items())


def test_the_clipped_gradient_is_that_of_all_accumulated_batches() -> None:
    small, large = net(dropout=0.0), net(dropout=0.0)
    for model in (small, large):
        model[1] = nn.Identity()
    plan = dataclasses.replace(PLAN, grad_clip=0.05, gradients="centralize")
    trained(dataclasses.replace(plan, accumulate=2), small)
    trained(dataclasses.replace(plan, batch_size=32), large)
    assert all(torch.allclose(value, large.state_dict()[name], atol=1e-6) for name, value in small.state_dict().items())
