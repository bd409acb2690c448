from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import laconic as lc
from laconic.train.average import Average, renew_batch_norm


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))


def walk(model: nn.Module, average: Average, steps: int) -> list[dict[str, torch.Tensor]]:
    """Random steps of the weights; the states after each."""
    states = []
    generator = torch.Generator().manual_seed(1)
    for index in range(steps):
        with torch.no_grad():
            for p in model.parameters():
                p += torch.randn(p.shape, generator=generator)
        average.update((index + 1) / steps)
        states.append(copy.deepcopy(model.state_dict()))
    return states


def test_swa_is_the_mean_of_the_last_quarter() -> None:
    model = net()
    average = Average(model, "swa", 0.9)
    states = walk(model, average, 16)
    average.deliver()
    last = states[11:]  # progress 12/16 and on
    for name, value in model.named_parameters():
        assert torch.allclose(value, torch.stack([s[name] for s in last]).mean(0), atol=1e-5)


def test_ema_equals_its_recursion() -> None:
    model = net()
    twin = {name: p.detach().clone() for name, p in model.named_parameters()}
    average = Average(model, "ema", 0.5)
    for index, state in enumerate(walk(model, average, 12)):
        keep = min(0.5, (1 + index) / (10 + index))
        twin = {name: keep * value + (1 - keep) * state[name] for name, value in twin.items()}
    average.deliver()
    assert all(torch.allclose(p, twin[name], atol=1e-5) for name, p in model.named_parameters())


def test_inside_the_average_applies_and_outside_it_does_not() -> None:
    model = net()
    average = Average(model, "ema", 0.5)
    walk(model, average, 3)
    own = copy.deepcopy(model.state_dict())
    with average.applied():
        assert not torch.equal(model.state_dict()["0.weight"], own["0.weight"])
    assert all(torch.equal(value, own[name]) for name, value in model.state_dict().items())


def test_before_the_first_update_there_is_nothing_to_apply() -> None:
    model = net()
    average, own = Average(model, "swa", 0.5), copy.deepcopy(model.state_dict())
    average.update(0.1)
    with average.applied():
        pass
    average.deliver()
    assert all(torch.equal(value, own[name]) for name, value in model.state_dict().items())


def test_the_state_goes_on_where_it_was() -> None:
    whole, parts = net(), net()
    one, two = Average(whole, "ema", 0.9), Average(parts, "ema", 0.9)
    walk(whole, one, 6)
    walk(parts, two, 6)
    again = Average(parts, "ema", 0.9)
    again.restore(two.state())
    walk(whole, one, 3)
    walk(parts, again, 3)
    assert all(torch.equal(value, again.values[name]) for name, value in one.values.items())


def test_what_is_done_inside_is_undone_outside() -> None:
    model = net()
    average = Average(model, "ema", 0.5)
    walk(model, average, 3)
    own = copy.deepcopy(model.state_dict())
    with average.applied():
        renew_batch_norm(model, [torch.randn(8, 2, 4, 4) for _ in range(5)])
        assert int(model.state_dict()["1.num_batches_tracked"]) == 5
    assert all(torch.equal(value, own[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("training", [False, True], ids=["from eval", "from train"])
@pytest.mark.parametrize("captured", [False, True], ids=["module", "program"])
def test_dropout_adds_nothing_to_the_statistics(captured: bool, training: bool) -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)).eval()
    x = torch.randn(64, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    found = lc.capture(model, x) if captured else model
    found.train(training)
    renew_batch_norm(found, [x])
    with torch.no_grad():
        value = model[1](x)
    assert torch.allclose(found.state_dict()["2.running_var"], value.var((0, 2, 3)), atol=1e-4)


@pytest.mark.parametrize("captured", [False, True])
def test_batch_norm_is_estimated_anew(captured: bool) -> None:
    model = net().eval()
    batches = [torch.randn(8, 2, 4, 4, generator=torch.Generator().manual_seed(i)) * 3 + 1 for i in range(4)]
    found = lc.capture(model, batches[0]) if captured else model
    renew_batch_norm(found, batches)
    with torch.no_grad():
        values = [model[0](x) for x in batches]
    state = found.state_dict()
    assert torch.allclose(state["1.running_mean"], torch.stack([v.mean((0, 2, 3)) for v in values]).mean(0), atol=1e-5)
    assert torch.allclose(state["1.running_var"], torch.stack([v.var((0, 2, 3)) for v in values]).mean(0), atol=1e-4)
    assert not found.training
