"""Counters of energy that a machine has: the kernel's powercap (RAPL of Intel and AMD processors), NVML of NVIDIA's GPUs. Each is named, none is guessed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laconic.core.errors import BadInput, MissingExtra, need

POWERCAP = Path("/sys/class/powercap")
# Zones that are counted. Others lie inside a package (core, uncore) or around it (psys), or are a second view of it (intel-rapl-mmio).
_COUNTED = ("package", "dram")
# No part that one counter counts takes more; a counter that so much could have sent round more than once says nothing.
_MOST_W = 2000.0
# A counter is given so long to move before it is said to stand still.
_PATIENCE_S, _LOOK_S = 1.0, 0.02

Reading = dict[str, float]  # joules by the counter's name, from wherever it began


class NoCounter(BadInput):
    """Energy cannot be measured here; says why."""


@dataclass(frozen=True)
class Counter:
    """A count of joules that only grows, and may go round.

    Attributes:
        name: what is told: ``powercap package-0``.
        read: returns joules; raises OSError where it may not be read.
        range_j: where it goes round to 0; None: never.
    """

    name: str
    read: Callable[[], float]
    range_j: float | None = None

    def grown(self, before: float, after: float, seconds: float) -> float:
        """Return joules between two readings.

        Raises:
            NoCounter: it may have gone round more than once in that time, or it fell and never goes round.
        """
        if self.range_j is not None and self.range_j < _MOST_W * seconds:
            raise NoCounter(
                f"the counter {self.name} goes round every {self.range_j:.3g} J, so that over {seconds:.3g} s it may have done so more than once"
            )
        if after >= before:
            return after - before
        if self.range_j is None:
            raise NoCounter(
                f"the counter {self.name} fell from {before:.6g} to {after:.6g} J, and it should only grow: somebody set it back"
            )
        return after - before + self.range_j


def counters(device: str = "cpu", root: Path | None = None) -> tuple[Counter, ...]:
    """Return the counters of what a model on this device takes, each read once and seen to move.

    On a GPU these are the GPU's and, where it may be read, the processor's; otherwise the processor's.

    Args:
        device: of the target: ``cpu``, ``cuda``, …
        root: of the powercap tree; None: the kernel's.

    Raises:
        NoCounter: there is none, it may not be read, or it stands still.
    """
    if device.split(":")[0] == "cpu":
        found = powercap(POWERCAP if root is None else root)
    elif device.split(":")[0] == "cuda":
        found = (nvml(device), *_unless(lambda: powercap(POWERCAP if root is None else root)))
    else:
        raise NoCounter(
            f"no counter of the device '{device}' is known: powercap counts processors, NVML counts NVIDIA's GPUs. Give a meter's file."
        )
    for counter in found:
        _check_moves(counter)
    return found


def _unless(find: Callable[[], tuple[Counter, ...]]) -> tuple[Counter, ...]:
    try:
        return find()
    except NoCounter:
        return ()


def powercap(root: Path) -> tuple[Counter, ...]:
    """Return the packages and memories of a powercap tree (Linux, Documentation/power/powercap/powercap.rst).

    Raises:
        NoCounter: there is no such tree, no zone in it, or one that may not be read.
    """
    zones = sorted(zone for zone in root.glob("intel-rapl:*") if (zone / "energy_uj").exists() and (zone / "name").exists())
    named = [(zone, _text(zone / "name")) for zone in zones]
    counted = [(zone, name) for zone, name in named if name.startswith(_COUNTED)]
    if not counted:
        raise NoCounter(
            f"there is no counter of the processor's energy: {root} has no zone of a package (it is Linux's, and virtual machines rarely have it)"
        )
    return tuple(_zone(zone, name, [other for _, other in counted].count(name) > 1) for zone, name in counted)


def _zone(folder: Path, name: str, twice: bool) -> Counter:
    file = folder / "energy_uj"
    counter = Counter(f"powercap {name}" + (f" ({folder.name})" if twice else ""), lambda: int(_text(file)) / 1e6)
    try:
        counter.read()
        return Counter(counter.name, counter.read, int(_text(folder / "max_energy_range_uj")) / 1e6)
    except PermissionError as error:
        raise NoCounter(f"{file} may not be read: since Linux 5.10 root alone may. Let it be read: sudo chmod a+r {file}") from error
    except (OSError, ValueError) as error:
        raise NoCounter(f"{file} cannot be read: {error}") from error


def nvml(device: str) -> Counter:
    """Return the energy counter of an NVIDIA GPU, millijoules since its driver was loaded (Volta and later).

    Args:
        device: ``cuda`` or ``cuda:N``, counted among those that ``CUDA_VISIBLE_DEVICES`` leaves.

    Raises:
        NoCounter: the package or the driver is not there, or the GPU has no such counter.
    """
    try:
        library: Any = need("pynvml", "nvidia")
        library.nvmlInit()
    except MissingExtra as error:
        raise NoCounter(f"the GPU's energy is not counted: {error}") from error
    except Exception as error:
        raise NoCounter(f"NVML did not start: {error}") from error
    try:
        handle = _handle(library, device)
        name = library.nvmlDeviceGetName(handle)
        library.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception as error:
        raise NoCounter(f"NVML has no energy counter of the device '{device}': {error}") from error
    told = name.decode() if isinstance(name, bytes) else str(name)
    return Counter(f"NVML {told}", lambda: library.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3)


def _handle(library: Any, device: str) -> Any:
    number = int(device.partition(":")[2] or 0)
    visible = [part.strip() for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part.strip()]
    chosen = visible[number] if visible else str(number)
    return library.nvmlDeviceGetHandleByIndex(int(chosen)) if chosen.isdigit() else library.nvmlDeviceGetHandleByUUID(chosen.encode())


def read_all(some: Sequence[Counter]) -> Reading:
    """Return what each counter says now.

    Raises:
        NoCounter: one cannot be read any more.
    """
    result = {}
    for counter in some:
        try:
            result[counter.name] = counter.read()
        except Exception as error:
            raise NoCounter(f"the counter {counter.name} can no longer be read: {error}") from error
    return result


def grown(some: Sequence[Counter], before: Mapping[str, float], after: Mapping[str, float], seconds: float) -> float:
    """Return joules that all counters together grew by.

    Raises:
        NoCounter: one of them stood still, or went round too often.
    """
    each = {counter.name: counter.grown(before[counter.name], after[counter.name], seconds) for counter in some}
    if still := [name for name, joules in each.items() if joules <= 0]:
        raise NoCounter(f"the counter {still[0]} stood still for {seconds:.3g} s")
    return sum(each.values())


def _check_moves(counter: Counter) -> None:
    first, end = read_all([counter]), time.monotonic() + _PATIENCE_S
    while read_all([counter]) == first:
        if time.monotonic() > end:
            raise NoCounter(f"the counter {counter.name} stands still: it said {first[counter.name]:.6g} J for {_PATIENCE_S:g} s")
        time.sleep(_LOOK_S)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip()
