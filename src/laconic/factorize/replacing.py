"""What the steps share: the moments of the layers' inputs, a layer replaced and told of, and the outcome."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from laconic.core.calibrate import Batch, Watcher, calibration_batches, observe
from laconic.core.context import Context
from laconic.core.errors import BadInput
from laconic.core.program import Program
from laconic.core.progress import Progress
from laconic.core.records import Outcome, Skipped
from laconic.factorize.chain import balanced, by_group, composed, count
from laconic.factorize.method import Method, Ranks
from laconic.factorize.moments import Fold, Moment
from laconic.factorize.reached import Reached
from laconic.factorize.rewrite import put
from laconic.factorize.sites import Site, model_params, multiplying

_BATCH = 64


def batches_of(program: Program, context: Context | None, examples: int) -> list[Batch]:
    """Return batches of the task's data where the program is; none without a context or a task.

    Raises:
        BadInput: a float input is not finite.
    """
    if context is None or context.task is None:
        return []
    device = program.example_inputs()[0].device
    batches = calibration_batches(context, examples, _BATCH, program)
    return [tuple(leaf.to(device) for leaf in batch) for batch in batches]


def moments_of(
    program: Program, sites: Sequence[Site], batches: Sequence[Batch], counting: Reached, damping: float, progress: Progress
) -> list[Moment]:
    """Return the second moments of what layers read; white noise without batches.

    Args:
        program: that they are of.
        sites: the layers.
        batches: of the task's data.
        counting: places that count, by layer.
        damping: see `Fold.moment`.
        progress: shows the work.

    Raises:
        BadInput: values that are not finite; names the layer.
    """
    folds = [Fold(site.node, site.groups, site.weight.shape[2], site.kernel, counting.get(site.node, ())) for site in sites]
    if batches and sites:
        watchers: dict[Any, list[Watcher]] = {}
        for site, fold in zip(sites, folds, strict=True):
            watchers.setdefault(site.read, []).append(fold)
        observe(program, watchers, batches, progress, "looking at what layers read")
    return [fold.moment(damping) for fold in folds]


@torch.no_grad()
def replaced(site: Site, weight: Tensor, moment: Moment, method: type[Method], name: str, ranks: Ranks) -> dict[str, Any]:
    """Put a chain in the place of a layer; returns what is told of it.

    The error is the root of the mean square by which the outputs move on the inputs seen, relative to the outputs.

    Args:
        site: the layer.
        weight: that the chain is to be near to, (G, O, I, *kernel).
        moment: of the layer's inputs.
        method: the way.
        name: of the way.
        ranks: of the chain.
    """
    way = method(weight, moment)
    chain = balanced(way.cut(ranks), moment)
    error = moment.power(weight - by_group(composed(chain), site.groups)) / max(moment.power(weight), 1e-300)
    forms = [(tuple(factor.weight.shape), factor.groups, factor.axes) for factor in chain]
    told = {
        "name": site.path,
        "method": name,
        "rank": " × ".join(map(str, ranks)),
        "full_rank": " × ".join(map(str, way.full)),
        "macs": [sum(layer.macs for layer in site.layers(layers)) for layers in (site.whole, forms)],
        "params": [weight.numel(), count(chain)],
        "error": error**0.5,
    }
    put(site, chain)
    return told


def check_any(layers: Sequence[Any], skipped: Sequence[Skipped]) -> None:
    """Check that there are layers to be rewritten.

    Raises:
        BadInput: there are none; tells the reasons.
    """
    if not layers:
        reasons = "; ".join(sorted({one.reason for one in skipped})) or "there is no convolution or linear layer"
        raise BadInput(f"no layer can be rewritten: {reasons}")


def outcome(
    step: str,
    goal: tuple[str, float | None],
    before: Program,
    after: Program,
    rows: Sequence[dict[str, Any]],
    skipped: Sequence[Skipped],
    weighted: bool,
) -> tuple[Program, Outcome]:
    """Return the program, ready, and what was done to it.

    Raises:
        BadInput: nothing was.
    """
    check_any(rows, skipped)
    after.recompile()
    changed = {
        "goal": goal[0],
        "share": goal[1],
        "weighted": weighted,
        "layers": list(rows),
        "macs": [sum(macs for _, macs in multiplying(program)) for program in (before, after)],
        "params": [model_params(program) for program in (before, after)],
    }
    notes = () if weighted else ("all weights count alike: no data were looked at, so the errors are those of the weights",)
    return after, Outcome(step, changed, tuple(skipped), notes)
