"""Separable convolutions as a step: a kernel becomes a depthwise one and a 1×1, each fitted to what the layer put out."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

from laconic.core.context import Context
from laconic.core.errors import BadInput
from laconic.core.program import Program
from laconic.core.records import Outcome, Skipped
from laconic.core.step import StepConfig, step
from laconic.core.task import Task
from laconic.factorize.depthwise import Depthwise
from laconic.factorize.following import Following
from laconic.factorize.moments import Moment
from laconic.factorize.ranks import Cost
from laconic.factorize.reached import reached
from laconic.factorize.replacing import batches_of, moments_of, outcome, replaced
from laconic.factorize.sites import Site, find


@dataclass(frozen=True)
class Separable(StepConfig):
    """Separable convolutions: which kernels become depthwise ones with a 1×1 behind them.

    Args:
        multiplier: depthwise kernels for each input channel; as many as the kernel has places, or as there are outputs, are exact.
        energy: a layer stays where the first kernels of its channels hold less than this share of the mean square of its output.
        weighted: errors count by what they do to the output on the task's data; else all weights count alike, and so they do without a task.
        follow: each layer is fitted to what it put out before from what it reads now, behind the layers that were rewritten before it.
        damping: of the inputs' second moments: this share of their mean is added to each.
        saves: a layer is rewritten only if at least this share of its multiply-adds goes.
        only: module paths outside of which all stays; empty: the whole model.
        freeze: module paths that stay.
        examples: of the train data that are looked at.
    """

    calibrates: ClassVar[bool] = True
    section: ClassVar[str] = "factorization"

    multiplier: int = 1
    energy: float = 0.0
    weighted: bool = True
    follow: bool = True
    damping: float = 0.01
    saves: float = 0.1
    only: tuple[str, ...] = ()
    freeze: tuple[str, ...] = ()
    examples: int = 256

    def __post_init__(self) -> None:
        mistakes = []
        if self.multiplier < 1 or self.examples < 1:
            mistakes.append("multiplier and examples must be 1 or more")
        if not 0 <= self.energy <= 1 or not self.saves < 1 or not self.damping > 0:
            mistakes.append("energy and saves are shares, and damping lies above 0")
        if mistakes:
            raise BadInput("the separable convolutions make no sense:\n" + "\n".join(f"  {m}" for m in mistakes))

    def words(self) -> str:
        """Return it with the kernels for each channel, where these are several."""
        return "separable convolutions" + (f" with {self.multiplier} kernels for each channel" if self.multiplier > 1 else "")


@step("separable", Separable)
def separable(program: Program, config: Separable | None = None, context: Context | Task | None = None) -> tuple[Program, Outcome]:
    """Replace convolutions of a copy of a program by depthwise and 1×1 ones, fitted in closed form and without training.

    Both are fitted in turns to what the layer puts out on the task's data (`depthwise.Depthwise`). The whole is then trained with the program before it as its
    teacher, by a step behind this one: `Fit(FitPlan(distill=0.5, …))`.

    Args:
        program: in eval mode; not changed.
        config: which, and with how many kernels.
        context: or the task alone, whose data weigh the errors.

    Returns:
        A cheaper program, and by layer multiply-adds and parameters before and after, and the error of its output; layers that stay with the reason.

    Raises:
        BadInput: no layer can be rewritten, values that are not finite.
    """
    config = config or Separable()
    context = context if isinstance(context, Context) else Context(task=context)
    result = copy.deepcopy(program).eval()
    sites, skipped = find(result, config.only, config.freeze)
    rest = {site.path: why for site in sites if (why := _unfit(site, config)) is not None}
    skipped += [Skipped(path, why) for path, why in rest.items()]
    sites = [site for site in sites if site.path not in rest]
    batches = batches_of(result, context if config.weighted else None, config.examples)
    counting = reached(result, [site.node for site in sites], batches)
    moments = moments_of(result, sites, batches, counting, config.damping, context.progress)
    following = Following(program, result, batches if config.follow else (), config.damping, counting)
    rows: list[dict[str, Any]] = []
    for site, moment in zip(sites, moments, strict=True):
        method = Depthwise(site.weight, moment)
        ranks = (min(config.multiplier, *method.full),)
        kept = 1 - method.lost(ranks)
        if kept < config.energy:
            skipped.append(Skipped(site.path, f"its first kernels hold {100 * kept:.0f} % of the output's mean square"))
        else:
            rows.append(replaced(site, *following(site, moment), Depthwise, "depthwise", ranks))
    return outcome("separable", ("multiplier", config.multiplier), program, result, rows, skipped, weighted=bool(batches))


def _unfit(site: Site, config: Separable) -> str | None:
    """Return why a layer stays whatever it loses; None where it need not."""
    if not site.kernel or max(site.kernel) == 1:
        return "it has no kernel"
    if site.transposed:
        return "it is a transposed convolution"
    cost, method = Cost("macs", None), Depthwise(site.weight, Moment(site.kernel))
    share = cost(site, method.shapes((min(config.multiplier, *method.full),))) / cost(site, site.whole)
    return f"it would have {100 * share:.0f} % of its multiply-adds left" if share > 1 - config.saves else None
