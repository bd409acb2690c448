"""The contract of a runtime, and the table of those that are known."""

from __future__ import annotations

import importlib
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache
from importlib.metadata import EntryPoint, PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from laconic.core.errors import BadInput, nearest
from laconic.core.extensions import extended
from laconic.core.target import Target

# name -> module and class, in the order in which they are tried: what starts fast comes first, so that a time limit costs least.
# Another package adds one through an entry point of the group `laconic.runtimes`.
TABLE: dict[str, tuple[str, str]] = {
    "onnxruntime": ("laconic.deploy.ort", "OnnxRuntime"),
    "openvino": ("laconic.deploy.ov", "OpenVino"),
    "torchscript": ("laconic.deploy.native", "TorchScript"),
    "torch": ("laconic.deploy.native", "Eager"),
    "torch.compile": ("laconic.deploy.native", "Compiled"),
}
DEVICES = ("cpu", "cuda")


class Session(ABC):
    """A loaded model."""

    @abstractmethod
    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Compute the outputs; returns when they are there, on every device."""


class Runtime(ABC):
    """Loads a model file of one format and runs it.

    `spins` says that its threads wait for each other by computing nothing, without end: their processor time then says nothing on a busy machine.
    """

    spins: ClassVar[bool] = False
    name: ClassVar[str]
    package: ClassVar[str]
    format: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "bf16")

    @abstractmethod
    def available(self, precision: str = "fp32", device: str = "cpu") -> str | None:
        """None if this machine can run it so, else the reason why not."""

    @abstractmethod
    def load(self, file: Path, settings: Target) -> Session:
        """Load a model file. What needs compiling is compiled here or at the first run."""


def names() -> list[str]:
    """All runtimes, those of other packages included."""
    return list(_table())


@cache
def _table() -> dict[str, tuple[str, str]]:
    return extended(TABLE, "laconic.runtimes", _row)


def _row(entry: EntryPoint) -> tuple[str, str]:
    """Read `name = module:Class`."""
    module, _, kind = entry.value.partition(":")
    return module, kind


def runtime(name: str) -> Runtime:
    """A runtime by name.

    Raises:
        BadInput: there is none of this name.
    """
    if name not in _table():
        raise BadInput(f"'{name}' is not a runtime." + nearest(name, _table()))
    module, kind = _table()[name]
    found = getattr(importlib.import_module(module), kind)()
    assert isinstance(found, Runtime)
    return found


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if "sched_getaffinity" in dir(os) else os.cpu_count() or 1


def installed(package: str) -> str | None:
    """A package's version, or None; nothing is imported."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def matrix() -> list[dict[str, Any]]:
    """Every runtime × precision × device: whether this machine can run it, and if not why."""
    rows = []
    for name in names():
        found = runtime(name)
        for device in DEVICES:
            for precision in found.precisions:
                why = found.available(precision, device)
                rows.append(
                    {
                        "runtime": name,
                        "precision": precision,
                        "device": device,
                        "ready": why is None,
                        "why": why or "",
                        "version": installed(found.package) or "",
                    }
                )
    return rows
