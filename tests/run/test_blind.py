"""A metric that sees nothing of the model is refused; a bad model with a good metric is not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import laconic as lc
from laconic.core.errors import BadInput
from laconic.core.records import Measurement
from laconic.run.blind import better_than_shuffled, probed
from laconic.run.examples import Examples
from laconic.run.record import Record
from laconic.tasks import metrics

G = torch.Generator().manual_seed(3)
X = torch.randn(150, 6, generator=G)


class Picks(nn.Module):
    """Answers `sign` times its first inputs, so that it is as good or bad as is wanted."""

    def __init__(self, outputs: int, sign: float = 1.0, squash: bool = False) -> None:
        super().__init__()
        self.outputs, self.squash = outputs, squash
        self.sign = nn.Parameter(torch.tensor(sign))

    def forward(self, x: Tensor) -> Tensor:
        y = self.sign * x[:, : self.outputs]
        return y.sigmoid() if self.squash else y


def accuracy(logits: Tensor, target: Tensor) -> float:
    return 100 * float((logits.argmax(1) == target).float().mean())


def probe(net: nn.Module, target: Tensor, metric: Any, direction: Any = None, loss: Any = None) -> Record:
    task = lc.Task(net, None, TensorDataset(X, target), loss=loss, metric=metric, direction=direction)
    program = lc.capture(net, X[:4])
    spec = metrics.of(task)
    logits = program(X).detach()
    record = Record("k", "t", {}).with_measured(metric=Measurement(spec.score(logits, target), spec.unit))
    return probed(record, spec, logits, Examples(Path(), target, len(target)), task, program)


THREE, YES, VALUE = X[:, :3].argmax(1), (X[:, :2] > 0).float(), X[:, :1] + 0.3 * torch.randn(150, 1, generator=G)


@pytest.mark.parametrize(
    ("net", "target", "metric", "loss"),
    [
        (Picks(3), THREE, "accuracy", F.cross_entropy),
        (Picks(3), THREE, "auroc", None),
        (Picks(2), YES, "f1", F.binary_cross_entropy_with_logits),
        (Picks(1), VALUE, "mae", F.mse_loss),
        (Picks(1), VALUE, "r2", None),
    ],
    ids=lambda v: str(v) if isinstance(v, str) else "",
)
def test_a_metric_that_sees_the_model_passes_and_is_recorded(net: nn.Module, target: Tensor, metric: str, loss: Any) -> None:
    found = probe(net, target, metric, loss=loss)
    assert found.probes is not None
    assert set(found.probes) == {"own", "shuffled", "negated", "constant"}
    sign = 1 if metrics.METRICS[metric].direction == "max" else -1
    assert all(sign * found.probes[name] < sign * found.probes["own"] for name in ("shuffled", "negated", "constant"))
    assert not found.notes
    assert Record.from_json(dataclasses.asdict(found)).probes == found.probes


@pytest.mark.parametrize(
    ("metric", "direction", "loss"),
    [
        (lambda logits, target: 1.0, "max", None),
        (lambda logits, target: float(target.float().mean()), "max", F.cross_entropy),
        (lambda logits, target: float(len(logits)), "min", None),
        (lambda logits, target: float((logits.mean() - target.float().mean()).abs()), "min", None),
        (lambda logits, target: float((logits.mean() - target.float().mean()).abs()), "min", F.cross_entropy),
    ],
)
def test_a_blind_metric_is_refused(metric: Callable[[Tensor, Tensor], float], direction: str, loss: Any) -> None:
    with pytest.raises(BadInput, match="this metric cannot tell your model from a constant one: .* of the model, .* shuffled"):
        probe(Picks(3), THREE, metric, direction, loss)


@pytest.mark.parametrize("loss", [None, F.binary_cross_entropy])
def test_a_named_metric_of_probabilities_is_refused(loss: Any) -> None:
    with pytest.raises(BadInput, match="this metric cannot tell your model from a constant one: 'f1' .* logits, not probabilities"):
        probe(Picks(2, squash=True), YES, "f1", loss=loss)


class Says(nn.Module):
    """Says one class, whatever it sees, but not equally surely."""

    def __init__(self, kind: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(50.0 * F.one_hot(torch.tensor(kind), 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.bias - x[:, :3]


def test_a_model_that_says_one_class_is_no_fault_of_a_named_metric() -> None:
    target = THREE.clone()
    target[:90] = 0
    for loss in (None, F.cross_entropy):
        found = probe(Says(0), target, "accuracy", loss=loss)
        assert found.probes is not None
        assert found.probes["own"] == found.probes["shuffled"] == found.probes["constant"] > found.probes["negated"]
    with pytest.raises(BadInput, match="cannot tell your model from a constant one"):
        probe(Says(0), target, accuracy, "max")


def test_a_wrong_direction_is_refused_where_the_loss_knows_better() -> None:
    with pytest.raises(BadInput, match="by this metric your model is no better than a constant one, though by its loss it is.* direction"):
        probe(Picks(3), THREE, accuracy, "min", F.cross_entropy)


@pytest.mark.parametrize("loss", [None, F.cross_entropy])
def test_a_bad_model_is_noted_and_not_refused(loss: Any) -> None:
    found = probe(Picks(3, -1.0), THREE, accuracy, "max", loss)
    assert found.probes is not None
    assert found.probes["own"] < 10
    assert "the model is no better than a constant one" in found.notes[0]


@pytest.mark.parametrize("seed", range(6))
def test_untrained_nets_run(seed: int) -> None:
    """Random answers to random questions, and to questions that the data decides: the metric sees, the model is merely untrained."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 4))
    for target in (torch.randint(0, 4, (150,), generator=generator), X[:, :4].argmax(1)):
        assert probe(net, target, "accuracy", loss=F.cross_entropy).status == "passed"
    assert probe(nn.Linear(6, 1), X[:, :1], "mae", loss=F.l1_loss).status == "passed"


def test_a_metric_that_cannot_take_constant_answers_saw_them() -> None:
    def correlation(logits: Tensor, target: Tensor) -> float:
        if float(logits.std()) == 0:
            raise ValueError("no variance")
        return float(torch.corrcoef(torch.stack([logits[:, 0], target[:, 0]]))[0, 1])

    assert probe(Picks(1), VALUE, correlation, "max").probes is not None


def test_the_loss_tells_a_good_model_from_a_bad_one() -> None:
    def asked(sign: float, loss: Any, target: Tensor = THREE) -> bool | None:
        net = Picks(3, sign)
        return better_than_shuffled(lc.Task(net, None, TensorDataset(X, target), loss=loss), lc.capture(net, X[:4]))

    assert asked(1.0, F.cross_entropy) is True
    assert asked(-1.0, F.cross_entropy) is False
    assert asked(1.0, None) is None
    assert asked(1.0, lambda out, target: 0 * out.sum()) is None
    assert asked(1.0, F.cross_entropy, THREE * 0) is None
    assert asked(1.0, lambda out, target: target["no"]) is None


def test_the_run_stops(tmp_path: Path) -> None:
    net = Picks(3)
    task = lc.Task(net, None, TensorDataset(X, THREE), metric=lambda logits, target: 3.0, direction="max")
    with pytest.raises(BadInput, match="cannot tell your model from a constant one"):
        lc.optimize(task, lc.Budget(max_drop=1.0), out=str(tmp_path / "run"), recipes=[], options=lc.Options(rounds=2, turn_seconds=0.01))
