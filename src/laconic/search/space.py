"""What is tried: so far every runtime in every precision, and batch-norm folding where the runtime does not fold by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from laconic.core.graph import FoldBatchNorm
from laconic.core.program import Program, aten
from laconic.core.task import Target
from laconic.deploy import runtime
from laconic.run.recipe import PRECISIONS, Recipe

BASELINE_RUNTIME = "torch"
# PyTorch runs the graph as it stands; the others fold batch-norms when they load or convert.
_FOLDS_NOT = ("torch",)


def baseline_recipe(threads: int | None, device: str) -> Recipe:
    """What every candidate is compared with: the model as it was given, in PyTorch eager, fp32."""
    return Recipe((), Target(BASELINE_RUNTIME, "fp32", threads, device))


def candidates(
    program: Program,
    runtimes: Sequence[str] | None = None,
    precisions: Sequence[str] | None = None,
    threads: int | None = None,
    device: str = "cpu",
) -> list[Recipe]:
    """All recipes of the sweep, without the baseline's own. Those that the machine cannot run are among them, so that the report can say why."""
    baseline = baseline_recipe(threads, device)
    recipes = [
        recipe
        for name in runtimes or runtime.names()
        for precision in precisions or PRECISIONS
        for recipe in _variants(program, Target(name, precision, threads, device))
    ]
    return [recipe for recipe in recipes if recipe.key != baseline.key]


def _variants(program: Program, deploy: Target) -> Iterator[Recipe]:
    yield Recipe((), deploy)
    if deploy.runtime in _FOLDS_NOT and any(node.target is aten.batch_norm.default for node in program.graph.nodes):
        yield Recipe((FoldBatchNorm(),), deploy)
