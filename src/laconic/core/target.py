"""Where and how an artifact runs; free of torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """Where the artifact will run. `threads` None means all cores that the process may use."""

    runtime: str = "onnxruntime"
    precision: str = "fp32"
    threads: int | None = None
    device: str = "cpu"
