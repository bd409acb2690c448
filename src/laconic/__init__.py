"""Laconic: trained PyTorch models, smaller and faster, with the evidence.

The public names are found when they are first used, so that `import laconic` and the command line start at once.
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from laconic.core.capture import capture
    from laconic.core.errors import (
        BadInput,
        CaptureError,
        CorruptFile,
        ExportError,
        LaconicError,
        Locked,
        MissingExtra,
        TrainingStopped,
        WorkerFailed,
    )
    from laconic.core.graph import FoldBatchNorm, fold_batch_norm, taps
    from laconic.core.program import Program, TensorSpec
    from laconic.core.records import Measurement, Outcome
    from laconic.core.task import Choice, Context, FitPlan, Hint, Target, Task
    from laconic.deploy.artifact import Artifact, export
    from laconic.distill.lesson import teach
    from laconic.distill.student import Student
    from laconic.factorize.depth import DropBlocks
    from laconic.measure.counts import count
    from laconic.prune.coupling import couple
    from laconic.prune.structured import Prune, prune
    from laconic.quantize.mixed import Mixed, quantize_mixed, sensitivity
    from laconic.quantize.qat import Qat, qat
    from laconic.quantize.static import Quantize, quantize
    from laconic.result import Result, optimize
    from laconic.run.bench import bench
    from laconic.run.prices import prices
    from laconic.run.recipe import Recipe, read_recipe
    from laconic.run.runner import apply
    from laconic.run.session import Options
    from laconic.run.training import fit
    from laconic.search.budget import Budget
    from laconic.search.optimize import Sweep
    from laconic.tasks.catalog import load as load_task
    from laconic.train.step import Fit

try:
    __version__ = version("laconic")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0.0.0"

_HOME = {
    "laconic.core.capture": "capture",
    "laconic.core.errors": "BadInput CaptureError CorruptFile ExportError LaconicError Locked MissingExtra TrainingStopped WorkerFailed",
    "laconic.core.graph": "FoldBatchNorm fold_batch_norm taps",
    "laconic.core.program": "Program TensorSpec",
    "laconic.core.records": "Measurement Outcome",
    "laconic.core.task": "Choice Context FitPlan Hint Target Task",
    "laconic.deploy.artifact": "Artifact export",
    "laconic.distill.lesson": "teach",
    "laconic.distill.student": "Student",
    "laconic.factorize.depth": "DropBlocks",
    "laconic.measure.counts": "count",
    "laconic.prune.coupling": "couple",
    "laconic.prune.structured": "Prune prune",
    "laconic.quantize.mixed": "Mixed quantize_mixed sensitivity",
    "laconic.quantize.qat": "Qat qat",
    "laconic.quantize.static": "Quantize quantize",
    "laconic.result": "Result optimize",
    "laconic.run.bench": "bench",
    "laconic.run.prices": "prices",
    "laconic.run.recipe": "Recipe read_recipe",
    "laconic.run.runner": "apply",
    "laconic.run.session": "Options",
    "laconic.run.training": "fit",
    "laconic.search.budget": "Budget",
    "laconic.search.optimize": "Sweep",
    "laconic.tasks.catalog": "load:load_task",
    "laconic.train.step": "Fit",
}
_NAMES = {name.rpartition(":")[2]: (module, name.partition(":")[0]) for module, names in _HOME.items() for name in names.split()}

__all__ = [
    "Artifact",
    "BadInput",
    "Budget",
    "CaptureError",
    "Choice",
    "Context",
    "CorruptFile",
    "DropBlocks",
    "ExportError",
    "Fit",
    "FitPlan",
    "FoldBatchNorm",
    "Hint",
    "LaconicError",
    "Locked",
    "Measurement",
    "MissingExtra",
    "Mixed",
    "Options",
    "Outcome",
    "Program",
    "Prune",
    "Qat",
    "Quantize",
    "Recipe",
    "Result",
    "Student",
    "Sweep",
    "Target",
    "Task",
    "TensorSpec",
    "TrainingStopped",
    "WorkerFailed",
    "apply",
    "bench",
    "capture",
    "count",
    "couple",
    "export",
    "fit",
    "fold_batch_norm",
    "load_task",
    "optimize",
    "prices",
    "prune",
    "qat",
    "quantize",
    "quantize_mixed",
    "read_recipe",
    "sensitivity",
    "taps",
    "teach",
]


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'laconic' has no attribute '{name}'")
    module, attribute = _NAMES[name]
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_NAMES})
