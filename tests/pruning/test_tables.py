"""The table of sizes against programs that were really cut: what their layers take, and what they lose."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import laconic as lc
from laconic.core.choices import Table
from laconic.core.errors import BadInput
from laconic.core.macs import LayerShape
from laconic.pruning.coupling import couple
from laconic.pruning.sizes import Sizes, keep_of
from laconic.pruning.surgery import remove
from laconic.pruning.tables import Making, choices, layer_costs, size_table
from tests.pruning.test_structured import task

MAKING = Making(criterion="l1", examples=64)


def took(layer: LayerShape) -> float:
    """A price that is not the multiply-adds: some time for each output, and for the first layers of all."""
    return 1.0 + layer.macs / 1000 + float(np.prod(layer.output)) / 50


def halved(layer: LayerShape) -> float:
    return took(layer) / 2


@pytest.fixture(scope="module")
def program() -> lc.Program:
    return lc.capture(task().build(), torch.randn(2, 1, 8, 8))


@pytest.fixture(scope="module")
def table(program: lc.Program) -> Table:
    return size_table(program, lc.Context(task()), {"fp32": took, "int8": halved}, MAKING)


def cut(program: lc.Program, counts: list[int]) -> lc.Program:
    coupling = couple(program)
    return remove(coupling, keep_of(coupling, [torch.arange(len(group)) for group in coupling.groups], counts))


def test_the_time_of_any_choice_is_that_of_the_layers_of_the_program_that_was_cut_so(program: lc.Program, table: Table) -> None:
    assert [part.values for part in table.parts] == [(8, 4), (12, 8, 4), (16, 12, 8, 4)]
    for chosen in itertools.product(range(2), range(3), range(4)):
        sizes = Sizes(couple(cut(program, [part.values[k] for part, k in zip(table.parts, chosen, strict=True)])))
        layers = [sizes.layer(node, sizes.full) for node in sizes.layers]
        assert table.ms(chosen, "fp32") == pytest.approx(sum(map(took, layers)))
        assert table.ms(chosen, "int8") == pytest.approx(sum(map(took, layers)) / 2)


def test_what_a_group_loses_is_what_the_step_tells_of_that_cut(program: lc.Program, table: Table) -> None:
    part = table.parts[1]
    rises = [0.0]
    for count in part.values[1:]:
        config = lc.Prune(keep={part.name: count}, criterion="l1", examples=64, recovery={"epochs": 0})
        before, after = lc.prune(program, config, lc.Context(task()))[1].changed["loss"]  # type: ignore[operator]
        rises.append(max(rises[-1], after - before))
    assert part.loss == pytest.approx(rises, rel=1e-3, abs=1e-5)
    assert table.made["loss"] == pytest.approx(before)
    assert max(part.loss[-1] for part in table.parts) > 0


class Joined(nn.Module):
    """Two branches whose channels are read as one input, and a layer of heads."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(1, 16, 1)
        self.both, self.head = nn.Conv2d(24, 8, 1), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        both = self.both(torch.cat([self.left(x), self.right(x)], 1).relu())
        return self.head(both.mean((2, 3)))  # type: ignore[no-any-return]


def test_the_time_of_a_layer_with_many_ends_is_linear_around_the_middle() -> None:
    sizes = Sizes(couple(lc.capture(Joined().eval(), torch.randn(2, 1, 6, 6))))
    counts = choices(sizes, MAKING)
    table = Table((), tuple(layer_costs(sizes, counts, {"fp32": took}, lc.Context())))
    middle = tuple(len(own) // 2 for own in counts)

    def exact(chosen: tuple[int, ...]) -> float:
        return sum(took(sizes.layer(node, [own[k] for own, k in zip(counts, chosen, strict=True)])) for node in sizes.layers)

    assert counts == [[8, 4], [16, 12, 8, 4], [8, 4]]
    assert table.ms(middle, "fp32") == pytest.approx(exact(middle))
    for k in range(4):
        assert table.ms((middle[0], k, middle[2]), "fp32") == pytest.approx(exact((middle[0], k, middle[2])))
    assert table.ms((0, 0, 0), "fp32") == pytest.approx(exact((0, 0, 0)), rel=0.2)


def test_an_interrupted_table_goes_on_where_it_stopped(program: lc.Program, table: Table) -> None:
    kept: list[dict[str, Any]] = []

    class Stopped(Exception):
        pass

    def keep(losses: dict[str, list[float]]) -> None:
        kept.append(dict(losses))
        if len(kept) == 2:
            raise Stopped

    with pytest.raises(Stopped):
        size_table(program, lc.Context(task()), {"fp32": took}, MAKING, keep=keep)
    first = {**kept[-1], "0": [0.0, 77.0]}  # told, not measured again
    again = size_table(program, lc.Context(task()), {"fp32": took}, MAKING, known=first)
    assert again.parts[0].loss == (0.0, 77.0)
    assert again.parts[1:] == table.parts[1:]


def test_fewer_sizes_are_timed_where_there_are_very_many(program: lc.Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("laconic.pruning.tables._SHAPES", 20)
    monkeypatch.setattr("laconic.pruning.tables._LEVELS", (4, 2))
    assert choices(Sizes(couple(program)), Making(multiple=1)) == [[8, 4, 1], [12, 8, 2], [16, 8, 2]]


def test_what_cannot_be_measured_is_said(program: lc.Program) -> None:
    with pytest.raises(BadInput, match="the task lacks one of them"):
        size_table(program, lc.Context(dataclasses.replace(task(), loss=None)), {"fp32": took})
    head = lc.capture(nn.Linear(4, 2).eval(), torch.randn(2, 4))
    with pytest.raises(BadInput, match="nothing can be removed"):
        size_table(head, lc.Context(task()), {"fp32": took})
