"""Post-training quantization: int8 activations and weights where the target computes with integers, or weights alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import fx

from laconic.core.errors import BadInput, nearest
from laconic.core.graph import fold_batch_norm, get_tensor, set_parameter
from laconic.core.program import Program, aten
from laconic.core.records import Outcome
from laconic.core.task import Context, Task
from laconic.quantize import correct, rounding
from laconic.quantize.apply import Grids, activation_grids, round_activations, round_weights, weight_grids
from laconic.quantize.attention import take_apart
from laconic.quantize.calibrate import Batch, Watcher, calibration_batches, observe
from laconic.quantize.observers import OBSERVERS, ChannelMean, Observer
from laconic.quantize.placement import Plan, WeightSite, embeddings, operator_name, place
from laconic.quantize.scheme import WEIGHT_HALF, WEIGHT_INT4, WEIGHT_INT8, Scheme, full_range

Mode = Literal["static", "dynamic", "weights"]
_SMOOTHING_BATCHES = 2


@dataclass(frozen=True)
class Quantize:
    """Post-training quantization.

    Args:
        mode: ``static`` (activations rounded to ranges seen in calibration), ``dynamic`` (to each input's own range) or ``weights`` (weights alone).
        target: runtime whose integer kernels are aimed at: ``openvino`` or ``onnxruntime``; None takes the one that the recipe deploys to.
        bits: of weights; 4 goes with the mode ``weights``.
        group: neighbouring inputs of a linear layer's weight that share a scale; 0: each output has one.
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
    group: int = 0
    examples: int = 256
    observer: str = "moving_average"
    smooth: float | None = 0.5
    equalize: bool = False
    correct_bias: bool = True
    rounding: Literal["nearest", "adaptive"] = "nearest"
    embeddings: bool = True
    half_range: bool | None = None
    keep: tuple[str, ...] = ()
    batch_size: int = 32

    def __post_init__(self) -> None:
        mistakes = []
        if self.observer not in OBSERVERS:
            mistakes.append(f"observer: '{self.observer}'." + nearest(self.observer, OBSERVERS))
        if self.bits == 4 and self.mode != "weights":
            mistakes.append("bits: 4 goes with mode 'weights' only; no runtime here multiplies 4-bit activations")
        if self.examples < 1 or self.batch_size < 1 or self.group < 0:
            mistakes.append("examples and batch_size must be 1 or more, group 0 or more")
        if self.smooth is not None and not 0 < self.smooth < 1:
            mistakes.append(f"smooth: {self.smooth} must lie between 0 and 1, or be None")
        if mistakes:
            raise BadInput("the quantization makes no sense:\n" + "\n".join(f"  {m}" for m in mistakes))


def as_context(given: Context | Task | None) -> Context:
    """A context from what a caller has: a task alone will do."""
    return given if isinstance(given, Context) else Context(task=given)


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


def static(program: Program, config: Quantize, context: Context) -> tuple[Program, Outcome]:
    """Static quantization, see `quantize`."""
    target = config.target or context.target.runtime
    found, folding = fold_batch_norm(program)
    take_apart(found)
    batches = calibration_batches(context, config.examples, config.batch_size, found)
    counts, notes = _prepare(found, config, batches, context)
    plan = place(found, target, config.keep)
    scheme, half = weight_scheme(config)
    weights = plan.weights + (embeddings(found.graph, config.keep) if config.embeddings else [])
    observers: dict[fx.Node, Observer] = {site.family: OBSERVERS[config.observer]() for site in plan.activations}
    means, grams = _extra_watchers(found, plan, config)
    observe(found, _watch(plan, observers, means, grams), batches, context.progress)
    grids = activation_grids(plan, observers)
    quantizers = weight_grids(found, weights, scheme)
    _settle_weights(found, weights, quantizers, means, grams, config, context)
    round_weights(found, weights, quantizers)
    made = round_activations(found, plan.activations, grids)
    found.recompile()
    changed = {
        "target": target,
        "operators": [operator_name(node) for node in plan.operators],
        "weights": {"bits": config.bits, "tensors": len(weights), "half_range": half},
        "activations": [_range(site.name, node, grids[site.family]) for node, site in made.items()],
        "examples": sum(len(batch[0]) for batch in batches),
        **counts,
    }
    return found, Outcome("quantize", changed, (*plan.skipped, *folding.skipped), tuple(notes))


def weight_scheme(config: Quantize) -> tuple[Scheme, bool]:
    """Codes of weights, and whether they keep to half the range."""
    half = config.half_range if config.half_range is not None else not full_range()
    if config.bits == 4:
        return Scheme(WEIGHT_INT4.low, WEIGHT_INT4.high, axis=0, group=config.group), False
    base = WEIGHT_HALF if half else WEIGHT_INT8
    return Scheme(base.low, base.high, axis=0, group=config.group), half


def _prepare(program: Program, config: Quantize, batches: Sequence[Batch], context: Context) -> tuple[dict[str, int], list[str]]:
    """Equalize and smooth, where asked for."""
    counts: dict[str, int] = {}
    if config.equalize:
        counts["equalized_pairs"] = correct.equalize(program)
    if config.smooth is not None and (watchers := correct.smoothing_watchers(program)):
        observe(program, watchers, batches[:_SMOOTHING_BATCHES], context.progress, "smoothing")
        counts["smoothed_norms"] = correct.smooth(program, watchers, config.smooth)
    return counts, []


def _extra_watchers(program: Program, plan: Plan, config: Quantize) -> tuple[dict[fx.Node, ChannelMean], dict[fx.Node, rounding.Gram]]:
    """By operator: the means of its input channels and the Gram matrix of its inputs, as far as they are needed."""
    layers = [n for n in plan.operators if n.target in (aten.linear.default, *correct.CONVOLUTIONS)]
    means = {n: ChannelMean(correct.channel_axis(n)) for n in layers} if config.correct_bias else {}
    if config.rounding != "adaptive":
        return means, {}
    grams = {}
    for n in layers:
        weight = get_tensor(program, n.args[1])  # type: ignore[arg-type]
        if rounding.fits(n, weight):
            n.meta["kernel"] = tuple(weight.shape[2:])
            grams[n] = rounding.Gram(n)
    return means, grams


def _watch(plan: Plan, observers: dict[fx.Node, Observer], *by_operator: Any) -> dict[fx.Node, list[Watcher]]:
    """Whom to show what: each family's observer sees the outputs that are made, not those that were only moved."""
    watchers: dict[fx.Node, list[Watcher]] = {}
    moved = {reader for site in plan.activations for reader in site.readers if any(reader is s.source for s in plan.activations)}
    for site in plan.activations:
        if site.source not in moved or site.family is site.source:
            watchers.setdefault(site.source, []).append(observers[site.family])
    for table in by_operator:
        for node, watcher in table.items():
            watchers.setdefault(node.args[0], []).append(watcher)
    return watchers


def _settle_weights(
    program: Program, sites: list[WeightSite], quantizers: list[Any], means: Any, grams: Any, config: Quantize, context: Context
) -> None:
    """Choose the rounding and correct the biases of the layers that allow it."""
    context.progress.start("rounding weights", len(sites))
    for site, quantizer in zip(sites, quantizers, strict=True):
        reader = site.readers[0][0]
        weight = get_tensor(program, site.source)
        if len(site.readers) == 1 and correct.only_reader(program, site.source):
            before = weight.detach().clone()
            if reader in grams and grams[reader].total is not None:
                set_parameter(program, site.name, rounding.adaptive(before, quantizer, grams[reader].mean))
            if reader in means and means[reader].total is not None:
                error = quantizer(get_tensor(program, site.source)) - before
                correct.correct_bias(program, reader, error, means[reader])
        context.progress.advance()
    context.progress.finish()


def _range(name: str, node: fx.Node, quantizer: Any) -> dict[str, Any]:
    scale, zero = quantizer.scale.double(), quantizer.zero_point.double()
    low, high = (quantizer.low - zero) * scale, (quantizer.high - zero) * scale
    return {"name": name, "low": float(low.min()), "high": float(high.max()), "zero_point": int(quantizer.zero_point[0])}
