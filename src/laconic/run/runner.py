"""The one registry of steps, and the loop that applies them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import EntryPoint
from typing import Any

from laconic.core.context import Context
from laconic.core.errors import BadInput, nearest
from laconic.core.extensions import extended
from laconic.core.program import Program, as_program
from laconic.core.records import Outcome
from laconic.core.step import STAGES, StepConfig, as_step

StepFunction = Callable[[Program, Any, Context], tuple[Program, Outcome]]

# name in recipes -> module, config type, function. A new step is one line here, or an entry point of the group `laconic.steps` in another package.
TABLE: dict[str, tuple[str, str, str]] = {
    "fold_batch_norm": ("laconic.core.folding", "FoldBatchNorm", "fold_batch_norm"),
    "fit": ("laconic.train.step", "Fit", "fit_step"),
    "insert_dropout": ("laconic.train.insert", "InsertDropout", "insert_dropout"),
    "insert_stochastic_depth": ("laconic.train.insert", "InsertStochasticDepth", "insert_stochastic_depth"),
    "insert_batch_norm": ("laconic.train.insert", "InsertBatchNorm", "insert_batch_norm"),
    "drop_blocks": ("laconic.factorize.depth", "DropBlocks", "drop_blocks"),
    "low_rank": ("laconic.factorize.lowrank", "LowRank", "low_rank"),
    "separable": ("laconic.factorize.separable", "Separable", "separable"),
    "student": ("laconic.distill.student", "Student", "student"),
    "prune": ("laconic.pruning.structured", "Prune", "prune"),
    "sparsify": ("laconic.pruning.unstructured.sparsify", "Sparsify", "sparsify"),
    "smooth_norms": ("laconic.quantization.smooth", "SmoothNorms", "smooth_norms"),
    "quantize": ("laconic.quantization.quantize", "Quantize", "quantize"),
    "quantize_mixed": ("laconic.quantization.mixed", "Mixed", "quantize_mixed"),
    "qat": ("laconic.quantization.qat", "Qat", "qat"),
    "share_weights": ("laconic.storage.share", "ShareWeights", "share_weights"),
    "rate_distortion": ("laconic.storage.rate_distortion", "RateDistortion", "rate_distortion"),
}


class Registry:
    """Steps by name, found late: a step's module is imported when the step is first used."""

    def names(self) -> list[str]:
        """Return all step names, those of other packages included."""
        return sorted(_table())

    def config(self, name: str) -> type[StepConfig]:
        """Return the frozen dataclass of a step's options.

        Raises:
            BadInput: it does not derive from `StepConfig`, so the step tells nothing about itself, or its stage is none of those of recipes.
        """
        module, config, _ = _table()[name]
        kind: type[Any] = _attribute(module, config)
        if not issubclass(kind, StepConfig):
            raise BadInput(
                f"the options of the step '{name}' are no StepConfig: write class {config}(laconic.StepConfig), which brings no fields"
            )
        if kind.stage not in STAGES:
            raise BadInput(f"the step '{name}' has the stage '{kind.stage}', which recipes do not have." + nearest(kind.stage, STAGES))
        return kind

    def function(self, name: str) -> StepFunction:
        """Return the function `(program, config, context) -> (program, outcome)`, with the checks that hold for every step (`core.step`)."""
        module, _, function = _table()[name]
        return as_step(name, _attribute(module, function))

    def name_of(self, config: Any) -> str:
        """Return the name under which a config's type is registered.

        Raises:
            BadInput: its type is no step.
        """
        for name, (_, kind, _) in _table().items():
            if type(config).__name__ == kind and type(config) is self.config(name):
                return name
        raise BadInput(f"{type(config).__name__} is not the config of a step; steps are {', '.join(self.names())}")


STEPS = Registry()


@cache
def _table() -> dict[str, tuple[str, str, str]]:
    return extended(TABLE, "laconic.steps", _row)


def _row(entry: EntryPoint) -> tuple[str, str, str]:
    """Read `name = module:Config,function`."""
    module, _, names = entry.value.partition(":")
    config, _, function = names.partition(",")
    return module, config.strip(), function.strip()


def _attribute(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def apply(program: Program, steps: Sequence[Any], context: Context) -> tuple[Program, tuple[Outcome, ...]]:
    """Apply steps in order. Each gets a program in eval mode and returns a new one; the one given is not changed.

    Returns:
        The last program, and what each step did.

    Raises:
        LaconicError: a step failed, or made a program that is not finite; the steps' own errors too.
    """
    program, outcomes = as_program(program, "apply"), []
    for config in steps:
        name = STEPS.name_of(config)
        program, outcome = STEPS.function(name)(program, config, context)
        outcomes.append(outcome)
    return program.eval(), tuple(outcomes)
