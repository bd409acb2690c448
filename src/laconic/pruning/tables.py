"""The table of a program's groups: what the layers take and what the loss becomes with fewer components in one group, measured once.

Times are those of single layers on the target (`Context.price`), by the sizes at both of their ends and by what else is chosen of them (`LayerPart`). Losses
are those of the program with one group cut and the statistics of its batch-norms estimated anew, on the same examples of the train data.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, fx

from laconic.core.choices import Cost, Kind, Part, Table
from laconic.core.context import Context
from laconic.core.errors import BadInput
from laconic.core.graph import module_path
from laconic.core.loss import mean_loss, train_batches
from laconic.core.macs import LayerShape
from laconic.core.program import Program
from laconic.core.recovery import recovery
from laconic.pruning.allocation import Limits
from laconic.pruning.collect import score
from laconic.pruning.coupling import Coupling, Group, couple
from laconic.pruning.inputs import renew_statistics
from laconic.pruning.sizes import Sizes, keep_of
from laconic.pruning.surgery import remove

Price = Callable[[LayerShape], float]
Layers = tuple[LayerShape, ...]
Option = Callable[[Layers], Layers]  # what stands in a layer's place, of the layers that would stand there else
Known = dict[str, list[float]]  # losses by group
_Chosen = tuple[int, ...]  # numbers of groups, or a position in the counts of each of them
_SHAPES = 300  # that are timed at most, for which groups get fewer sizes
_LEVELS = (6, 5, 4, 3)


@dataclass(frozen=True)
class Making:
    """How a table is made.

    Args:
        criterion: which components of a group go first.
        floor: share of each group that is kept in any case.
        multiple: of channels that sizes are, where a group has twice that or more. Kernels like some sizes better; what they take there is measured.
        examples: of the train data, on which losses are.
        kinds: of parts that are chosen, channels in any case.
    """

    criterion: str = "group_l2"
    floor: float = 0.1
    multiple: int = 4
    examples: int = 256
    kinds: tuple[Kind, ...] = ("channels",)


@dataclass(frozen=True, eq=False)
class LayerPart:
    """A part that is chosen of layers beside their channels: a rank, bits, whether they are there.

    Attributes:
        part: its choices.
        options: for each of them, what it makes of a layer.
        layers: names of the nodes of which it is chosen.
    """

    part: Part
    options: tuple[Option, ...]
    layers: Collection[str]


def size_table(
    program: Program,
    context: Context,
    prices: Mapping[str, Price],
    making: Making | None = None,
    known: Known | None = None,
    keep: Callable[[Known], None] | None = None,
    more: Sequence[LayerPart] = (),
) -> Table:
    """Measure the table of all groups of a program.

    Args:
        program: not changed.
        context: the task, with train data and a loss; its progress is told of each layer and each size.
        prices: by precision, the milliseconds of a layer in it.
        making: how.
        known: losses by group that an earlier, interrupted call measured.
        keep: is given what is known after each group.
        more: what else is chosen of layers.

    Raises:
        BadInput: nothing can be removed, or the task has no train data or no loss.
    """
    making = making or Making()
    coupling = couple(program)
    if not coupling.groups:
        raise BadInput("there is no table of sizes: nothing can be removed from this model")
    sizes = Sizes(coupling)
    counts = choices(sizes, making)
    costs = layer_costs(sizes, counts, prices, context, more)
    whole, losses = group_losses(coupling, counts, making, context, known or {}, keep or (lambda found: None))
    parts = [Part(group.name, tuple(own), tuple(losses[group.name])) for group, own in zip(coupling.groups, counts, strict=True)]
    parts += [own.part for own in more]
    made = {"criterion": making.criterion, "examples": making.examples, "loss": whole}
    return Table(tuple(parts), tuple(costs), context.target.runtime, made)


# Sizes --------------------------------------------------------------------------------------------------------------------------------------


def choices(sizes: Sizes, making: Making) -> list[list[int]]:
    """Return the counts of each group to choose from, the whole one first: fewer of them where very many shapes would have to be timed."""
    steps = [_step(group, making.multiple) for group in sizes.coupling.groups]
    for levels in _LEVELS:
        counts = [ladder(n, Limits(making.floor, step), levels) for n, step in zip(sizes.full, steps, strict=True)]
        if len(distinct(sizes, counts)) <= _SHAPES:
            break
    return counts


def distinct(sizes: Sizes, counts: Sequence[Sequence[int]]) -> set[LayerShape]:
    """Return the shapes that would be timed."""
    return {
        _shape(sizes, node, ends, chosen, counts)
        for node, ends in zip(sizes.layers, _ends(sizes), strict=True)
        for chosen in _wanted(ends, counts)
    }


def ladder(n: int, limits: Limits, levels: int) -> list[int]:
    """Return about so many counts, from all components down to the fewest that may be left, in steps of a multiple times a power of two.

    >>> ladder(64, Limits(0.1, 4), 6), ladder(12, Limits(0.1, 1), 6), ladder(3, Limits(0.1, 4), 6)
    ([64, 48, 32, 16, 8], [12, 10, 8, 6, 4, 2], [3, 2, 1])
    """
    step = limits.multiple if n >= 2 * limits.multiple else 1
    step *= 2 ** max(0, math.ceil(math.log2(n / step / levels)))
    lowest = limits.lowest(n)
    return sorted({n, lowest, *range(step * (n // step), lowest, -step)}, reverse=True)


def _step(group: Group, multiple: int) -> int:
    """Return how many components make a multiple of channels: a head is many of them."""
    width = max(int((slot.index >= 0).sum()) // len(group) for slot in group.slots)
    return multiple // math.gcd(multiple, width)


def _ends(sizes: Sizes) -> list[_Chosen]:
    """Return for each layer the groups that its shapes depend on."""
    return [tuple(group for group, layers in enumerate(sizes.readers) if index in layers) for index in range(len(sizes.layers))]


# Times --------------------------------------------------------------------------------------------------------------------------------------


def _wanted(ends: _Chosen, counts: Sequence[Sequence[int]]) -> list[_Chosen]:
    """Return the choices at which a layer is timed.

    Of one group or two, all combinations. Of more (what is concatenated), each group's choices with all others in the middle of theirs.
    """
    if len(ends) <= 2:
        return list(itertools.product(*(range(len(counts[g])) for g in ends)))
    middle = _middle(ends, counts)
    return [(*middle[:i], k, *middle[i + 1 :]) for i, g in enumerate(ends) for k in range(len(counts[g]))]


def _middle(ends: _Chosen, counts: Sequence[Sequence[int]]) -> _Chosen:
    return tuple(len(counts[g]) // 2 for g in ends)


def _shape(sizes: Sizes, node: fx.Node, ends: _Chosen, chosen: _Chosen, counts: Sequence[Sequence[int]]) -> LayerShape:
    """Return the shapes of a layer with these choices at its ends."""
    trial = list(sizes.full)
    for g, k in zip(ends, chosen, strict=True):
        trial[g] = counts[g][k]
    return sizes.layer(node, trial)


def layer_costs(
    sizes: Sizes, counts: Sequence[Sequence[int]], prices: Mapping[str, Price], context: Context, more: Sequence[LayerPart] = ()
) -> list[Cost]:
    """Return what the layers take by the sizes at their ends and by what else is chosen of them, those of the same parts together.

    The time of a layer with more than two ends is linear in each of them, around the middle of their sizes.

    Args:
        sizes: of the program.
        counts: to choose from, by group.
        prices: by precision.
        context: whose progress is told of each layer.
        more: parts behind those of the groups.
    """
    costs: list[Cost] = []
    context.progress.start("times of layers", len(sizes.layers))
    for node, ends in zip(sizes.layers, _ends(sizes), strict=True):
        own = [(len(counts) + i, part.options) for i, part in enumerate(more) if node.name in part.layers]
        wanted = _wanted(ends, counts)
        found = {name: np.empty((len(wanted), *(len(options) for _, options in own))) for name in prices}
        for at, chosen in enumerate(wanted):
            shape = _shape(sizes, node, ends, chosen, counts)
            for ways in itertools.product(*(range(len(options)) for _, options in own)):
                layers: Layers = (shape,)
                for k, (_, options) in zip(ways, own, strict=True):
                    layers = options[k](layers)
                for name, price in prices.items():
                    found[name][(at, *ways)] = sum(map(price, layers))
        costs += _by_ends(module_path(node) or node.name, ends, tuple(i for i, _ in own), wanted, found, counts)
        context.progress.advance()
    context.progress.finish()
    return _together(costs)


def _by_ends(
    name: str, ends: _Chosen, own: _Chosen, wanted: Sequence[_Chosen], ms: Mapping[str, Any], counts: Sequence[Sequence[int]]
) -> Iterator[Cost]:
    """Yield the time of a layer as a sum of what depends on no group, one or two, and in any case on its own parts.

    Args:
        name: of the layer.
        ends: its groups.
        own: positions of its other parts.
        wanted: choices of the groups for which it was timed.
        ms: by precision, what it takes by these choices (the first dimension) and by those of its own parts.
        counts: to choose from, by group.
    """
    if len(ends) <= 2:
        shape = [len(counts[g]) for g in ends]
        yield Cost((name,), (*ends, *own), {precision: found.reshape(*shape, *found.shape[1:]) for precision, found in ms.items()})
        return
    middle = _middle(ends, counts)
    place = {chosen: at for at, chosen in enumerate(wanted)}
    yield Cost((name,), own, {precision: found[place[middle]] for precision, found in ms.items()})
    for i, g in enumerate(ends):
        line = [place[(*middle[:i], k, *middle[i + 1 :])] for k in range(len(counts[g]))]
        yield Cost((name,), (g, *own), {precision: found[line] - found[place[middle]] for precision, found in ms.items()})


def _together(costs: Sequence[Cost]) -> list[Cost]:
    """Return costs with those of the same ends added up."""
    result: dict[_Chosen, Cost] = {}
    for cost in costs:
        known = result.get(cost.parts)
        result[cost.parts] = (
            cost
            if known is None
            else Cost(
                tuple(dict.fromkeys((*known.layers, *cost.layers))),
                cost.parts,
                {precision: ms + known.ms[precision] for precision, ms in cost.ms.items()},
            )
        )
    return list(result.values())


# Losses -------------------------------------------------------------------------------------------------------------------------------------


def group_losses(
    coupling: Coupling, counts: Sequence[Sequence[int]], making: Making, context: Context, known: Known, keep: Callable[[Known], None]
) -> tuple[float, Known]:
    """Return the mean loss of the whole program, and by group how much it rises with each count of components in that group alone.

    A rise is never below that of a larger count: what looks better on a few hundred examples is chance.

    Raises:
        BadInput: the task has no train data or no loss.
    """
    batches = train_batches(coupling.program, context, making.examples)
    if context.task is None or not batches:
        raise BadInput(
            "there is no table of sizes: what a cut loses is measured on train data with the task's loss, and the task lacks one of them"
        )
    whole = mean_loss(coupling.program, context.task, batches)
    scores = score(coupling, making.criterion, context, making.examples)
    result: Known = {}
    context.progress.start("losses of groups", sum(len(own) - 1 for own in counts))
    for index, group in enumerate(coupling.groups):
        if len(known.get(group.name, ())) == len(counts[index]):
            result[group.name] = known[group.name]
            context.progress.advance(len(counts[index]) - 1)
            continue
        rises = [0.0]
        for count in counts[index][1:]:
            cut = _cut(coupling, scores, index, count, making, context)
            rises.append(max(rises[-1], mean_loss(cut, context.task, batches) - whole))
            context.progress.advance()
        result[group.name] = rises
        keep(result)
    context.progress.finish()
    return whole, result


def _cut(coupling: Coupling, scores: Sequence[Tensor], index: int, count: int, making: Making, context: Context) -> Program:
    """Return the program with so many components in one group."""
    counts = [count if i == index else len(group) for i, group in enumerate(coupling.groups)]
    result = remove(coupling, keep_of(coupling, scores, counts))
    renew_statistics(result, making.examples, recovery(None, context.task).plan.batch_size, context)
    return result
