"""The machine and the software that a figure was measured with. Nothing is imported for it; what cannot be read is left out."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

from laconic.core.processor import cpuinfo

PACKAGES = ("laconic", "torch", "numpy", "onnx", "onnxscript", "transformers", "accelerate")
# What decides the speed of fp32, int8 and bf16: names as Linux writes them in /proc/cpuinfo.
INSTRUCTIONS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "amx_fp16",
    "asimd",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
)

_EXTRA, _PACKAGE = re.compile(r"extra == ['\"]([\w-]+)['\"]"), re.compile(r"[\w.-]+")
_OURS = ("dev", "docs", "bench")


def environment(threads: int | None = None, packages: Sequence[str] = ()) -> dict[str, Any]:
    """Describe the machine: processor, instructions, cores, threads, memory, load, operating system, versions, GPU.

    Args:
        threads: that were used; None means all cores that the process may use.
        packages: of which the versions count too, as those of the runtimes.
    """
    cpu = cpuinfo()
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return {
        "processor": cpu.get("model name") or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "instructions": {name: name in cpu.get("flags", "").split() for name in INSTRUCTIONS if _of_this_kind(name)},
        "cores": cores,
        "threads": threads or cores,
        "memory_bytes": _memory(),
        "load_average": [round(value, 2) for value in os.getloadavg()] if sys.platform != "win32" else [],
        "os": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: number for name in dict.fromkeys((*PACKAGES, *packages)) if (number := _version(name)) is not None},
        "gpu": _gpu(),
    }


def extras() -> dict[str, list[str]]:
    """Return the packages that each of Laconic's own extras wants and that are not installed here, by extra; none of those that only tests and docs need."""
    lacking: dict[str, list[str]] = {}
    for line in requires("laconic") or ():
        name, _, condition = line.partition(";")
        if (extra := _EXTRA.search(condition)) is None or extra[1] in _OURS:
            continue
        package = _PACKAGE.match(name.strip())
        missing = lacking.setdefault(extra[1], [])
        if package is not None and _version(package[0]) is None:
            missing.append(package[0])
    return lacking


def _of_this_kind(name: str) -> bool:
    arm = name in ("asimd", "asimddp", "i8mm", "bf16", "sve")
    return arm == (platform.machine() in ("aarch64", "arm64"))


def _memory() -> int | None:
    names = os.sysconf_names if sys.platform != "win32" else {}
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if "SC_PHYS_PAGES" in names else None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _gpu() -> str | None:
    """Return the GPU's name, asked of torch only if torch is loaded anyway."""
    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name(0) if torch is not None and torch.cuda.is_available() else None
