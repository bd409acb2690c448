"""Weights in few bits without fixed ranges of activations: weight-only, and dynamic, where each input is rounded by its own range."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import fx

from laconic.core.fake_quant import insert_dynamic
from laconic.core.graph import fold_batch_norm, get_tensor
from laconic.core.program import Program, aten
from laconic.core.records import Outcome, Skipped
from laconic.core.task import Context
from laconic.quantize.apply import round_weights, weight_grids
from laconic.quantize.calibrate import calibration_batches, observe
from laconic.quantize.placement import (
    CONVOLUTIONS,
    TRANSPOSED,
    WeightSite,
    check_paths,
    embeddings,
    is_kept,
    operator_name,
    target_rules,
    weight_axis,
)
from laconic.quantize.static import Quantize, layer_watchers, settle_weights, weight_scheme

_LINEARS = {aten.linear.default: (1, 0), aten.addmm.default: (2, 1)}  # position of the weight, its axis of outputs
_INPUT = {aten.linear.default: 0, aten.addmm.default: 1}
_RECURRENT = (aten.lstm.input, aten.gru.input)
_CONVOLVED = "a convolution that rounds its input anew each time is slower than in float; quantize it statically"
_NO_GRU = "no runtime has a GRU with int8 weights"
_UNPACKED = "its weights would be unpacked on every call: only ONNX Runtime's dynamic LSTM takes int8 weights"


def weights_only(program: Program, config: Quantize, context: Context) -> tuple[Program, Outcome]:
    """The modes ``weights`` and ``dynamic``, see `quantize`. Calibration data is used only for the corrections that need it, where there is a task."""
    target = config.target or context.target.runtime
    target_rules(target)
    check_paths(program.graph, config.keep)
    found, folding = fold_batch_norm(program)
    integers = config.mode == "dynamic" and target == "onnxruntime"
    skipped: list[Skipped] = []
    sites = list(_sites(found, config, integers, skipped)) + (embeddings(found.graph, config.keep) if config.embeddings else [])
    scheme, half = weight_scheme(config)
    quantizers = weight_grids(found, sites, scheme)
    operators = list(dict.fromkeys(reader for site in sites for reader, _ in site.readers))
    if context.task is not None and (config.correct_bias or config.rounding == "adaptive"):
        watchers = layer_watchers(found, operators, config)
        batches = calibration_batches(context, config.examples, config.batch_size, found)
        observe(found, watchers.by_node(), batches, context.progress)
        settle_weights(found, sites, quantizers, watchers, context)
    round_weights(found, sites, quantizers)
    if integers:
        _round_inputs(found, [node for node in operators if node.target in _LINEARS])
    found.recompile()
    notes = ("OpenVINO rounds the activations of such layers at run time by itself",) if config.mode == "dynamic" and not integers else ()
    changed = {
        "mode": config.mode,
        "target": target,
        "operators": [operator_name(node) for node in operators],
        "weights": {"bits": config.bits, "tensors": len(sites), "half_range": half, "group": scheme.group},
    }
    return found, Outcome("quantize", changed, (*skipped, *folding.skipped), notes)


def _sites(program: Program, config: Quantize, integers: bool, skipped: list[Skipped]) -> Iterator[WeightSite]:
    """The weights of linear layers; of convolutions where only storage counts; of LSTMs where the runtime takes them as integers."""
    sites: dict[tuple[str, int | None], WeightSite] = {}

    def add(node: fx.Node, position: int, axis: int | None) -> None:
        source: Any = node.args[position]
        sites.setdefault((str(source.target), axis), WeightSite(source, axis)).readers.append((node, position))

    for node in program.graph.nodes:
        if node.target in (*_LINEARS, *CONVOLUTIONS, *TRANSPOSED, *_RECURRENT) and is_kept(node, config.keep):
            skipped.append(Skipped(operator_name(node), "it is to stay float"))
        elif node.target in _LINEARS and node.args[_LINEARS[node.target][0]].op == "get_attr":
            add(node, *_LINEARS[node.target])
        elif node.target in (*CONVOLUTIONS, *TRANSPOSED) and node.args[1].op == "get_attr":
            if config.mode == "weights" and config.bits == 8:
                add(node, 1, weight_axis(node, 1 if node.target in TRANSPOSED else 0))
            else:
                skipped.append(
                    Skipped(operator_name(node), _CONVOLVED if config.mode == "dynamic" else "4-bit weights are for linear layers")
                )
        elif node.target is aten.lstm.input and integers:
            yield from (WeightSite(w, 0, [(node, 2)]) for w in node.args[2] if get_tensor(program, w).dim() == 2)
        elif node.target in _RECURRENT:
            skipped.append(Skipped(operator_name(node), _NO_GRU if node.target is aten.gru.input else _UNPACKED))
    yield from sites.values()


def _round_inputs(program: Program, linears: list[fx.Node]) -> None:
    """One rounding for all linear layers that read the same tensor."""
    made: dict[fx.Node, fx.Node] = {}
    for node in linears:
        position = _INPUT[node.target]  # type: ignore[index]
        source: Any = node.args[position]
        if source not in made:
            made[source] = insert_dynamic(program.graph_module, source)
        node.update_arg(position, made[source])
