"""Rounding with compensation: against least squares written out, and as a part of rate–distortion quantization."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import laconic as lc
from laconic.core.weights import stored_weights
from laconic.storage import rate_distortion as step
from laconic.storage.compensate import compensated, grams, shrunk
from tests.pruning.unstructured import nets

GENERATOR = torch.Generator().manual_seed(0)
INPUTS = torch.randn(300, 6, generator=GENERATOR) @ torch.randn(6, 150, generator=GENERATOR) + 0.3 * torch.randn(
    300, 150, generator=GENERATOR
)
WEIGHT = torch.randn(5, 150, generator=GENERATOR)


def test_each_number_is_the_nearest_to_what_makes_up_for_those_before() -> None:
    """Of the columns that are left, least squares says what they should be, given what those before became: solved anew for each column."""
    gram = (INPUTS.T @ INPUTS / len(INPUTS)).double()
    damped = gram + 0.01 * gram.diagonal().mean() * torch.eye(150)
    weight, found = WEIGHT.double(), torch.zeros(5, 150, dtype=torch.double)
    for j in range(150):
        before, left = slice(0, j), slice(j, 150)
        wanted = weight[:, left]
        if j:
            errors = weight[:, before] - found[:, before]
            wanted = wanted + torch.linalg.solve(damped[left, left], damped[left, before] @ errors.T).T
        found[:, j] = (wanted[:, 0] / 0.5).round() * 0.5
    torch.testing.assert_close(compensated(WEIGHT, gram, lambda values, j: (values / 0.5).round() * 0.5), found.float())


def test_a_layers_output_errs_far_less_than_with_nearest_numbers() -> None:
    def error(rounded: Tensor) -> float:
        return float((INPUTS @ (rounded - WEIGHT).T).square().sum())

    made_up = compensated(WEIGHT, INPUTS.T @ INPUTS, lambda values, j: values.round())
    assert error(made_up) < 0.3 * error(WEIGHT.round())


def test_few_examples_do_not_lead_astray() -> None:
    """Of 20 rows of 150 independent inputs, what is left unseen errs hardly more on others; without the shrinking it errs far more."""
    seen, others = torch.randn(20, 150, generator=GENERATOR), torch.randn(500, 150, generator=GENERATOR)
    gram = seen.T @ seen / 20

    def error(rounded: Tensor) -> float:
        return float((others @ (rounded - WEIGHT).T).square().sum())

    blind, careful = (error(compensated(WEIGHT, each, lambda values, j: values.round())) for each in (gram, shrunk(gram, 20)))
    nearest = error(WEIGHT.round())
    assert careful < 1.1 * nearest
    assert blind > 1.5 * nearest


class Table(nn.Module):
    """A table that is looked up, a grouped kernel and a matrix that is multiplied inputs first: of the last alone the inputs fold into one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.kernel = nn.Embedding(7, 8), nn.Conv1d(8, 8, 3, groups=2)
        self.matrix, self.bias = nn.Parameter(torch.randn(8, 6)), nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, self.kernel(self.table(x).mT).mean(2), self.matrix)


def test_inputs_are_those_that_a_weight_is_multiplied_with() -> None:
    torch.manual_seed(0)
    data = [(torch.randint(0, 7, (5,)), 0) for _ in range(12)]
    model = Table().eval()
    program = lc.capture(model, torch.stack([x for x, _ in data]))
    weights, _ = stored_weights(program, vectors=True)
    found = grams(program, weights, lc.Context(lc.Task(model, data, data)), 12)
    told = {weight.name: gram for weight, gram in zip(weights, found, strict=True) if gram is not None}
    assert list(told) == ["matrix"]
    rows = model.kernel(model.table(torch.stack([x for x, _ in data])).mT).mean(2).detach()
    torch.testing.assert_close(told["matrix"], shrunk(rows.T @ rows / 12, 12))


@pytest.mark.parametrize("biases", [False, True])
def test_rounding_by_loss_and_bits_makes_up_for_errors(biases: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the same steps the program answers nearer to what it did, and what was zero stays zero."""
    program = nets.program()
    with torch.no_grad():
        program.get_parameter("hidden.weight")[:, ::3] = 0
    config = lc.RateDistortion(slope=1e-7, grid="stepped", bits=8, biases=biases, examples=48, recovery={"epochs": 0})
    x = torch.from_numpy(nets.X)

    def error(result: Any) -> float:
        return float((result(x) - program(x)).detach().square().mean())

    made_up, told = lc.rate_distortion(program, config, nets.context())
    monkeypatch.setattr(step, "grams", lambda program, weights, context, examples: [None] * len(weights))
    nearest, plain = lc.rate_distortion(program, config, nets.context())
    assert error(made_up) < 0.9 * error(nearest)
    assert told.changed["bits_per_weight"] < 1.1 * plain.changed["bits_per_weight"]
    assert bool((made_up.get_parameter("hidden.weight")[:, ::3] == 0).all())
