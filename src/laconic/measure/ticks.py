"""What all processors of the machine did since it started, as Linux counts it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

STAT = Path("/proc/stat")


@dataclass(frozen=True)
class Ticks:
    """Seconds, summed over processors: all, those at work, and those that the host of a virtual machine gave to others."""

    whole_s: float
    used_s: float
    stolen_s: float

    @classmethod
    def now(cls) -> Ticks | None:
        """Read the first line of /proc/stat: user nice system idle iowait irq softirq steal (guests are counted under user); None where there is none."""
        try:
            ticks = [int(value) for value in STAT.read_text(encoding="utf-8").split("\n", 1)[0].split()[1:9]]
        except (OSError, ValueError):
            return None
        if len(ticks) < 8:
            return None
        per_s = os.sysconf("SC_CLK_TCK")
        return cls(sum(ticks) / per_s, (sum(ticks) - ticks[3] - ticks[4]) / per_s, ticks[7] / per_s)


def stolen_share(before: Ticks | None, after: Ticks | None) -> float | None:
    """Return the share of the used processor time that the host took away in between; None where the system does not tell."""
    if before is None or after is None:
        return None
    used = after.used_s - before.used_s
    return max(0.0, after.stolen_s - before.stolen_s) / used if used > 0 else 0.0
