"""Post-training quantization: int8 activations and weights where the target computes with integers, or weights alone."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from torch import fx

from laconic.core.axes import joined
from laconic.core.constants import fold_constants
from laconic.core.context import Context
from laconic.core.errors import BadInput
from laconic.core.fake_quant import Quantizer, quantizer_of
from laconic.core.folding import fold_batch_norm
from laconic.core.graph import get_tensor, set_parameter, without_dropout
from laconic.core.integer_bias import bound_steps, round_biases
from laconic.core.operators import argument, is_layer, outputs_first, row_of
from laconic.core.program import Program
from laconic.core.records import Outcome, Skipped
from laconic.core.step import step
from laconic.core.task import Task
from laconic.quantization import correct, rounding
from laconic.quantization.apply import activation_grids, round_activations, round_weights, weight_grids
from laconic.quantization.attention import decompose_attention
from laconic.quantization.calibrate import Batch, Watcher, calibration_batches, observe
from laconic.quantization.fidelity import exact_tensors, examples_enough, layer_sqnr_db, noise_notes, output_sqnr_db
from laconic.quantization.notes import below, constant_notes, finite_ratios, nothing_rounded, reasons
from laconic.quantization.observers import OBSERVERS, ChannelMean, Observer
from laconic.quantization.options import Quantize as Quantize
from laconic.quantization.options import check_kernels, weight_scheme
from laconic.quantization.placement import Plan, WeightSite, embeddings, moves, operator_name, place

_SMOOTHING_EXAMPLES = 64


def as_context(given: Context | Task | None) -> Context:
    """A context from what a caller has: a task alone will do."""
    return given if isinstance(given, Context) else Context(task=given)


@step("quantize", Quantize, float32=True)
def quantize(program: Program, config: Quantize | None = None, context: Context | Task | None = None) -> tuple[Program, Outcome]:
    """Quantize a copy of a program.

    Args:
        program: in eval mode; not changed.
        config: how; by default static int8.
        context: or the task alone; calibration draws from its train data.

    Returns:
        A program whose graph rounds what the target rounds (see `core.fake_quant`), and what was done: ranges, what stayed float and why.

    Raises:
        BadInput: no data to calibrate with, values that are not finite (names the layer), an unknown target or path, no operator that could be rounded.
    """
    config, context = config or Quantize(), as_context(context)
    if config.mode == "static":
        return static(program, config, context)
    from laconic.quantization.dynamic import weights_only

    return weights_only(program, config, context)


def static(program: Program, config: Quantize, context: Context, fold: bool = True) -> tuple[Program, Outcome]:
    """Static quantization, see `quantize`. Without folding, batch-norms stay behind their convolutions, for training."""
    found, outcome, dead = _round(program, config, context, fold)
    if dead:
        found, outcome, _ = _round(program, config, context, fold, dead)
    return found, outcome


def ready(program: Program, fold: bool = True) -> tuple[Program, tuple[Skipped, ...], tuple[str, ...]]:
    """A copy with its constants folded, without dropouts, and with batch-norms folded if they are to be; what was not folded; names of folded weights."""
    plain, names = fold_constants(program)
    if not fold:
        return (plain if plain is not program else copy.deepcopy(program)).eval(), (), names
    found, folding = fold_batch_norm(without_dropout(plain))
    return found, folding.skipped, names


def _round(
    program: Program, config: Quantize, context: Context, fold: bool, dead: Mapping[str, float] = MappingProxyType({})
) -> tuple[Program, Outcome, dict[str, float]]:
    """Round once, with the operators in `dead` in float; the last value are those that should be among them."""
    target = config.target or context.rules
    check_kernels(config, target)
    found, unfolded, folded = ready(program, fold)
    decompose_attention(found)
    batches = calibration_batches(context, config.examples, config.batch_size, found)
    counts = _prepare(found, config, batches, context)
    plan = place(found, target, (*config.keep, *dead))
    skipped = (*reasons(plan.skipped, dead, config), *unfolded)
    scheme, half = weight_scheme(config)
    weights = plan.weights + (embeddings(found.graph, (*config.keep, *dead)) if config.embeddings else [])
    if not weights and not plan.operators:
        raise BadInput(nothing_rounded(found, config.mode, target, skipped))
    exact = exact_tensors(found, plan.operators)
    observers: dict[fx.Node, Observer] = {site.family: OBSERVERS[config.observer or "minmax"]() for site in plan.activations}
    watchers = layer_watchers(found, plan.operators, config)
    observe(found, _watch(plan, observers, watchers), batches, context.progress)
    rounding_nodes = round_weights(found, weights, weight_grids(found, weights, scheme))
    made = round_activations(found, plan.activations, activation_grids(plan, observers))
    found.recompile()
    bound_steps(found)
    round_and_correct(found, weights, [quantizer_of(found.graph_module, node) for node in rounding_nodes], watchers, context)
    round_biases(found)
    seen = joined(found.inputs, batches, examples_enough(batches[0]))
    ratios = layer_sqnr_db(found, plan.operators, exact, seen)
    changed = {
        "mode": config.mode,
        "target": target,
        "operators": [operator_name(node) for node in plan.operators],
        "weights": {
            "bits": config.bits,
            "tensors": len(weights),
            "reduce_range": half,
            "scheme": config.scheme,
            "per_channel": config.per_channel,
        },
        "activations": [_range(site.name, quantizer_of(found.graph_module, node)) for node, site in made.items()],
        "examples": sum(len(batch[0]) for batch in batches),
        "layer_sqnr_db": finite_ratios(ratios),
        **counts,
    }
    notes = (*constant_notes(folded, not fold), *noise_notes(ratios, output_sqnr_db(program, found, seen)))
    if not plan.operators:
        notes = ("only embedding tables were rounded: no operator is computed in integers", *notes)
    return found, Outcome("quantize", changed, skipped, notes), below(ratios, config)


def _prepare(program: Program, config: Quantize, batches: Sequence[Batch], context: Context) -> dict[str, int]:
    """Equalize and smooth, where asked for; returns how often."""
    counts: dict[str, int] = {}
    if config.equalize:
        counts["equalized_pairs"] = correct.equalize(program)
    if config.alpha is not None and (watchers := correct.smoothing_watchers(program)):
        observe(program, watchers, batches[: -(-_SMOOTHING_EXAMPLES // config.batch_size)], context.progress, "smoothing")
        counts["smoothed_norms"] = correct.smooth(program, watchers, config.alpha)
    return counts


@dataclass
class LayerWatchers:
    """By operator: the means of its input channels and the Gram matrix of its inputs, as far as they are needed."""

    means: dict[fx.Node, ChannelMean]
    grams: dict[fx.Node, rounding.Gram]

    def by_node(self) -> dict[fx.Node, list[Watcher]]:
        """Who watches the output of which node."""
        found: dict[fx.Node, list[Watcher]] = {}
        for table in (self.means, self.grams):
            for node, watcher in table.items():
                found.setdefault(argument(node, row_of(node).inputs[0]), []).append(watcher)
        return found


def layer_watchers(program: Program, operators: Sequence[fx.Node], config: Quantize) -> LayerWatchers:
    """What the corrections of these operators need to see."""
    layers = [n for n in operators if is_layer(n)]
    means = {n: ChannelMean(row_of(n).channels) for n in layers} if config.correct_bias else {}
    grams = {}
    for n in layers if config.rounding == "adaptive" else ():
        weight = get_tensor(program, argument(n, row_of(n).weight))
        if rounding.fits(n, weight):
            grams[n] = rounding.Gram(n, tuple(weight.shape[2:]))
    return LayerWatchers(means, grams)


def _watch(plan: Plan, observers: dict[fx.Node, Observer], layers: LayerWatchers) -> dict[fx.Node, list[Watcher]]:
    """Whom to show what: each family's observer sees the outputs that are made, not those that were only moved."""
    watchers = layers.by_node()
    sources = {site.source for site in plan.activations}
    moved = {reader for site in plan.activations for reader in site.readers if moves(reader)} & sources
    for site in plan.activations:
        if site.source not in moved or site.family is site.source:
            watchers.setdefault(site.source, []).append(observers[site.family])
    return watchers


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


def _range(name: str, quantizer: Quantizer) -> dict[str, Any]:
    scale, zero = quantizer.scale.double(), quantizer.zero_point.double()
    low, high = (quantizer.low - zero) * scale, (quantizer.high - zero) * scale
    return {"name": name, "low": float(low.min()), "high": float(high.max()), "zero_point": int(quantizer.zero_point[0])}
