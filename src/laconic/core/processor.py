"""What the processor can do, by the names that Linux writes in /proc/cpuinfo."""

from __future__ import annotations

from functools import cache
from pathlib import Path


def cpuinfo() -> dict[str, str]:
    """Return the first processor's rows of /proc/cpuinfo, with `Features` under the name `flags`; empty where there is none."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    rows: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        rows.setdefault({"Features": "flags"}.get(name.strip(), name.strip()), value.strip())
    return rows


@cache
def instructions() -> frozenset[str]:
    """Return names of the instruction sets, e.g. ``avx512_vnni``; empty where the system does not tell."""
    return frozenset(cpuinfo().get("flags", "").split())
