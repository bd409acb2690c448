"""The contract of a runtime, and the table of those that are known."""

from __future__ import annotations

import contextlib
import importlib
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import EntryPoint, PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from laconic.core.errors import BadInput, nearest
from laconic.core.extensions import extended
from laconic.core.target import Target

# name -> module and class; those of one promise are tried in this order.
# Another package adds one through an entry point of the group `laconic.runtimes`.
TABLE: dict[str, tuple[str, str]] = {
    "onnxruntime": ("laconic.deploy.ort", "OnnxRuntime"),
    "openvino": ("laconic.deploy.ov", "OpenVino"),
    "torchscript": ("laconic.deploy.native", "TorchScript"),
    "torch": ("laconic.deploy.native", "Eager"),
    "torch.compile": ("laconic.deploy.native", "Compiled"),
    "executorch": ("laconic.deploy.executorch.runtime", "ExecuTorch"),
    "ncnn": ("laconic.deploy.ncnn.runtime", "Ncnn"),
    "xla": ("laconic.deploy.xla.runtime", "Xla"),
}
# What candidates are compared with: the model as it was given, operator by operator.
BASELINE = "torch"


class Session(ABC):
    """A loaded model."""

    @abstractmethod
    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Compute the outputs; returns when they are there, on every device."""


class Runtime(ABC):
    """Loads a model file of one format and runs it. All that the rest of Laconic knows of a runtime are these facts.

    Attributes:
        name: in recipes and keys; that of its line in the table.
        title: in tables, pages and titles of candidates.
        package: that brings it.
        format: of the model file, a name in `export.FORMATS`.
        formats: the same by precision, where that stands in the file itself.
        precisions: that it can compute in on some machine.
        devices: that it can run on, on some machine, the processor first, which all call `cpu`. A name that other runtimes have too means the same device
            there; one that is the runtime's own begins with its name: `openvino:GPU`.
        unproven: those of them on which nobody ran Laconic yet: written from their documentation. Told wherever they are listed.
        folds_batch_norm: it folds batch-norms when it loads or converts; where it does not, folding is worth a candidate.
        quantizes: the placement rules (`quantization.placement.TARGETS`) by which it computes in integers; empty where it does not.
        fast_zeros: patterns of zeros among the weights (as of `Sparsify.pattern`) with which it was measured to be faster, see docs/zeros.md; elsewhere zeros
            are for smaller packed files, and nobody tries them for speed unasked.
        promise: how likely it is the fastest for the time that trying it takes, of `core.target.PROMISES`: `optimize` tries the likeliest first.
        promises: the same by device, where it is another one there.
        aside: why `optimize` tries it only where it is asked for by name; empty where it tries it unasked.
        kin: the runtime whose kernels it calls too, on processors, so that it is not many times as fast; empty where there is none.
        runs_code: why its files are code, which loading or running them runs; empty where they are data.
        spins: its threads wait for each other by computing nothing, without end; their processor time then says nothing on a busy machine.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    package: ClassVar[str]
    format: ClassVar[str]
    formats: ClassVar[Mapping[str, str]] = MappingProxyType({})
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "bf16")
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    unproven: ClassVar[tuple[str, ...]] = ()
    folds_batch_norm: ClassVar[bool] = True
    quantizes: ClassVar[str] = ""
    fast_zeros: ClassVar[tuple[str, ...]] = ()
    promise: ClassVar[str] = "fair"
    promises: ClassVar[Mapping[str, str]] = MappingProxyType({})
    aside: ClassVar[str] = ""
    kin: ClassVar[str] = ""
    runs_code: ClassVar[str] = ""
    spins: ClassVar[bool] = False

    @abstractmethod
    def available(self, precision: str = "fp32", device: str = "cpu") -> str | None:
        """Return why this machine cannot run it so; None if it can."""

    def seen(self) -> list[str]:
        """Return the devices that it sees here, in its own words; none where its package is absent or has no such words."""
        return []

    @abstractmethod
    def load(self, file: Path, target: Target) -> Session:
        """Load a model file. What needs compiling is compiled here or at the first run."""

    def start_script(self, target: Target) -> str:
        """Return the lines of Python that run `file` on the arrays `inputs` and leave arrays in `outputs`, without Laconic (see `script`).

        A runtime that has none is served by the first one in the table that reads its format.
        """
        return runtime(default_for(self.format)).start_script(target)

    def format_in(self, precision: str) -> str:
        """Return the format of the model file that computes in a precision."""
        return self.formats.get(precision, self.format)

    def lacking(self, precision: str, device: str, *packages: str) -> str | None:
        """Return why it cannot run, as far as its class tells: a package is not installed, or it has no such device or precision; None where nothing is.

        Args:
            precision: to compute in.
            device: to run on.
            packages: those that it needs, which the extra of its name brings.
        """
        if (missing := next((name for name in packages if installed(name) is None), None)) is not None:
            return f"the package {missing} is not installed: pip install 'laconic[{self.name}]'"
        if precision not in self.precisions:
            return f"{self.title} computes in {' and '.join(self.precisions)}, not in {precision}"
        return self.elsewhere(device)

    def elsewhere(self, device: str) -> str | None:
        """Return why it cannot run on a device that it does not have; None if it has it."""
        return None if device in self.devices else f"Laconic runs {self.title} on {' and '.join(self.devices)} only"


def names() -> list[str]:
    """Return the names of all runtimes, those of other packages included, in the order of the table."""
    return list(_table())


@cache
def _table() -> dict[str, tuple[str, str]]:
    return extended(TABLE, "laconic.runtimes", _row)


def _row(entry: EntryPoint) -> tuple[str, str]:
    """Read `name = module:Class`."""
    module, _, kind = entry.value.partition(":")
    return module, kind


def devices() -> list[str]:
    """Return the devices that runtimes have, each once, the processor first. A package's runtime that cannot be made is told where it is asked for."""
    known: dict[str, None] = {}
    for name in names():
        with contextlib.suppress(BadInput, ImportError):
            known.update(dict.fromkeys(runtime(name).devices))
    return list(known)


def baseline_device(device: str) -> str:
    """Return where the baseline runs beside candidates on a device: there, where its runtime can; else on what it sees here, at last on the processor.

    A device of its runtime on which nothing at all runs here stays: whoever asks for it is told why (`unavailable`).
    """
    one = runtime(BASELINE)
    here = [known for known in one.devices[1:] if one.available("fp32", known) is None]
    if device in (one.devices[0], *here) or (device in one.devices and unavailable(device) is not None):
        return device
    return next(iter(here), one.devices[0])


def unavailable(device: str) -> str | None:
    """Return why nothing runs on a device here, in the words of every runtime that has it; None where something does."""
    whys: dict[str, None] = {}
    for name in names():
        one = runtime(name)
        if device in one.devices:
            why = one.available("fp32", device)
            if why is None:
                return None
            whys[f"{one.title}: {why}"] = None
    return "; ".join(whys)


def packages() -> list[str]:
    """Return the packages that bring the runtimes, each once; without those of runtimes whose files import what is not here."""
    known: dict[str, None] = {}
    for name in names():
        with contextlib.suppress(ImportError):
            known[runtime(name).package] = None
    return list(known)


def runtime(name: str) -> Runtime:
    """Return a runtime by name.

    Raises:
        BadInput: there is none of this name, or what stands there is no runtime.
    """
    if name not in _table():
        raise BadInput(f"'{name}' is not a runtime." + nearest(name, _table()))
    module, kind = _table()[name]
    made = getattr(importlib.import_module(module), kind)()
    if not isinstance(made, Runtime):
        raise BadInput(f"the runtime '{name}' is {module}:{kind}, which is no laconic.deploy.runtime.Runtime")
    return made


def default_for(model_format: str) -> str:
    """Return the first runtime in the table that reads a format.

    Raises:
        BadInput: none does.
    """
    for name in names():
        if model_format in (runtime(name).format, *runtime(name).formats.values()):
            return name
    raise BadInput(f"no runtime reads {model_format} files")


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if "sched_getaffinity" in dir(os) else os.cpu_count() or 1


def installed(package: str) -> str | None:
    """Return a package's version, or None; nothing is imported."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def matrix() -> list[dict[str, Any]]:
    """Return every runtime × precision × device: whether this machine can run it, and if not why.

    A device that a runtime does not have is told where another one runs on it here.
    """
    own = {name: [_cell(name, precision, device) for device, precision in _pairs(name, runtime(name).devices)] for name in names()}
    used = [device for device in devices() if any(cell["ready"] and cell["device"] == device for cells in own.values() for cell in cells)]
    return [
        cell
        for name, cells in own.items()
        for cell in (*cells, *(_cell(name, *pair[::-1]) for pair in _pairs(name, [d for d in used if d not in runtime(name).devices])))
    ]


def _pairs(name: str, among: Sequence[str]) -> list[tuple[str, str]]:
    return [(device, precision) for device in among for precision in runtime(name).precisions]


def _cell(name: str, precision: str, device: str) -> dict[str, Any]:
    one = runtime(name)
    why = one.available(precision, device)
    return {
        "runtime": name,
        "title": one.title,
        "precision": precision,
        "device": device,
        "ready": why is None,
        "why": why or "",
        "unproven": device in one.unproven,
        "version": installed(one.package) or "",
    }


def sights() -> dict[str, list[str]]:
    """Return what each runtime sees on this machine, by its title, in its own words; those that see nothing are left out."""
    return {one.title: told for one in map(runtime, names()) if (told := one.seen())}
