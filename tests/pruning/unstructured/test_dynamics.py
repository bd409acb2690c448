from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laconic.pruning.unstructured.dynamics import Gradual, Surgery
from laconic.pruning.unstructured.patterns import Pattern
from laconic.pruning.unstructured.regrowth import Regrow
from tests.pruning.unstructured import nets

X = torch.from_numpy(nets.X)
Y = torch.from_numpy(nets.DATA.target.numpy())


def walk(net: nn.Module, hook: object, steps: int, lr: float = 0.05, momentum: float = 0.9) -> None:
    """Steps of SGD on all examples, the hook after each."""
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr, momentum=momentum)
    for step in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(net(X), Y).backward()
        optimizer.step()
        hook(net, (step + 1) / steps)  # type: ignore[operator]


def zeros(net: nn.Module, name: str) -> float:
    return float((net.get_parameter(name) == 0).float().mean())


def test_gradual_follows_the_cubic_and_never_takes_back() -> None:
    net, seen = nets.net(), []
    hook = Gradual(nets.chooser(net, 0.8), updates=4, until=0.5)
    before: dict[str, Tensor] = {}

    def watched(model: nn.Module, progress: float) -> None:
        hook(model, progress)
        seen.append(zeros(model, "conv.weight"))
        for name, kept in hook.progression.masks.kept.items():
            assert not bool((kept & ~before.get(name, kept)).any())
            before[name] = kept

    walk(net, watched, 16)
    # 4 times until half of 16 steps: after steps 2, 4, 6 and 8, to 0.8 · (1 − (1 − t)³)
    expected = [0.8 * (1 - (1 - t) ** 3) for t in (0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75)] + [0.8] * 9
    assert seen == pytest.approx(expected, abs=1 / 1152)


def test_gradual_lets_the_smallest_go() -> None:
    net = nets.net()
    hook = Gradual(nets.chooser(net, 0.5), updates=1, until=1.0)
    weight = net.conv.weight.detach().clone()
    hook(net, 1.0)
    gone = net.conv.weight == 0
    assert float(weight[gone].abs().max()) <= float(weight[~gone].abs().min())


@pytest.mark.parametrize(("progress", "share"), [(0.2, 0.25), (0.5, 0.5), (1.0, 0.5)])
def test_n_of_m_comes_gradually_too(progress: float, share: float) -> None:
    """1 − (1 − 0.2)³ of two of four is one."""
    net = nets.net()
    Gradual(nets.chooser(net, 0.5, pattern="2:4"), updates=10, until=1.0)(net, progress)
    assert zeros(net, "conv.weight") == share


def test_movement_is_the_sum_of_gradient_times_weight() -> None:
    net = nets.net()
    hook = Gradual(nets.chooser(net, 0.5, "movement"), updates=1, until=1.0)
    total = torch.zeros_like(net.hidden.weight)
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), 0.05)
    for step in range(4):
        optimizer.zero_grad()
        F.cross_entropy(net(X), Y).backward()
        total -= net.hidden.weight.grad * net.hidden.weight.detach()
        optimizer.step()
        hook(net, (step + 1) / 4)
    gone = net.hidden.weight == 0
    assert float(gone.float().mean()) == 0.5
    assert float(total[gone].max()) <= float(total[~gone].min())


def test_curvature_goes_by_squared_gradients_of_late() -> None:
    """|w| · √h, h a running mean of squared gradients, written out; what is masked is told its gradients too."""
    net = nets.net()
    hook = Gradual(nets.chooser(net, 0.5, "curvature"), updates=2, until=1.0)
    names = [weight.name for weight in hook.chooser.weights]
    bends = {name: torch.zeros_like(net.get_parameter(name)) for name in names}
    masks = {name: torch.ones_like(net.get_parameter(name)) for name in names}
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), 0.05)
    for step in range(6):
        optimizer.zero_grad()
        F.cross_entropy(net(X), Y).backward()
        optimizer.step()
        weights = {name: net.get_parameter(name).detach().clone() for name in names}
        hook(net, (step + 1) / 6)
        for name in names:
            bends[name] = 0.999 * bends[name] + 0.001 * net.get_parameter(name).grad ** 2
            if step in (2, 5):
                score = weights[name].abs() * bends[name].sqrt() - 1e9 * (1 - masks[name])
                stay = round((1 - 0.5 * (0.875 if step == 2 else 1.0)) * score.numel())
                masks[name] = (score >= score.flatten().sort(descending=True).values[stay - 1]).float()
    for name in names:
        assert torch.equal(net.get_parameter(name) != 0, masks[name] > 0), name


# Dynamic network surgery ------------------------------------------------------------------------------------------------------------------


def surgery_twin(
    net: nn.Module, sparsity: float, steps: int, updates: int, margin: float, decay: float, lr: float, momentum: float
) -> dict[str, Tensor]:
    """Guo et al. 2016, algorithm 1, written out: dense weights, of which the forward sees W · T, and to which the gradient of W · T is added.

    Behind the mask they decay, and they come back at the upper threshold at most.
    """
    names = [weight.name for weight in nets.chooser(net).weights]
    dense = {name: p.detach().clone() for name, p in net.named_parameters()}
    masks = {name: torch.ones_like(dense[name]) for name in names}
    velocity: dict[str, Tensor] = {}
    done = 0
    net.train()
    for step in range(steps):
        params = {name: (value * masks.get(name, torch.ones(()))).requires_grad_() for name, value in dense.items()}
        loss = F.cross_entropy(torch.func.functional_call(net, params, X), Y)
        for (name, _), gradient in zip(params.items(), torch.autograd.grad(loss, list(params.values())), strict=True):
            velocity[name] = gradient if name not in velocity else momentum * velocity[name] + gradient
            if name in masks:
                dense[name] = dense[name] * (1 - decay * (1 - masks[name]))
            dense[name] = dense[name] - lr * velocity[name]
        position = min(1.0, (step + 1) / steps / 0.75)
        if int(position * updates + 1e-9) > done:
            done = int(position * updates + 1e-9)
            goal = sparsity * (1 - (1 - position) ** 3)
            for name in names:
                size, n = dense[name].abs(), dense[name].numel()
                edge = size.flatten().sort(descending=True).values[round((1 - goal) * n) - 1]
                low, high = ((1 - margin) * edge, (1 + margin) * edge) if position < 1 else (edge, edge)
                before = masks[name]
                masks[name] = torch.where(size < low, 0.0, torch.where(size > high, 1.0, masks[name]))
                if position == 1:
                    masks[name] = (size >= edge).float()
                top = (1 + margin) * float(edge)
                dense[name] = torch.where(masks[name] > before, dense[name].clamp(-top, top), dense[name])
    return {name: value * masks.get(name, torch.ones(())) for name, value in dense.items()}


def test_surgery_equals_its_twin() -> None:
    net, other = nets.net(), nets.net()
    hook = Surgery(nets.chooser(net, 0.7), updates=8)
    walk(net, hook, 24)
    expected = surgery_twin(other, 0.7, 24, 8, 0.1, 0.02, 0.05, 0.9)
    for name, p in net.named_parameters():
        torch.testing.assert_close(p.detach(), expected[name], atol=1e-5, rtol=1e-4)
    assert zeros(net, "conv.weight") == pytest.approx(0.7, abs=1e-3)


def test_surgery_takes_back_what_grew_behind_its_mask() -> None:
    net = nn.Linear(4, 1, bias=False)
    net.weight.data = torch.tensor([[4.0, 3.0, 2.0, 1.0]])
    hook = Surgery(nets.chooser(net, 0.5), updates=4, until=1.0)
    hook(net, 0.5)
    assert net.weight.tolist() == [[4.0, 3.0, 0.0, 0.0]]
    with torch.no_grad():
        net.weight[0, 3] += 9.0  # a step of the optimizer
    hook(net, 0.55)
    assert net.weight.tolist() == [[4.0, 3.0, 0.0, 0.0]]  # not due yet
    hook(net, 0.75)
    # 0.98 · (0.98 · 1 + 9) is far above 4, the score at which two stay: it comes back a tenth above that, and no more
    assert net.weight.tolist() == [[4.0, 0.0, 0.0, pytest.approx(4.4)]]


def test_what_stands_behind_a_mask_fades_however_long_nothing_is_due() -> None:
    net = nn.Linear(4, 1, bias=False)
    net.weight.data = torch.tensor([[4.0, 3.0, 2.0, 1.0]])
    hook = Surgery(nets.chooser(net, 0.5), updates=1, until=1.0, decay=0.5)
    hook(net, 1.0)
    for _ in range(3):
        with torch.no_grad():
            net.weight[0, 2] += 1.0
        hook(net, 1.0)
    assert net.weight.tolist() == [[4.0, 3.0, 0.0, 0.0]]
    assert hook.shadow["weight"].tolist() == [[4.0, 3.0, 2.0, 0.125]]  # half of 2, and 1, thrice: 2 stays 2


def test_a_block_comes_back_as_one_and_no_larger_than_the_threshold() -> None:
    net = nn.Linear(4, 2, bias=False)
    net.weight.data = torch.tensor([[4.0, 2.0, 1.0, 1.0], [0.5, 0.5, 0.25, 0.25]])
    hook = Surgery(nets.chooser(net, 0.5, pattern="1x2"), updates=2, until=1.0, decay=0.5)
    hook(net, 1.0)
    assert net.weight.tolist() == [[4.0, 2.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]]
    hook.progression.last = 0
    with torch.no_grad():
        net.weight[1, :2] += torch.tensor([-8.25, 3.75])
    hook(net, 1.0)  # the block stands at (-8, 4), 12 together; two stay at 6
    assert net.weight.tolist() == [[4.0, 2.0, 0.0, 0.0], [pytest.approx(-4.4), pytest.approx(2.2), 0.0, 0.0]]


# Regrowth ---------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("growth", ["gradient", "random"])
@pytest.mark.parametrize("pattern", ["unstructured", "1x4"])
def test_the_number_of_each_layer_stays_while_masks_change(growth: str, pattern: str) -> None:
    net = nets.net()
    hook = Regrow(nets.chooser(net, 0.75, pattern=pattern), growth, updates=6, until=0.75)  # type: ignore[arg-type]
    first = copy.deepcopy(hook.progression.masks.kept)
    counts: set[tuple[int, ...]] = set()

    def watched(model: nn.Module, progress: float) -> None:
        hook(model, progress)
        counts.add(tuple(int(kept.sum()) for kept in hook.progression.masks.kept.values()))
        assert all(bool((model.get_parameter(name)[~kept] == 0).all()) for name, kept in hook.progression.masks.kept.items())

    walk(net, watched, 16)
    assert len(counts) == 1
    last = hook.progression.masks.kept
    assert any(not torch.equal(first[name], last[name]) for name in first)
    for weight in hook.chooser.weights:
        if pattern != "unstructured":
            units = Pattern.read(pattern).units(weight.matrix(last[weight.name]).float())
            assert set(units.unique().tolist()) <= {0.0, 4.0}


def test_the_least_go_and_the_largest_gradients_grow() -> None:
    net = nn.Linear(6, 1, bias=False)
    net.weight.data = torch.tensor([[6.0, 5.0, 4.0, 0.0, 0.0, 0.0]])
    hook = Regrow(nets.chooser(net, 0.5), updates=2, until=1.0, share=0.66)
    net.weight.grad = torch.tensor([[9.0, 9.0, 0.1, 1.0, 3.0, 2.0]])
    hook(net, 0.5)  # 0.66 / 2 · (1 + cos(π / 2)) of three is one
    assert hook.progression.masks.kept["weight"].tolist() == [[True, True, False, False, True, False]]
    assert net.weight.tolist() == [[6.0, 5.0, 0.0, 0.0, 0.0, 0.0]]


def test_what_went_and_grows_again_keeps_its_value() -> None:
    net = nn.Linear(4, 1, bias=False)
    net.weight.data = torch.tensor([[3.0, 2.0, 0.0, 0.0]])
    hook = Regrow(nets.chooser(net, 0.5), updates=2, until=1.0, share=1.0)
    net.weight.grad = torch.tensor([[0.1, 5.0, 1.0, 2.0]])
    hook(net, 0.5)
    assert net.weight.tolist() == [[3.0, 2.0, 0.0, 0.0]]
