"""Post-training quantization: int8 activations and weights where the target computes with integers, or weights alone."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import fx

from laconic.core.errors import BadInput, nearest
from laconic.core.fake_quant import Quantizer
from laconic.core.graph import fold_batch_norm, get_tensor, set_parameter, without_dropout
from laconic.core.program import Program, aten
from laconic.core.records import Outcome
from laconic.core.step import step
from laconic.core.task import Context, Task
from laconic.quantize import correct, rounding
from laconic.quantize.apply import activation_grids, round_activations, round_weights, weight_grids
from laconic.quantize.attention import take_apart
from laconic.quantize.calibrate import Batch, Watcher, calibration_batches, observe
from laconic.quantize.observers import OBSERVERS, ChannelMean, Observer
from laconic.quantize.placement import Plan, WeightSite, embeddings, moves, operator_name, place
from laconic.quantize.scheme import WEIGHT_HALF, WEIGHT_INT4, WEIGHT_INT8, Scheme, full_range

Mode = Literal["static", "dynamic", "weights"]
_SMOOTHING_EXAMPLES = 64
_GROUP = 64


@dataclass(frozen=True)
class Quantize:
    """Post-training quantization.

    Args:
        mode: ``static`` (activations rounded to ranges seen in calibration), ``dynamic`` (to each input's own range) or ``weights`` (weights alone).
        target: runtime whose integer kernels are aimed at: ``openvino`` or ``onnxruntime``; None takes the one that the recipe deploys to.
        bits: of weights; 4 goes with the mode ``weights``.
        group: neighbouring inputs of a linear layer's weight that share a scale; 0: each output has one; None: 64 with 4 bits, else 0.
        examples: of the train data that are calibrated with.
        observer: how a range is chosen: a name in `observers.OBSERVERS`.
        smooth: SmoothQuant's alpha for linear layers behind a layer norm; None leaves it out.
        equalize: cross-layer equalization of convolutions.
        correct_bias: take the mean rounding error out of the biases.
        rounding: of weights: to the ``nearest`` code, or ``adaptive`` (AdaRound).
        embeddings: also round embedding tables.
        half_range: weights within ±63, so that sums of products fit into 16 bits; None does so where the processor has no wider sums.
        keep: module paths, or operators by the name in reports, that stay float.
    """

    mode: Mode = "static"
    target: str | None = None
    bits: Literal[8, 4] = 8
    group: int | None = None
    examples: int = 256
    observer: str = "minmax"
    smooth: float | None = 0.5
    equalize: bool = False
    correct_bias: bool = True
    rounding: Literal["nearest", "adaptive"] = "nearest"
    embeddings: bool = True
    half_range: bool | None = None
    keep: tuple[str, ...] = ()
    batch_size: int = 8

    def __post_init__(self) -> None:
        mistakes = []
        if self.observer not in OBSERVERS:
            mistakes.append(f"observer: '{self.observer}'." + nearest(self.observer, OBSERVERS))
        if self.bits == 4 and self.mode != "weights":
            mistakes.append("bits: 4 goes with mode 'weights' only; no runtime here multiplies 4-bit activations")
        if self.examples < 1 or self.batch_size < 1 or (self.group or 0) < 0:
            mistakes.append("examples and batch_size must be 1 or more, group 0 or more")
        if self.smooth is not None and not 0 < self.smooth < 1:
            mistakes.append(f"smooth: {self.smooth} must lie between 0 and 1, or be None")
        if mistakes:
            raise BadInput("the quantization makes no sense:\n" + "\n".join(f"  {m}" for m in mistakes))


def as_context(given: Context | Task | None) -> Context:
    """A context from what a caller has: a task alone will do."""
    return given if isinstance(given, Context) else Context(task=given)


@step("quantize", float32=True)
def quantize(program: Program, config: Quantize | None = None, context: Context | Task | None = None) -> tuple[Program, Outcome]:
    """Quantize a copy of a program.

    Args:
        program: in eval mode; not changed.
        config: how; by default static int8.
        context: or the task alone; calibration draws from its train data.

    Returns:
        A program whose graph rounds what the target rounds (see `core.fake_quant`), and what was done: ranges, what stayed float and why.

    Raises:
        BadInput: no data to calibrate with, values that are not finite (names the layer), an unknown target or path.
    """
    config, context = config or Quantize(), as_context(context)
    if config.mode == "static":
        return static(program, config, context)
    from laconic.quantize.dynamic import weights_only

    return weights_only(program, config, context)


def static(program: Program, config: Quantize, context: Context, fold: bool = True) -> tuple[Program, Outcome]:
    """Static quantization, see `quantize`. Without folding, batch-norms stay behind their convolutions, for training."""
    target = config.target or context.target.runtime
    found, folding = fold_batch_norm(without_dropout(program)) if fold else (copy.deepcopy(program).eval(), Outcome("fold_batch_norm"))
    take_apart(found)
    batches = calibration_batches(context, config.examples, config.batch_size, found)
    counts = _prepare(found, config, batches, context)
    plan = place(found, target, config.keep)
    scheme, half = weight_scheme(config)
    weights = plan.weights + (embeddings(found.graph, config.keep) if config.embeddings else [])
    observers: dict[fx.Node, Observer] = {site.family: OBSERVERS[config.observer]() for site in plan.activations}
    watchers = layer_watchers(found, plan.operators, config)
    observe(found, _watch(plan, observers, watchers), batches, context.progress)
    grids = activation_grids(plan, observers)
    quantizers = weight_grids(found, weights, scheme)
    settle_weights(found, weights, quantizers, watchers, context)
    round_weights(found, weights, quantizers)
    made = round_activations(found, plan.activations, grids)
    found.recompile()
    changed = {
        "mode": config.mode,
        "target": target,
        "operators": [operator_name(node) for node in plan.operators],
        "weights": {"bits": config.bits, "tensors": len(weights), "half_range": half},
        "activations": [_range(site.name, grids[site.family]) for site in made.values()],
        "examples": sum(len(batch[0]) for batch in batches),
        **counts,
    }
    return found, Outcome("quantize", changed, (*plan.skipped, *folding.skipped))


def weight_scheme(config: Quantize) -> tuple[Scheme, bool]:
    """Codes of weights, and whether they keep to half the range."""
    half = config.half_range if config.half_range is not None else not full_range()
    if config.bits == 4:
        return Scheme(WEIGHT_INT4.low, WEIGHT_INT4.high, axis=0, group=_GROUP if config.group is None else config.group), False
    base = WEIGHT_HALF if half else WEIGHT_INT8
    return Scheme(base.low, base.high, axis=0, group=config.group or 0), half


def _prepare(program: Program, config: Quantize, batches: Sequence[Batch], context: Context) -> dict[str, int]:
    """Equalize and smooth, where asked for; returns how often."""
    counts: dict[str, int] = {}
    if config.equalize:
        counts["equalized_pairs"] = correct.equalize(program)
    if config.smooth is not None and (watchers := correct.smoothing_watchers(program)):
        observe(program, watchers, batches[: -(-_SMOOTHING_EXAMPLES // config.batch_size)], context.progress, "smoothing")
        counts["smoothed_norms"] = correct.smooth(program, watchers, config.smooth)
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
            for operator, watcher in table.items():
                found.setdefault(operator.args[0], []).append(watcher)  # type: ignore[arg-type]
        return found


def layer_watchers(program: Program, operators: Sequence[fx.Node], config: Quantize) -> LayerWatchers:
    """What the corrections of these operators need to see."""
    layers = [n for n in operators if n.target in (aten.linear.default, *correct.CONVOLUTIONS)]
    means = {n: ChannelMean(correct.channel_axis(n)) for n in layers} if config.correct_bias else {}
    grams = {}
    for n in layers if config.rounding == "adaptive" else ():
        weight = get_tensor(program, n.args[1])  # type: ignore[arg-type]
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


def settle_weights(
    program: Program, sites: list[WeightSite], quantizers: list[Quantizer], watchers: LayerWatchers, context: Context
) -> None:
    """Choose the rounding and correct the biases of the layers that allow it."""
    context.progress.start("rounding weights", len(sites))
    for site, quantizer in zip(sites, quantizers, strict=True):
        reader = site.readers[0][0]
        weight = len(site.readers) == 1 and site.readers[0][1] == 1  # not a constant that is multiplied
        if weight and correct.only_reader(program, site.source):
            before = get_tensor(program, site.source).detach().clone()
            gram, mean = watchers.grams.get(reader), watchers.means.get(reader)
            if gram is not None and gram.total is not None:
                set_parameter(program, site.name, rounding.adaptive(before, quantizer, gram.mean))
            if mean is not None and mean.total is not None:
                correct.correct_bias(program, reader, quantizer(get_tensor(program, site.source)) - before, mean)
        context.progress.advance()
    context.progress.finish()


def _range(name: str, quantizer: Quantizer) -> dict[str, Any]:
    scale, zero = quantizer.scale.double(), quantizer.zero_point.double()
    low, high = (quantizer.low - zero) * scale, (quantizer.high - zero) * scale
    return {"name": name, "low": float(low.min()), "high": float(high.max()), "zero_point": int(quantizer.zero_point[0])}
