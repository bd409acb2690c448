from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laconic.core.capture import capture
from laconic.core.context import Context
from laconic.core.errors import BadInput
from laconic.core.task import Task, calibration_subset
from laconic.pruning.collect import collect, score
from laconic.pruning.coupling import Coupling, couple
from laconic.pruning.criteria import Evidence
from laconic.tasks.data import ArrayDataset
from tests.core.models import ConvNet
from tests.pruning.cases import CASES, EXAMPLES, built, context_of, doubles, loss
from tests.pruning.test_criteria import Log
from tests.quantization.nets import mlp

BOTH = ("gradients", "activations")


def coupled(module: nn.Module, x: Tensor) -> Coupling:
    return couple(capture(module.eval(), (x,)))


def same(a: Evidence, b: Evidence, *names: str) -> bool:
    """Up to the order of sums in double precision."""
    pairs = [(getattr(a, name), getattr(b, name)) for name in names]
    return all(x.keys() == y.keys() and all(torch.allclose(x[k], y[k], rtol=1e-9, atol=1e-12) for k in x) for x, y in pairs)


# What is collected ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3, 4])
@pytest.mark.parametrize("net", CASES)
def test_streaming_equals_one_batch(net: str, batch_size: int) -> None:
    _, x, coupling = built(net)
    whole, streamed = (collect(coupling, ["activations"], context_of(x), EXAMPLES, size) for size in (EXAMPLES, batch_size))
    assert whole.pooled
    assert all(len(pooled) == EXAMPLES for pooled in streamed.pooled.values())
    assert same(whole, streamed, "pooled", "magnitude", "power")
    assert not streamed.gradients


def test_gradients_are_means_over_batches_and_squares_are_of_batches() -> None:
    _, x, coupling = built("residual")
    whole, streamed = (collect(coupling, ["gradients"], context_of(x), EXAMPLES, size) for size in (EXAMPLES, 2))
    assert whole.gradients
    assert same(whole, streamed, "gradients")
    assert not same(whole, streamed, "squares")
    assert all(torch.allclose(whole.squares[key], g.square()) for key, g in whole.gradients.items())
    assert not whole.pooled


def test_both_at_once_are_what_they_are_alone() -> None:
    _, x, coupling = built("attention")
    both, gradients, activations = (collect(coupling, needs, context_of(x)) for needs in (BOTH, BOTH[:1], BOTH[1:]))
    assert same(both, gradients, "gradients", "squares")
    assert same(both, activations, "pooled", "magnitude", "power")


def test_examples_are_drawn_by_the_seed() -> None:
    _, x, coupling = built("residual")
    found = [collect(coupling, ["activations"], context_of(x, seed=seed), 3) for seed in (0, 1)]
    assert not same(*found, "power")
    chosen = calibration_subset(context_of(x).task.train, 3, 1).indices
    assert same(found[1], collect(coupling, ["activations"], context_of(x[chosen])), "pooled", "power")


class Windows(nn.Module):
    """x (B, 6, 3): windows of two positions are examples of their own in between."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x.view(-1, 2, 3)).relu()
        return self.two(y).view(-1, 6, 2)


class LengthFirst(Windows):
    """The positions come before the examples."""

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x.transpose(0, 1)).relu()).transpose(0, 1)


class ChannelsFirst(nn.Module):
    """All positions of all examples are the length of one sequence, which has no batch."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv1d(3, 4, 1), nn.Conv1d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x.reshape(-1, 3).T).relu()).T.reshape(-1, 6, 2)


@pytest.mark.parametrize("make", [Windows, LengthFirst, ChannelsFirst])
@pytest.mark.parametrize("batch_size", [2, 5])
def test_examples_are_pooled_wherever_the_batch_is(make: Callable[[], nn.Module], batch_size: int) -> None:
    module, x = make().double(), doubles(5, 6, 3)
    evidence = collect(coupled(module, x), ["activations"], context_of(x), 5, batch_size)
    hidden = F.linear(x, module.one.weight.view(4, 3), module.one.bias).relu()
    torch.testing.assert_close(evidence.pooled[1], hidden.mean(1).detach())


def test_what_no_batch_reaches_is_not_pooled() -> None:
    class Queries(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.queries, self.one, self.two = nn.Parameter(torch.randn(6, 3)), nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return x.unsqueeze(1) + self.two(self.one(self.queries).relu())

    module, x = Queries().double(), doubles(6, 2)
    coupling, log = coupled(module, x), Log()
    evidence = collect(coupling, ["activations"], context_of(x), 6, 3)
    hidden = module.one(module.queries).relu().detach()
    at = next(i for i, consumer in enumerate(coupling.consumers) if consumer.tensor == "two.weight")
    torch.testing.assert_close(evidence.magnitude[at], hidden.mean(0))
    assert len(evidence.magnitude) == 2  # of the table itself, too
    assert not evidence.pooled
    score(coupling, "entropy", context_of(x, progress=log))
    assert "entropy has nothing to look at" in log.lines[0]


def test_what_the_batch_does_not_divide_is_not_pooled() -> None:
    class Neighbors(Windows):
        def forward(self, x: Tensor) -> Tensor:
            y = self.one(x).relu()
            return self.two(y[1:] - y[:-1])

    module, x = Neighbors().double(), doubles(6, 3)
    evidence = collect(coupled(module, x), ["activations"], context_of(x), 6, 3)
    assert list(evidence.magnitude) == [1]
    assert not evidence.pooled


def test_values_are_read_when_the_weight_reads_them() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.one(x)
            y[:, :].relu_()
            return self.two(y)

    module, x = InPlace().double(), doubles(6, 3)
    coupling = coupled(module, x)
    assert str(coupling.consumers[1].value.target) == "aten.linear.default"  # changed behind its back
    torch.testing.assert_close(collect(coupling, ["activations"], context_of(x)).pooled[1], module.one(x).relu().detach())


def test_parameters_that_are_not_trained_have_gradients_too() -> None:
    module, x = mlp(3, 4, 2).double(), doubles(4, 3)
    for p in module[0].parameters():
        p.requires_grad_(False)
    coupling = coupled(module, x)
    evidence = collect(coupling, ["gradients"], context_of(x))
    assert bool((evidence.gradients["0.weight"] != 0).any())
    assert [p.requires_grad for p in coupling.program.parameters()] == [False, False, True, True]


# What is left behind ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fails", [False, True], ids=["succeeds", "fails"])
def test_nothing_is_left_behind(training: bool, fails: bool) -> None:
    x = torch.randn(6, 1, 6, 6)
    coupling = coupled(ConvNet(dropout=0.5), x)
    program = coupling.program.train(training)
    parameters = dict(program.named_parameters())
    parameters["stem.weight"].requires_grad_(False)
    parameters["stem.bias"].grad = torch.ones(8)
    before, state = program.fingerprint(), torch.random.get_rng_state()

    def failing(outputs: Tensor, target: Any) -> Tensor:
        raise KeyError

    context = context_of(x)
    if fails:
        context.task.loss = failing
        with pytest.raises(KeyError):
            collect(coupling, BOTH, context)
    else:
        collect(coupling, BOTH, context)
    assert program.training is training
    assert program.fingerprint() == before
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [name for name, p in parameters.items() if not p.requires_grad] == ["stem.weight"]
    assert {name for name, p in parameters.items() if p.grad is not None} == {"stem.bias"}
    assert torch.equal(parameters["stem.bias"].grad, torch.ones(8))
    assert torch.is_grad_enabled()


def test_dropout_is_off() -> None:
    x = torch.randn(6, 1, 6, 6)
    coupling = coupled(ConvNet(dropout=0.5), x)
    coupling.program.train()
    assert same(*(collect(coupling, BOTH, context_of(x)) for _ in range(2)), "gradients", "power")


def test_gradients_come_also_where_they_are_off() -> None:
    _, x, coupling = built("residual")
    with torch.no_grad():
        evidence = collect(coupling, BOTH, context_of(x))
        assert not torch.is_grad_enabled()
    assert not any(t.requires_grad for t in (*evidence.gradients.values(), *evidence.pooled.values()))
    assert evidence.gradients


def test_progress_is_reported() -> None:
    _, x, coupling = built("residual")
    log = Log()
    collect(coupling, BOTH, context_of(x, progress=log), 6, 4)
    assert log.steps == [("collecting gradients and activations", 2), 1, 1, "finish"]


def test_without_a_need_no_data_are_touched() -> None:
    coupling = built("residual")[2]
    evidence = collect(coupling, (), Context(seed=5))
    assert (evidence.seed, evidence.gradients, evidence.power) == (5, {}, {})
    assert len(score(coupling, "group_l2", Context())) == 2


# Errors -----------------------------------------------------------------------------------------------------------------------------------


def empty() -> Task:
    return Task(nn.Identity(), [], [], loss=loss)  # type: ignore[arg-type]


def task_of(x: Tensor, **options: Any) -> Task:
    data = ArrayDataset(x.numpy(), np.zeros(len(x), np.int64))
    return Task(nn.Identity(), **{"train": data, "valid": data, "loss": loss, "name": "mine"} | options)


MISSING: dict[str, tuple[Callable[[Tensor], Task | None], str, dict[str, int], str]] = {
    "no task": (lambda x: None, "activation", {}, "activations on train data, and there is no task. .*l1, l2"),
    "no train data": (lambda x: task_of(x, train=None), "obd", {}, "gradients on train data, and there is none"),
    "no loss": (lambda x: task_of(x, loss=None), "taylor", {}, "task 'mine' has no loss"),
    "empty": (lambda x: empty(), "entropy", {}, "train data of the task 'task' are empty"),
    "no examples": (task_of, "entropy", {"examples": 0}, "must be 1 or more; they are 0 and 16"),
    "no batch": (task_of, "entropy", {"batch_size": 0}, "must be 1 or more; they are 256 and 0"),
}


@pytest.mark.parametrize("case", MISSING)
def test_what_is_missing_is_said(case: str) -> None:
    _, x, coupling = built("residual")
    make, criterion, options, message = MISSING[case]
    with pytest.raises(BadInput, match=message):
        score(coupling, criterion, Context(make(x)), **options)


def test_activations_do_without_a_loss() -> None:
    _, x, coupling = built("residual")
    assert len(score(coupling, "activation", Context(task_of(x, loss=None)))) == 2


def test_an_unknown_need_gets_the_nearest() -> None:
    _, x, coupling = built("residual")
    with pytest.raises(BadInput, match="no evidence 'gradient'. Did you mean 'gradients'"):
        collect(coupling, ["gradient"], context_of(x))


def test_activations_that_are_not_finite_name_the_layer_that_reads_them() -> None:
    _, x, coupling = built("residual")
    bad = x.clone()
    bad[2] = float("nan")
    with pytest.raises(BadInput, match="activations that one reads are not finite") as caught:
        collect(coupling, ["activations"], context_of(bad))
    assert "While executing" not in str(caught.value)


def test_a_loss_that_is_not_finite_says_which_batch() -> None:
    _, x, coupling = built("residual")
    bad = x.clone()
    bad[5] = float("nan")
    with pytest.raises(BadInput, match="loss of batch 3 is nan"):
        collect(coupling, ["gradients"], context_of(bad), EXAMPLES, 2)


def test_a_gradient_that_is_not_finite_names_its_parameter() -> None:
    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(3, 4, bias=False), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.one(x).sqrt())

    module, x = Root().double(), torch.zeros(4, 3, dtype=torch.float64)
    with pytest.raises(BadInput, match=r"gradient of one\.weight is not finite in batch 1"):
        collect(coupled(module, x), ["gradients"], context_of(x))
