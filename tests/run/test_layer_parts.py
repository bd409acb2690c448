"""Ranks, bits and blocks in the table of sizes against programs that were really rewritten so: what their layers take, and what they lose."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import laconic as lc
from laconic.core.choices import FLOATS, WHOLE, Table
from laconic.core.errors import BadInput
from laconic.core.loss import mean_loss, train_batches
from laconic.core.macs import LayerShape
from laconic.factorize.depth import drop_blocks
from laconic.pruning.coupling import couple
from laconic.pruning.inputs import renew_statistics
from laconic.pruning.sizes import Sizes
from laconic.pruning.tables import LayerPart, Making, size_table
from laconic.run.layer_parts import LayerParts, applied
from laconic.tasks.data import ArrayDataset

MAKING = Making(criterion="l1", examples=64, kinds=("channels", "rank", "bits", "block"))


class Block(nn.Module):
    """Two convolutions beside what entered."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64)
        self.conv2, self.norm2 = nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64)

    def forward(self, x: Tensor) -> Tensor:
        return (self.norm2(self.conv2(self.norm1(self.conv1(x)).relu())) + x).relu()


class Net(nn.Module):
    """A stem, two alike blocks, and a head of which one weight is far from the others, so that rounding it loses something."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = nn.Conv2d(1, 64, 3, padding=1), nn.Sequential(Block(), Block()), nn.Linear(64, 10)
        with torch.no_grad():
            self.head.weight *= 3
            self.head.weight[:, 0] = 200

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x).relu()).mean((2, 3)))  # type: ignore[no-any-return]


def took(layer: LayerShape) -> float:
    """Some time for each layer and each output, and less for integers."""
    return (1.0 if layer.bits is None else 0.4) * (1.0 + layer.macs / 1000 + sum(layer.output) / 50)


def rounded(layer: LayerShape) -> float:
    """A layer in floats among integers takes half as long again as in floats."""
    return 1.5 * took(replace(layer, bits=None)) if layer.bits == FLOATS else took(replace(layer, bits=8))


def plain(layer: LayerShape) -> float:
    """A layer of a net in floats."""
    return took(replace(layer, bits=None))


PRICES = {"fp32": plain, "int8": rounded}


@pytest.fixture(scope="module")
def task() -> lc.Task:
    """Its targets are what the net answers, so that whatever changes the answers loses."""
    torch.manual_seed(0)
    net, inputs = Net().eval(), torch.randn(64, 1, 8, 8)
    with torch.no_grad():
        data = ArrayDataset(inputs.numpy(), net(inputs).argmax(-1).numpy())
    return lc.Task(net, data, data, loss=F.cross_entropy, batch_size=32)


@pytest.fixture(scope="module")
def program(task: lc.Task) -> lc.Program:
    return lc.capture(task.build(), torch.randn(2, 1, 8, 8))


@pytest.fixture(scope="module")
def parts(program: lc.Program, task: lc.Task) -> list[LayerPart]:
    return applied(LayerParts(program, lc.Context(task), PRICES, MAKING, "onnxruntime").every())


@pytest.fixture(scope="module")
def table(program: lc.Program, task: lc.Task, parts: list[LayerPart]) -> Table:
    return size_table(program, lc.Context(task), PRICES, MAKING, more=parts)


def rise(program: lc.Program, changed: lc.Program, task: lc.Task, renew: bool = True) -> float:
    context = lc.Context(task)
    if renew:
        renew_statistics(changed, MAKING.examples, 32, context)
    batches = train_batches(program, context, MAKING.examples)
    return mean_loss(changed, task, batches) - mean_loss(program, task, batches)


def named(table: Table, kind: str, name: str) -> int:
    return next(i for i, part in enumerate(table.parts) if (part.kind, part.name) == (kind, name))


def test_large_layers_have_ranks_alike_blocks_may_go_and_what_loses_by_rounding_may_stay_in_floats(parts: list[LayerPart]) -> None:
    found = {(one.part.kind, one.part.name): one.part for one in parts}
    kinds = [one.part.kind for one in parts]
    assert kinds == sorted(kinds, key=["rank", "bits", "block"].index)
    layers = [f"blocks.{i}.conv{j}" for i in (0, 1) for j in (1, 2)]
    assert [name for kind, name in found if kind == "rank"] == layers
    assert all(part.values[0] == WHOLE and 2 <= len(part.values) <= 4 for (kind, _), part in found.items() if kind == "rank")
    assert found["block", "blocks.1"].values == (1, 0)
    assert [name for kind, name in found if kind == "block"] == ["blocks.0", "blocks.1"]
    assert found["bits", "head"].values == (8, FLOATS)
    assert found["bits", "head"].loss[1] < 0


def test_what_a_choice_loses_is_what_the_step_that_makes_it_loses(program: lc.Program, task: lc.Task, parts: list[LayerPart]) -> None:
    found = {(one.part.kind, one.part.name): one.part for one in parts}
    chains, context = found["rank", "blocks.1.conv1"], lc.Context(task)
    config = lc.LowRank(ranks={chains.name: str(chains.values[-1])}, examples=MAKING.examples)
    changed, _ = lc.low_rank(program, config, context)  # type: ignore[operator]
    assert chains.loss[-1] == pytest.approx(max(0.0, rise(program, changed, task)), rel=0.02, abs=1e-4)
    changed, _ = drop_blocks(program, lc.DropBlocks(blocks=("blocks.0",)))
    assert found["block", "blocks.0"].loss[1] == pytest.approx(max(0.0, rise(program, changed, task)), rel=1e-3, abs=1e-5)
    config = lc.Quantize(target="onnxruntime", examples=64, keep=("stem", "blocks"), correct_bias=False)
    changed, _ = lc.quantize(program, config, context)  # type: ignore[operator]
    assert -found["bits", "head"].loss[1] == pytest.approx(rise(program, changed, task, renew=False), rel=0.25)


@pytest.mark.parametrize("chosen", ["ranks", "block", "both"])
def test_the_time_of_channels_ranks_and_blocks_together_is_that_of_the_program_that_was_changed_so(
    program: lc.Program, task: lc.Task, table: Table, chosen: str
) -> None:
    steps: list[Any] = [lc.Prune(keep={"stem": 48, "blocks.1.conv1": 32}, criterion="l1", recovery={"epochs": 0})]
    picks = dict.fromkeys(range(len(table.parts)), 0)
    for name, count in steps[0].keep.items():
        place = named(table, "channels", name)
        picks[place] = table.parts[place].values.index(count)
    if chosen != "ranks":
        steps.append(lc.DropBlocks(blocks=("blocks.0",)))
        picks[named(table, "block", "blocks.0")] = 1
    if chosen != "block":
        places = [named(table, "rank", f"blocks.1.conv{j}") for j in (1, 2)]
        steps.append(lc.LowRank(ranks={table.parts[i].name: str(table.parts[i].values[-1]) for i in places}))
        picks |= {i: len(table.parts[i].values) - 1 for i in places}
    changed, _ = lc.apply(program, steps, lc.Context(task))
    sizes = Sizes(couple(changed))
    layers = [sizes.layer(node, sizes.full) for node in sizes.layers]
    for precision, price in PRICES.items():
        assert table.ms(tuple(picks.values()), precision) == pytest.approx(sum(map(price, layers)))


def test_floats_among_integers_have_their_own_time_and_other_kinds_can_be_left_out(table: Table) -> None:
    place = named(table, "bits", "head")
    floats = tuple(int(i == place) for i in range(len(table.parts)))
    head = next(cost for cost in table.costs if "head" in cost.layers)
    assert table.ms(floats, "int8") > table.ms(table.whole, "int8")
    assert table.ms(floats, "fp32") == pytest.approx(table.ms(table.whole, "fp32"))
    assert len(head.parts) == 2
    alone = table.only(("channels",))
    assert {part.kind for part in alone.parts} == {"channels"}
    chosen = (1, 0, 1)
    assert alone.ms(chosen, "int8") == pytest.approx(table.ms(table.among_all(chosen, ("channels",)), "int8"))
    assert table.values(floats, "bits") == {"head": FLOATS}
    assert table.values(floats) == {}


def test_what_was_measured_before_an_interruption_is_not_measured_again(
    program: lc.Program, task: lc.Task, parts: list[LayerPart], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[dict[str, list[float]]] = []
    first = LayerParts(program, lc.Context(task), PRICES, MAKING, "", keep=lambda known: kept.append(dict(known)))
    assert list(first.bits()) == []
    blocks = list(first.blocks())
    assert len(kept) == 2
    monkeypatch.setattr(LayerParts, "_without", partial(pytest.fail, "measured again"))
    again = LayerParts(program, lc.Context(task), PRICES, MAKING, "", kept[-1])
    assert [one.part for one in again.blocks()] == [one.part for one in blocks]
    with pytest.raises(BadInput, match="the task lacks one of them"):
        LayerParts(program, lc.Context(replace(task, train=None)), PRICES, MAKING, "")


def test_of_many_layers_those_that_multiply_most_have_fewer_ranks(
    program: lc.Program, task: lc.Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("laconic.run.layer_parts._PASSES", 3)
    found = [one.part for one in LayerParts(program, lc.Context(task), PRICES, MAKING, "").ranks()]
    assert [(part.name, len(part.values)) for part in found] == [("blocks.0.conv1", 2), ("blocks.0.conv2", 2), ("blocks.1.conv1", 2)]
