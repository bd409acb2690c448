"""Static quantization: int8 activations, with ranges seen on calibration data, and weights where the target computes with integers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from torch import fx

from laconic.core.axes import joined
from laconic.core.calibrate import Batch, Watcher, calibration_batches, observe
from laconic.core.context import Context
from laconic.core.errors import BadInput
from laconic.core.fake_quant import Quantizer, quantizer_of
from laconic.core.integer_bias import bound_steps, round_biases
from laconic.core.program import Program
from laconic.core.records import Outcome
from laconic.quantization import correct
from laconic.quantization.apply import activation_grids, round_activations, round_weights, weight_grids
from laconic.quantization.attention import decompose_attention
from laconic.quantization.fidelity import exact_tensors, examples_enough, layer_sqnr_db, noise_notes, output_sqnr_db
from laconic.quantization.layers import LayerWatchers, layer_watchers, ready, round_and_correct
from laconic.quantization.notes import below, constant_notes, finite_ratios, nothing_rounded, reasons
from laconic.quantization.observers import OBSERVERS, Observer
from laconic.quantization.options import Quantize, check_kernels, weight_scheme
from laconic.quantization.placement import Plan, embeddings, moves, operator_name, place

_SMOOTHING_EXAMPLES = 64


def static(program: Program, config: Quantize, context: Context, fold: bool = True) -> tuple[Program, Outcome]:
    """Static quantization, see `quantize`. Without folding, batch-norms stay behind their convolutions, for training."""
    result, outcome, dead = _round(program, config, context, fold)
    if dead:
        result, outcome, _ = _round(program, config, context, fold, dead)
    return result, outcome


def _round(
    program: Program, config: Quantize, context: Context, fold: bool, dead: Mapping[str, float] = MappingProxyType({})
) -> tuple[Program, Outcome, dict[str, float]]:
    """Round once, with the operators in `dead` in float; the last value are those that should be among them."""
    target = config.target or context.rules
    check_kernels(config, target)
    result, unfolded, folded = ready(program, fold)
    decompose_attention(result)
    batches = calibration_batches(context, config.examples, config.batch_size, result)
    counts = _prepare(result, config, batches, context)
    plan = place(result, target, (*config.keep, *dead))
    skipped = (*reasons(plan.skipped, dead, config), *unfolded)
    scheme, half = weight_scheme(config)
    weights = plan.weights + (embeddings(result.graph, (*config.keep, *dead)) if config.embeddings else [])
    if not weights and not plan.operators:
        raise BadInput(nothing_rounded(result, config.mode, target, skipped))
    exact = exact_tensors(result, plan.operators)
    observers: dict[fx.Node, Observer] = {site.family: OBSERVERS[config.observer or "minmax"]() for site in plan.activations}
    watchers = layer_watchers(result, plan.operators, config)
    observe(result, _watch(plan, observers, watchers), batches, context.progress)
    rounding_nodes = round_weights(result, weights, weight_grids(result, weights, scheme))
    made = round_activations(result, plan.activations, activation_grids(plan, observers))
    result.recompile()
    bound_steps(result)
    round_and_correct(result, weights, [quantizer_of(result.graph_module, node) for node in rounding_nodes], watchers, context)
    round_biases(result)
    seen = joined(result.inputs, batches, examples_enough(batches[0]))
    ratios = layer_sqnr_db(result, plan.operators, exact, seen)
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
        "activations": [_range(site.name, quantizer_of(result.graph_module, node)) for node, site in made.items()],
        "examples": sum(len(batch[0]) for batch in batches),
        "layer_sqnr_db": finite_ratios(ratios),
        **counts,
    }
    notes = (*constant_notes(folded, not fold), *noise_notes(ratios, output_sqnr_db(program, result, seen)))
    if not plan.operators:
        notes = ("only embedding tables were rounded: no operator is computed in integers", *notes)
    return result, Outcome("quantize", changed, skipped, notes), below(ratios, config)


def _prepare(program: Program, config: Quantize, batches: Sequence[Batch], context: Context) -> dict[str, int]:
    """Equalize and smooth, where asked for; returns how often."""
    counts: dict[str, int] = {}
    if config.equalize:
        counts["equalized_pairs"] = correct.equalize(program)
    if config.alpha is not None and (watchers := correct.smoothing_watchers(program)):
        observe(program, watchers, batches[: -(-_SMOOTHING_EXAMPLES // config.batch_size)], context.progress, "smoothing")
        counts["smoothed_norms"] = correct.smooth(program, watchers, config.alpha)
    return counts


def _watch(plan: Plan, observers: dict[fx.Node, Observer], layers: LayerWatchers) -> dict[fx.Node, list[Watcher]]:
    """Whom to show what: each family's observer sees the outputs that are made, not those that were only moved."""
    watchers = layers.by_node()
    sources = {site.source for site in plan.activations}
    moved = {reader for site in plan.activations for reader in site.readers if moves(reader)} & sources
    for site in plan.activations:
        if site.source not in moved or site.family is site.source:
            watchers.setdefault(site.source, []).append(observers[site.family])
    return watchers


def _range(name: str, quantizer: Quantizer) -> dict[str, Any]:
    scale, zero = quantizer.scale.double(), quantizer.zero_point.double()
    low, high = (quantizer.low - zero) * scale, (quantizer.high - zero) * scale
    return {"name": name, "low": float(low.min()), "high": float(high.max()), "zero_point": int(quantizer.zero_point[0])}
