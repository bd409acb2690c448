"""What is chosen of layers beside their channels: chains of lower rank, floats among integers, and blocks that go; and what each alone loses, in one pass.

Each becomes a part of the table of sizes (`pruning.tables.LayerPart`), so that one solve weighs them against each other.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from laconic.core.choices import FLOATS, WHOLE, Kind, Part
from laconic.core.context import Context
from laconic.core.errors import BadInput, LaconicError
from laconic.core.graph import module_path
from laconic.core.loss import mean_loss, train_batches
from laconic.core.operators import is_layer
from laconic.core.program import Program
from laconic.core.recovery import recovery
from laconic.factorize.depth import DropBlocks, Survey, drop_blocks
from laconic.factorize.lowrank import LowRank
from laconic.factorize.method import Form, Method
from laconic.factorize.methods import METHODS, allowed
from laconic.factorize.moments import Moment
from laconic.factorize.ranks import Cost, Limits, Option, options, written
from laconic.factorize.reached import reached
from laconic.factorize.replacing import batches_of, moments_of, replaced
from laconic.factorize.sites import LARGE, Site, find
from laconic.pruning.inputs import renew_statistics
from laconic.pruning.tables import Known, LayerPart, Layers, Making, Price
from laconic.pruning.tables import Option as InPlace
from laconic.quantization.mixed import rounding_losses
from laconic.quantization.options import Quantize
from laconic.quantization.static import static

INT8 = "int8"
_RANKS = 3  # that are tried for a layer, at the most
_PASSES = 48  # for ranks in all: of more layers those of the most multiply-adds are looked at
_LEVELS = 6  # of ranks of which these are chosen; each is timed once
_WORTH, _FLOOR = (
    0.005,
    0.05,
)  # a layer whose rounding alone loses less than this share of the loss (which is taken as so much at least) stays in integers


class LayerParts:
    """Measures what can be chosen of a program's layers.

    Args:
        program: not changed.
        context: the task, with train data and a loss; its progress is told of each pass.
        prices: by precision, the milliseconds of a layer in it.
        making: of which kinds there are parts, and on how many examples losses are.
        rules: by which the runtime rounds; empty: it does not.
        known: losses by kind and name that an earlier, interrupted call measured.
        keep: is given what is known after each part.

    Raises:
        BadInput: the task has no train data or no loss.
    """

    def __init__(
        self,
        program: Program,
        context: Context,
        prices: Mapping[str, Price],
        making: Making,
        rules: str,
        known: Known | None = None,
        keep: Callable[[Known], None] | None = None,
    ) -> None:
        self.program, self.context, self.prices, self.making, self.rules = program, context, prices, making, rules
        self.known, self.keep = dict(known or {}), keep or (lambda found: None)
        self.batches = train_batches(program, context, making.examples)
        if context.task is None or not self.batches:
            raise BadInput(
                "what ranks, rounding and blocks lose is measured on train data with the task's loss, and the task lacks one of them"
            )
        self.task = context.task
        self.whole = mean_loss(program, context.task, self.batches)

    def every(self, kinds: Collection[Kind] | None = None) -> Iterator[LayerPart]:
        """Yield the parts of these kinds (None: of all) as far as they are asked for, each measured when it is: those of few passes first; see `applied`."""
        makers: dict[Kind, Callable[[], Iterator[LayerPart]]] = {"block": self.blocks, "bits": self.bits, "rank": self.ranks}
        for kind, make in makers.items():
            if kind in self.making.kinds and (kinds is None or kind in kinds):
                yield from make()

    def ranks(self) -> Iterator[LayerPart]:
        """Yield for each large layer up to three chains that save time, of those that no other chain beats in both time and error; of many layers fewer."""
        sites = _largest([site for site in find(self.program)[0] if _is_large(site)], _PASSES)
        most = min(_RANKS, _PASSES // max(1, len(sites)))
        batches = batches_of(self.program, self.context, self.making.examples) if sites else []
        counting = reached(self.program, [site.node for site in sites], batches)
        moments = moments_of(self.program, sites, batches, counting, LowRank().damping, self.context.progress)
        cost = Cost("latency", self.prices[INT8 if INT8 in self.prices else next(iter(self.prices))])
        for site, moment in zip(sites, moments, strict=True):
            methods = allowed(site.weight, site.transposed, LowRank().methods, moment)
            chosen = spread(options(site, methods, cost, Limits(levels=_LEVELS)), most)
            if chosen:
                names = tuple(written(option.method, option.ranks) for option in chosen)
                rises = self._rises("rank", site.path, [partial(self._with_chain, site, moment, one) for one in chosen])
                ways = [_chain(site, methods[option.method], option) for option in chosen]
                yield LayerPart(Part(site.path, (WHOLE, *names), (0.0, *rises), "rank"), (_same, *ways), {site.node.name})

    def bits(self) -> Iterator[LayerPart]:
        """Yield the layers whose rounding alone loses something, with floats as their other choice."""
        if not self.rules or INT8 not in self.prices:
            return
        layers: dict[str, set[str]] = {}
        for node in self.program.graph.nodes:
            if node.op == "call_function" and is_layer(node) and (path := module_path(node)):
                layers.setdefault(path, set()).add(node.name)
        if len(self.known.get(_key("bits", ""), ())) != len(layers):
            try:  # biases stay, for corrections would act where the rounding that they make up for does not
                rounded, _ = static(
                    self.program, Quantize(target=self.rules, examples=self.making.examples, correct_bias=False), self.context
                )
            except LaconicError:  # nothing is rounded
                return
            losses = rounding_losses(rounded, self.task, self.batches, self.context.progress)
            self.known[_key("bits", "")] = [losses.get(path, self.whole) - self.whole for path in layers]
            self.keep(self.known)
        for (path, nodes), rise in zip(layers.items(), self.known[_key("bits", "")], strict=True):
            if rise > _WORTH * max(self.whole, _FLOOR):
                yield LayerPart(Part(path, (8, FLOATS), (0.0, -rise), "bits"), (_same, _in_floats), nodes)

    def blocks(self) -> Iterator[LayerPart]:
        """Yield the residual blocks that can go, of runs of alike ones."""
        for block in [block for run in Survey(self.program).runs() for block in run]:
            rises = self._rises("block", block.path, [partial(self._without, block.path)])
            yield LayerPart(Part(block.path, (1, 0), (0.0, *rises), "block"), (_same, _gone), {node.name for node in block.inside})

    def _rises(self, kind: Kind, name: str, makers: Sequence[Callable[[], Program]]) -> list[float]:
        """Return by how much the loss rises in each of several programs, with statistics of batch-norms estimated anew; never less than 0."""
        key = _key(kind, name)
        if len(self.known.get(key, ())) != len(makers):
            self.context.progress.start(f"losses of {name}", len(makers))
            self.known[key] = []
            for make in makers:
                changed = make()
                renew_statistics(changed, self.making.examples, recovery(None, self.task).plan.batch_size, self.context)
                self.known[key].append(max(0.0, mean_loss(changed, self.task, self.batches) - self.whole))
                self.context.progress.advance()
            self.context.progress.finish()
            self.keep(self.known)
        return self.known[key]

    def _with_chain(self, site: Site, moment: Moment, option: Option) -> Program:
        """Return the program with a chain in the place of one layer."""
        result = copy.deepcopy(self.program).eval()
        (own,) = (one for one in find(result)[0] if one.node.name == site.node.name)
        replaced(own, own.weight, moment, METHODS[option.method], option.method, option.ranks)
        result.recompile()
        return result

    def _without(self, path: str) -> Program:
        """Return the program without a block."""
        return drop_blocks(self.program, DropBlocks(blocks=(path,)))[0]


def applied(parts: Iterable[LayerPart]) -> list[LayerPart]:
    """Return parts in the order in which their options are applied to a layer: a chain takes one layer, floats any number, and a block that goes takes all."""
    order: tuple[Kind, ...] = ("rank", "bits", "block")
    return sorted(parts, key=lambda one: order.index(one.part.kind))


def spread(chains: Sequence[Option], most: int) -> list[Option]:
    """Return so many chains at the most, from dear to cheap, of those that no other one beats in both cost and error.

    >>> chains = [Option("output", (r,), cost, lost) for r, cost, lost in ((8, 1, 0.5), (16, 2, 0.2), (24, 3, 0.3), (32, 4, 0.1), (40, 5, 0.05))]
    >>> [one.ranks for one in spread(chains, 3)]
    [(40,), (16,), (8,)]
    >>> [one.ranks for one in spread(chains, 1)]
    [(16,)]
    """
    best: list[Option] = []
    for option in sorted(chains, key=lambda one: (one.cost, one.lost)):
        if not best or option.lost < best[-1].lost:
            best.append(option)
    best.reverse()
    places = [round(i * (len(best) - 1) / (most - 1)) for i in range(most)] if most > 1 else [len(best) // 2]
    return [best[i] for i in dict.fromkeys(places)] if best else []


def _key(kind: Kind, name: str) -> str:
    return f"{kind}\0{name}"


def _largest(sites: Sequence[Site], most: int) -> list[Site]:
    """Return so many layers at the most, those that multiply most, in the order of the graph."""
    work = {site.node: sum(layer.macs for layer in site.layers(site.whole)) for site in sites}
    kept = sorted(work, key=lambda node: -work[node])[:most]
    return [site for site in sites if site.node in kept]


def _is_large(site: Site) -> bool:
    return site.groups == 1 and not site.transposed and min(site.weight.shape[1:3]) >= LARGE


# What stands in a layer's place -------------------------------------------------------------------------------------------------------------


def _same(layers: Layers) -> Layers:
    return layers


def _gone(layers: Layers) -> Layers:
    return ()


def _in_floats(layers: Layers) -> Layers:
    return tuple(replace(layer, bits=FLOATS) for layer in layers)


def _chain(site: Site, method: Method, option: Option) -> InPlace:
    """Return what makes a chain of a layer with any number of channels at its ends."""
    forms = list(method.shapes(option.ranks))

    def chain(layers: Layers) -> Layers:
        (layer,) = layers
        outputs, inputs = layer.inputs[1][:2]
        sized: list[Form] = [*forms]
        (_, _, *kernel), groups, axes = sized[0]
        sized[0] = (sized[0][0][0], inputs, *kernel), groups, axes
        (_, *rest), groups, axes = sized[-1]
        sized[-1] = (outputs, *rest), groups, axes
        return tuple(site.layers(sized))

    return chain
