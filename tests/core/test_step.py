from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import laconic as lc
from laconic.core.step import as_step, step
from laconic.run import runner

X = torch.randn(32, 6)
DATA = TensorDataset(X, (X.sum(1) > 0).long())


@dataclass(frozen=True)
class Spoil:
    """Which kind of damage."""

    kind: str


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)).eval()


def spoil(program: lc.Program, config: Spoil, context: Any = None) -> tuple[lc.Program, lc.Outcome]:
    import copy

    found = copy.deepcopy(program)
    tensors = dict([*found.named_parameters(), *found.named_buffers()])
    with torch.no_grad():
        match config.kind:
            case "parameter":
                tensors["0.weight"][0, 0] = float("inf")
            case "buffer":
                tensors["1.running_var"][3] = float("nan")
            case "output":  # finite tensors, answers beyond float32
                tensors["0.weight"].fill_(3e38)
                tensors["2.weight"].fill_(3e38)
            case "valid":  # finite on small inputs only
                tensors["0.weight"].mul_(1e30)
    return found, lc.Outcome("spoil")


WORDS = {"parameter": "parameter '0.weight'", "buffer": "buffer '1.running_var'", "output": "answers are not finite"}


@pytest.mark.parametrize("kind", WORDS)
def test_a_program_that_is_not_finite_is_an_error_of_the_step(kind: str) -> None:
    program = lc.capture(net(), X[:4])
    with pytest.raises(lc.LaconicError, match=f"'spoil' .*{WORDS[kind]}"):
        step("spoil")(spoil)(program, Spoil(kind))


def test_answers_to_the_valid_data_count_too() -> None:
    program = lc.capture(net(), X[:4])
    big = TensorDataset(X * 1e20, DATA.tensors[1])
    checked = step("spoil")(spoil)
    checked(program, Spoil("valid"), lc.Task(net(), None, DATA))
    with pytest.raises(lc.LaconicError, match="on the first examples of the valid data"):
        checked(program, Spoil("valid"), lc.Context(lc.Task(net(), None, big)))


def test_steps_of_other_packages_are_checked_by_apply(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_table", lambda: {"spoil": (__name__, "Spoil", "spoil")})
    program = lc.capture(net(), X[:4])
    with pytest.raises(lc.LaconicError, match="'spoil' left the parameter"):
        lc.apply(program, [Spoil("parameter")], lc.Context())


@pytest.mark.parametrize("name", runner.TABLE)
def test_every_step_is_checked_wherever_it_is_called(name: str) -> None:
    function = runner.STEPS.function(name)
    assert as_step(name, function) is function
    with pytest.raises(lc.BadInput, match=f"'{name}' takes a Program.*Linear.*laconic.capture"):
        function(nn.Linear(2, 2), None, None)


class Log(nn.Module):
    """Answers minus infinity for what is masked, as language models do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.masked_fill(torch.arange(6) > 3, float("-inf"))


def test_infinite_answers_of_the_program_before_are_no_fault() -> None:
    program = lc.capture(Log(), X[:4])
    found, _ = lc.fold_batch_norm(program)
    assert torch.equal(found.call(X[:4]), program.call(X[:4]))


def test_fit_says_when_statistics_are_no_numbers() -> None:
    bad = TensorDataset(torch.randn(8, 6) * 1e25, torch.zeros(8, dtype=torch.long))
    program = lc.capture(nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).eval(), X[:4])
    with pytest.raises(lc.LaconicError, match=r"buffer '1\.running_var'"):
        lc.fit(program, lc.FitPlan(epochs=1, batch_size=4), lc.Task(program, bad, bad, loss=nn.functional.cross_entropy))


def one_value(plan: dict[str, Any]) -> dict[str, Any]:
    program = lc.capture(net(), X[:4])
    task = lc.Task(net(), DATA, DATA, loss=nn.functional.cross_entropy)
    context = lc.Context(task, lc.fit)
    return {
        "fit": lambda: lc.fit(program, lc.FitPlan(epochs=1, **plan), task),
        "module": lambda: lc.fit(net(), lc.FitPlan(epochs=1, **plan), task),
        "swa": lambda: lc.fit(program, lc.FitPlan(epochs=1, average="swa", **plan), task),
        "prune": lambda: lc.prune(program, lc.Prune(macs=0.6, epochs=1, **plan), context),
        "qat": lambda: lc.qat(program, lc.Qat(target="onnxruntime", epochs=1, **plan), context),
        "step": lambda: lc.apply(program, [lc.Fit(epochs=1, **plan)], context),
    }


@pytest.mark.parametrize("way", ["fit", "module", "swa", "prune", "qat", "step"])
def test_batches_of_one_name_the_batch_norm(way: str) -> None:
    with pytest.raises(lc.BadInput, match=r"batch-norm.*batch_size"):
        one_value({"batch_size": 1})[way]()
