"""Tell a busy machine from a quiet one by the turns that were taken on it.

Short runs fit between two preemptions and long ones do not, so a ratio of their times on a busy machine is wrong, and its interval narrow. Where the kernel
tells how long threads waited for a core (Linux), a turn in which they waited for more than 5 % of it, and for longer than one
short event, counts as preempted; elsewhere one with many involuntary context switches: an idle machine has a few in a second, a core that two share one in each
time slice of some milliseconds.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from laconic.core.turn import Turn

WAITED = 0.05
# A wait as short as this is one event, which hits one run of many, or is little of a long one: medians withstand it.
SLICE_NS = 4_000_000
SWITCHES_PER_S, SWITCHES = 20.0, 4
# A median over rounds withstands this share of turns that were disturbed.
ALLOWED = 0.2


def preempted(turn: Turn) -> bool:
    """Return whether something else had the processor during a turn.

    What the system does not tell, and waiting that is the process's own doing, is not held against the machine.
    """
    if turn.crowded or not turn.wall_ns:
        return False
    waited = waited_share(turn)
    if waited is not None:
        return waited > WAITED and waited * turn.wall_ns > SLICE_NS
    return turn.involuntary is not None and turn.involuntary >= SWITCHES and turn.involuntary > SWITCHES_PER_S * turn.wall_ns / 1e9


def disturbed(turns: Sequence[Turn]) -> bool:
    """Return whether more of the turns were preempted than a median withstands."""
    return bool(turns) and sum(map(preempted, turns)) > ALLOWED * len(turns)


def waited_share(turn: Turn) -> float | None:
    """Return the time that threads waited for a core as a share of the turn; above 1 where several did at once, None where the system does not tell."""
    known = [value for value in (turn.wait_ns, turn.throttled_ns) if value is not None]
    return sum(known) / turn.wall_ns if turn.wall_ns and turn.wait_ns is not None else None


def summarize(turns: Mapping[str, Sequence[Turn]], repeated: int, stolen: float | None = None) -> dict[str, Any]:
    """Return what is known of the machine during a comparison, as plain values.

    Args:
        turns: those that count, by candidate.
        repeated: number of turns that were taken again.
        stolen: share of the used processor time that the host of a virtual machine gave to others meanwhile; no process inside sees it.

    Returns:
        `busy`: the sentence that marks the figures, empty where they stand; `preempted`: share of turns by candidate; `waited`: the median of `waited_share`
        by candidate; `turns`, `repeated`: numbers; `stolen`; `load_average`.
    """
    shares = {name: float(np.mean([preempted(turn) for turn in each])) if each else 0.0 for name, each in turns.items()}
    waited = {name: _median([waited_share(turn) for turn in each]) for name, each in turns.items()}
    return {
        "busy": _sentence(turns, any(share > ALLOWED for share in shares.values()), stolen or 0.0),
        "preempted": shares,
        "waited": waited,
        "turns": sum(len(each) for each in turns.values()),
        "repeated": repeated,
        "stolen": stolen,
        "load_average": [round(value, 2) for value in os.getloadavg()] if sys.platform != "win32" else [],
    }


def _median(shares: Sequence[float | None]) -> float | None:
    known = [share for share in shares if share is not None]
    return float(np.median(known)) if known else None


def _sentence(turns: Mapping[str, Sequence[Turn]], often: bool, stolen: float) -> str:
    every = [turn for some in turns.values() for turn in some]
    reasons = []
    if often:
        throttled = sum(turn.throttled_ns or 0 for turn in every) > sum(turn.wait_ns or 0 for turn in every)
        who = "the control group's limit of processor time stopped it" if throttled else "other work had the processor"
        reasons.append(f"in {sum(preempted(turn) for turn in every)} of {len(every)} turns {who}")
    if stolen > WAITED:
        reasons.append(f"the host of this virtual machine took {100 * stolen:.0f} % of the processor time")
    return f"machine busy: {'; '.join(reasons)}; these times are not those of a quiet machine" if reasons else ""
