"""Where and how an artifact runs; free of torch."""

from __future__ import annotations

from dataclasses import dataclass

from laconic.core.fields import check_types

# What may stand in a target; each runtime says which of them it has. What it may say for devices, the runtimes know (`deploy.runtime.devices`).
PRECISIONS = ("fp32", "bf16", "fp16-weights")
# How likely something is the best for the time that trying it takes, the likeliest first.
PROMISES = ("high", "fair", "low")


@dataclass(frozen=True)
class Target:
    """Where the artifact will run.

    Attributes:
        runtime: a name in the table of runtimes.
        precision: that it computes in.
        threads: None means all cores that the process may use.
        device: as the runtime calls it: `cpu`, `cuda`, `tensorrt`, `openvino:GPU`, …
    """

    runtime: str = "onnxruntime"
    precision: str = "fp32"
    threads: int | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_types(self, "the target makes no sense:")
