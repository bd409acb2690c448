"""Weights in few bits without fixed ranges of activations: weight-only, and dynamic, where each input is rounded by its own range."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from torch import fx

from laconic.core.axes import joined
from laconic.core.calibrate import Batch, calibration_batches, observe
from laconic.core.context import Context
from laconic.core.errors import BadInput
from laconic.core.fake_quant import Quantizer, insert_dynamic
from laconic.core.graph import get_tensor
from laconic.core.operators import argument, family_of, is_layer, is_stored, plain_name, row_of
from laconic.core.program import Program
from laconic.core.records import Outcome, Skipped
from laconic.quantization import correct
from laconic.quantization.apply import round_weights, weight_grids
from laconic.quantization.fidelity import exact_tensors, examples_enough, layer_sqnr_db, noise_notes, output_sqnr_db
from laconic.quantization.layers import layer_watchers, ready, round_and_correct
from laconic.quantization.notes import below, constant_notes, finite_ratios, group_notes, nothing_rounded, reasons, used_groups
from laconic.quantization.options import Quantize, check_kernels, weight_scheme
from laconic.quantization.placement import (
    COMPLEX,
    WeightSite,
    check_paths,
    embeddings,
    is_complex,
    is_kept,
    operator_name,
    target_rules,
    weight_axis,
)

_CONVOLVED = "a convolution that rounds its input anew each time is slower than in float; quantize it statically"
_NO_KERNEL = {
    name: f"no runtime has {kind} with int8 weights" for name, kind in (("gru", "a GRU"), ("rnn_tanh", "an RNN"), ("rnn_relu", "an RNN"))
}
_UNPACKED = "its weights would be unpacked on every call: only ONNX Runtime's dynamic LSTM takes int8 weights"


def weights_only(program: Program, config: Quantize, context: Context) -> tuple[Program, Outcome]:
    """Return the modes ``weights`` and ``dynamic``, see `quantize`. A task's data serve the corrections and show which layers rounding would drown."""
    result, outcome, dead = _round(program, config, context)
    if dead:
        result, outcome, _ = _round(program, config, context, dead)
    return result, outcome


def _round(
    program: Program, config: Quantize, context: Context, dead: Mapping[str, float] = MappingProxyType({})
) -> tuple[Program, Outcome, dict[str, float]]:
    """Round once, with the operators in `dead` in float; the last value are those that should be among them."""
    target = config.target or context.rules
    rules = target_rules(target)
    check_kernels(config, target)
    check_paths(program.graph, config.keep)
    result, unfolded, folded = ready(program)
    counts = {"equalized_pairs": correct.equalize(result)} if config.equalize else {}
    integers = config.mode == "dynamic" and rules.products
    keep = (*config.keep, *dead)
    left: list[Skipped] = []
    sites = list(_sites(result, replace(config, keep=keep), integers, left)) + (embeddings(result.graph, keep) if config.embeddings else [])
    skipped = (*reasons(left, dead, config), *unfolded)
    if not sites:
        raise BadInput(nothing_rounded(result, config.mode, target, skipped))
    scheme, half = weight_scheme(config)
    quantizers = weight_grids(result, sites, scheme)
    operators = list(dict.fromkeys(reader for site in sites for reader, _ in site.readers))
    exact = exact_tensors(result, operators)
    batches = _settle(result, config, context, sites, quantizers, operators)
    round_weights(result, sites, quantizers)
    if integers:
        _round_inputs(result, [node for node in operators if family_of(node) == "linear"])
    result.recompile()
    seen = joined(result.inputs, batches, examples_enough(batches[0])) if batches else None
    ratios = {} if seen is None else layer_sqnr_db(result, operators, exact, seen)
    changed = {
        "mode": config.mode,
        "target": target,
        "operators": [operator_name(node) for node in operators],
        "weights": {
            **{
                "bits": config.bits,
                "tensors": len(sites),
                "reduce_range": half,
                "scheme": config.scheme,
                "per_channel": config.per_channel,
            },
            **used_groups(sites, quantizers, config),
        },
        **({} if seen is None else {"layer_sqnr_db": finite_ratios(ratios)}),
        **counts,
    }
    notes = [*constant_notes(folded), *group_notes(sites, quantizers, scheme.group)]
    if config.mode == "dynamic" and not integers:
        notes.append("OpenVINO rounds the activations of such layers at run time by itself")
    if seen is None:
        notes.append("without data, biases were not corrected and layers not checked: give a task")
    else:
        notes += noise_notes(ratios, output_sqnr_db(program, result, seen))
    return result, Outcome("quantize", changed, skipped, tuple(notes)), below(ratios, config)


def _settle(
    program: Program, config: Quantize, context: Context, sites: list[WeightSite], quantizers: list[Quantizer], operators: list[fx.Node]
) -> list[Batch]:
    """Choose the rounding and correct biases on calibration data; returns it, nothing where there is none.

    Raises:
        BadInput: adaptive rounding, and no data.
    """
    if context.task is None:
        if config.rounding == "adaptive":
            raise BadInput("rounding: 'adaptive' needs data to calibrate with: give it a task (or a Context that holds one)")
        return []
    batches = calibration_batches(context, config.examples, config.batch_size, program)
    if config.correct_bias or config.rounding == "adaptive":
        watchers = layer_watchers(program, operators, config)
        observe(program, watchers.by_node(), batches, context.progress)
        round_and_correct(program, sites, quantizers, watchers, context)
    return batches


def _sites(program: Program, config: Quantize, integers: bool, skipped: list[Skipped]) -> Iterator[WeightSite]:
    """Return the weights of linear layers; of convolutions where only storage counts; of LSTMs where the runtime takes them as integers."""
    sites: dict[tuple[str, int | None], WeightSite] = {}

    def add(node: fx.Node, position: int, axis: int | None) -> None:
        source: Any = node.args[position]
        sites.setdefault((str(source.target), axis), WeightSite(source, axis)).readers.append((node, position))

    for node in program.graph.nodes:
        family = family_of(node)
        if (is_layer(node) or family == "recurrent") and is_kept(node, config.keep):
            skipped.append(Skipped(operator_name(node), "it is to stay float"))
        elif is_layer(node) and is_complex(node):
            skipped.append(Skipped(operator_name(node), COMPLEX))
        elif is_layer(node):
            position = row_of(node).weight
            if position is None or not is_stored(argument(node, position)):
                continue
            if family == "linear" or (config.mode == "weights" and config.bits == 8):
                add(node, position, weight_axis(node))
            else:
                skipped.append(
                    Skipped(operator_name(node), _CONVOLVED if config.mode == "dynamic" else "4-bit weights are for linear layers")
                )
        elif plain_name(node) == "lstm" and integers:
            yield from (WeightSite(w, 0, [(node, 2)]) for w in node.args[2] if get_tensor(program, w).dim() == 2)
        elif family == "recurrent":
            skipped.append(Skipped(operator_name(node), _NO_KERNEL.get(plain_name(node), _UNPACKED)))
    yield from sites.values()


def _round_inputs(program: Program, linears: list[fx.Node]) -> None:
    """One rounding for all linear layers that read the same tensor."""
    made: dict[fx.Node, fx.Node] = {}
    for node in linears:
        position = row_of(node).inputs[0]
        source: Any = node.args[position]
        if source not in made:
            made[source] = insert_dynamic(program.graph_module, source)
        node.update_arg(position, made[source])
