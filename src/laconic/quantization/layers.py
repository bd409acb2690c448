"""What static quantization and that of weights alone share: a program made ready, what its layers are watched for, and their rounding with corrections."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import fx

from laconic.core.calibrate import Watcher
from laconic.core.constants import fold_constants
from laconic.core.context import Context
from laconic.core.fake_quant import Quantizer
from laconic.core.folding import fold_batch_norm
from laconic.core.gram import Gram, fits
from laconic.core.graph import get_tensor, set_parameter, without_dropout
from laconic.core.operators import argument, is_layer, outputs_first, row_of
from laconic.core.program import Program
from laconic.core.records import Skipped
from laconic.core.task import Task
from laconic.quantization import correct, rounding
from laconic.quantization.observers import ChannelMean
from laconic.quantization.options import Quantize
from laconic.quantization.placement import WeightSite


def as_context(given: Context | Task | None) -> Context:
    """Return a context from what a caller has: a task alone will do."""
    return given if isinstance(given, Context) else Context(task=given)


def ready(program: Program, fold: bool = True) -> tuple[Program, tuple[Skipped, ...], tuple[str, ...]]:
    """A copy with its constants folded, without dropouts, and with batch-norms folded if they are to be; what was not folded; names of folded weights."""
    plain, names = fold_constants(program)
    if not fold:
        return (plain if plain is not program else copy.deepcopy(program)).eval(), (), names
    result, folding = fold_batch_norm(without_dropout(plain))
    return result, folding.skipped, names


@dataclass
class LayerWatchers:
    """By operator: the means of its input channels and the Gram matrix of its inputs, as far as they are needed."""

    means: dict[fx.Node, ChannelMean]
    grams: dict[fx.Node, Gram]

    def by_node(self) -> dict[fx.Node, list[Watcher]]:
        """Who watches the output of which node."""
        result: dict[fx.Node, list[Watcher]] = {}
        for table in (self.means, self.grams):
            for node, watcher in table.items():
                result.setdefault(argument(node, row_of(node).inputs[0]), []).append(watcher)
        return result


def layer_watchers(program: Program, operators: Sequence[fx.Node], config: Quantize) -> LayerWatchers:
    """What the corrections of these operators need to see."""
    layers = [n for n in operators if is_layer(n)]
    means = {n: ChannelMean(row_of(n).channels) for n in layers} if config.correct_bias else {}
    grams = {}
    for n in layers if config.rounding == "adaptive" else ():
        weight = get_tensor(program, argument(n, row_of(n).weight))
        if fits(n, weight) and not correct.on_grid(program, argument(n, row_of(n).weight)):  # what is on a grid stays there
            grams[n] = Gram(n, tuple(weight.shape[2:]))
    return LayerWatchers(means, grams)


def round_and_correct(
    program: Program, sites: list[WeightSite], quantizers: list[Quantizer], watchers: LayerWatchers, context: Context
) -> None:
    """Choose the rounding and correct the biases of the layers that allow it."""
    context.progress.start("rounding weights", len(sites))
    for site, quantizer in zip(sites, quantizers, strict=True):
        reader, position = site.readers[0]
        weight = len(site.readers) == 1 and is_layer(reader) and position == row_of(reader).weight  # not a constant that is multiplied
        if weight and correct.only_reader(program, site.source):
            before = get_tensor(program, site.source).detach().clone()
            gram, mean = watchers.grams.get(reader), watchers.means.get(reader)
            if gram is not None and gram.total is not None:
                by_output = quantizer if quantizer.axis is None else replace(quantizer, axis=0)
                set_parameter(
                    program, site.name, outputs_first(rounding.adaptive(outputs_first(before, reader), by_output, gram.mean), reader)
                )
            if mean is not None and mean.total is not None:
                correct.correct_bias(program, reader, quantizer(get_tensor(program, site.source)) - before, mean)
        context.progress.advance()
    context.progress.finish()
