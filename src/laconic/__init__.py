"""Laconic: trained PyTorch models, smaller and faster, with the evidence.

The public names are found when they are first used, so that `import laconic` and the command line start at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from laconic.core.version import VERSION

if TYPE_CHECKING:
    from laconic.core.context import Context
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
    from laconic.core.folding import FoldBatchNorm, fold_batch_norm
    from laconic.core.graph import taps
    from laconic.core.plan import FitPlan, Hint, Scaled
    from laconic.core.program import Program, TensorSpec
    from laconic.core.quantities import Quantity
    from laconic.core.records import Measurement, Outcome
    from laconic.core.step import StepConfig
    from laconic.core.target import Target
    from laconic.core.task import Task
    from laconic.deploy.artifact import Artifact, export
    from laconic.deploy.whole import place
    from laconic.distill.distillation import teach
    from laconic.distill.student import Student
    from laconic.factorize.depth import DropBlocks
    from laconic.factorize.lowrank import LowRank, low_rank
    from laconic.factorize.separable import Separable, separable
    from laconic.measure.cost import Price
    from laconic.measure.counts import count
    from laconic.measure.energy import Metering
    from laconic.pruning.coupling import couple
    from laconic.pruning.structured import Prune, prune
    from laconic.pruning.unstructured.masks import Masks
    from laconic.pruning.unstructured.options import Sparsify
    from laconic.pruning.unstructured.sparsify import mask_hook, sparsify
    from laconic.quantization.mixed import Mixed, quantize_mixed, sensitivity
    from laconic.quantization.qat import Qat, qat
    from laconic.quantization.quantize import Quantize, quantize
    from laconic.quantization.smooth import SmoothNorms, smooth_norms
    from laconic.run.bench import bench
    from laconic.run.latency_table import latency_table
    from laconic.run.options import Options
    from laconic.run.prices import read_prices
    from laconic.run.recipe import Recipe, read_recipe
    from laconic.run.runner import apply
    from laconic.run.training import fit
    from laconic.run.whole import load_whole
    from laconic.search.budget import Budget
    from laconic.search.lever import Lever, Setting
    from laconic.search.optimize import optimize
    from laconic.search.pick import pick
    from laconic.search.result import Result
    from laconic.search.space import SearchSpace
    from laconic.storage.pack import Packed, pack, unpack
    from laconic.storage.rate_distortion import RateDistortion, rate_distortion
    from laconic.storage.share import ShareWeights, share_weights
    from laconic.storage.ties import tied
    from laconic.tasks.catalog import load as load_task
    from laconic.tasks.onnx_in import capture
    from laconic.train.step import Fit

__version__ = VERSION

_HOME = {
    "laconic.core.context": "Context",
    "laconic.core.errors": "BadInput CaptureError CorruptFile ExportError LaconicError Locked MissingExtra TrainingStopped WorkerFailed",
    "laconic.core.folding": "FoldBatchNorm fold_batch_norm",
    "laconic.core.graph": "taps",
    "laconic.core.plan": "FitPlan Hint Scaled",
    "laconic.core.program": "Program TensorSpec",
    "laconic.core.quantities": "Quantity",
    "laconic.core.records": "Measurement Outcome",
    "laconic.core.step": "StepConfig",
    "laconic.core.target": "Target",
    "laconic.core.task": "Task",
    "laconic.deploy.artifact": "Artifact export",
    "laconic.distill.distillation": "teach",
    "laconic.distill.student": "Student",
    "laconic.factorize.depth": "DropBlocks",
    "laconic.factorize.lowrank": "LowRank low_rank",
    "laconic.factorize.separable": "Separable separable",
    "laconic.measure.cost": "Price",
    "laconic.measure.counts": "count",
    "laconic.measure.energy": "Metering",
    "laconic.pruning.coupling": "couple",
    "laconic.pruning.structured": "Prune prune",
    "laconic.pruning.unstructured.masks": "Masks",
    "laconic.pruning.unstructured.options": "Sparsify",
    "laconic.pruning.unstructured.sparsify": "mask_hook sparsify",
    "laconic.quantization.mixed": "Mixed quantize_mixed sensitivity",
    "laconic.quantization.qat": "Qat qat",
    "laconic.quantization.quantize": "Quantize quantize",
    "laconic.quantization.smooth": "SmoothNorms smooth_norms",
    "laconic.search.lever": "Lever Setting",
    "laconic.search.optimize": "optimize",
    "laconic.search.pick": "pick",
    "laconic.search.result": "Result",
    "laconic.run.bench": "bench",
    "laconic.run.latency_table": "latency_table",
    "laconic.run.recipe": "Recipe read_recipe",
    "laconic.run.runner": "apply",
    "laconic.run.options": "Options",
    "laconic.run.prices": "read_prices",
    "laconic.run.training": "fit",
    "laconic.run.whole": "load_whole",
    "laconic.deploy.whole": "place",
    "laconic.search.budget": "Budget",
    "laconic.search.space": "SearchSpace",
    "laconic.storage.rate_distortion": "RateDistortion rate_distortion",
    "laconic.storage.share": "ShareWeights share_weights",
    "laconic.storage.ties": "tied",
    "laconic.storage.pack": "Packed pack unpack",
    "laconic.tasks.catalog": "load:load_task",
    "laconic.tasks.onnx_in": "capture",
    "laconic.train.step": "Fit",
}
_NAMES = {name.rpartition(":")[2]: (module, name.partition(":")[0]) for module, names in _HOME.items() for name in names.split()}

__all__ = [
    "Artifact",
    "BadInput",
    "Budget",
    "CaptureError",
    "Context",
    "CorruptFile",
    "DropBlocks",
    "ExportError",
    "Fit",
    "FitPlan",
    "FoldBatchNorm",
    "Hint",
    "LaconicError",
    "Lever",
    "Locked",
    "LowRank",
    "Masks",
    "Measurement",
    "Metering",
    "MissingExtra",
    "Mixed",
    "Options",
    "Outcome",
    "Packed",
    "Price",
    "Program",
    "Prune",
    "Qat",
    "Quantity",
    "Quantize",
    "RateDistortion",
    "Recipe",
    "Result",
    "Scaled",
    "SearchSpace",
    "Separable",
    "Setting",
    "ShareWeights",
    "SmoothNorms",
    "Sparsify",
    "StepConfig",
    "Student",
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
    "latency_table",
    "load_task",
    "load_whole",
    "low_rank",
    "mask_hook",
    "optimize",
    "pack",
    "pick",
    "place",
    "prune",
    "qat",
    "quantize",
    "quantize_mixed",
    "rate_distortion",
    "read_prices",
    "read_recipe",
    "sensitivity",
    "separable",
    "share_weights",
    "smooth_norms",
    "sparsify",
    "taps",
    "teach",
    "tied",
    "unpack",
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
