from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import laconic as lc
from laconic.core.step import StepConfig, as_step, described, step
from laconic.run import runner

X = torch.randn(32, 6)
DATA = TensorDataset(X, (X.sum(1) > 0).long())


@dataclass(frozen=True)
class Spoil(StepConfig):
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


@dataclass(frozen=True)
class Bare:
    """Options that tell nothing of their step."""


def test_options_that_are_no_step_config_are_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_table", lambda: {"bare": (__name__, "Bare", "spoil")})
    with pytest.raises(lc.BadInput, match=r"'bare' are no StepConfig: write class Bare\(laconic.StepConfig\)"):
        lc.apply(lc.capture(net(), X[:4]), [Bare()], lc.Context())


@dataclass(frozen=True)
class Misplaced(StepConfig):
    """A step at a stage that no recipe has."""

    stage = "prunning"  # type: ignore[assignment]


def test_a_stage_that_recipes_do_not_have_is_refused_with_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_table", lambda: {"misplaced": (__name__, "Misplaced", "spoil")})
    with pytest.raises(lc.BadInput, match=r"'misplaced' has the stage 'prunning'.*Did you mean 'pruning'"):
        runner.STEPS.name_of(Misplaced())


@dataclass(frozen=True)
class ShareWeights(StepConfig):
    """A step with facts of its own."""

    section = "sharing"
    bits: int = 5

    def words(self) -> str:
        return f"share {2**self.bits} weights"

    def integer_bits(self) -> int:
        return self.bits


def test_an_outcome_is_described_by_the_options_of_its_step() -> None:
    assert described(lc.Outcome("a"), ShareWeights()) == lc.Outcome("a", title="share 32 weights", section="sharing", bits=5)
    own = lc.Outcome("a", title="mine", section="elsewhere", bits=2)
    assert described(own, ShareWeights()) == own
    assert not lc.Outcome("a").rounds
    assert own.rounds


@pytest.mark.parametrize("config", [lc.Quantize(target="openvino"), None], ids=["given", "left out"])
def test_a_step_called_alone_describes_its_outcome(config: lc.Quantize | None) -> None:
    context = lc.Context(lc.Task(net(), DATA, DATA), target=lc.Target("openvino"))
    _, outcome = lc.quantize(lc.capture(net(), X[:4]), config, context)
    assert (outcome.title, outcome.section, outcome.bits) == ("quantize static", "quantization", 8)


@pytest.mark.parametrize(
    ("config", "words"),
    [(Spoil("a"), "spoil"), (lc.FoldBatchNorm(), "fold batch norm"), (lc.Student("m:make"), "student m:make"), (lc.Fit(), "fit")],
)
def test_words_are_those_of_the_class_unless_it_has_better_ones(config: StepConfig, words: str) -> None:
    assert config.words() == words


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
        "prune": lambda: lc.prune(program, lc.Prune(macs=0.6, recovery={"epochs": 1, **plan}), context),
        "qat": lambda: lc.qat(program, lc.Qat(target="onnxruntime", recovery={"epochs": 1, **plan}), context),
        "step": lambda: lc.apply(program, [lc.Fit(lc.FitPlan(epochs=1, **plan))], context),
    }


@pytest.mark.parametrize("way", ["fit", "module", "swa", "prune", "qat", "step"])
def test_batches_of_one_name_the_batch_norm(way: str) -> None:
    with pytest.raises(lc.BadInput, match=r"batch-norm.*batch_size"):
        one_value({"batch_size": 1})[way]()
