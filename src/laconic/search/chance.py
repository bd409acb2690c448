"""The margin for choosing among many: how likely a candidate that held the limit of the drop on the valid data holds it on other examples too.

Who is chosen as the fastest of many that held a limit held it by luck more often than a single one does, and then breaks it on the test data, after which
nothing is delivered. So of those that held it, only they may be chosen that are nearly as likely as the likeliest to hold it again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import NormalDist

from laconic.core.records import Measurement
from laconic.run.record import Record
from laconic.search.budget import Budget

SHARE = 0.9  # of the likeliest one's chance, which a candidate must have; see `benchmarks.margin`
_Z = 1.959964  # deviations of the mean from it to the end of a 95 % interval


def chance(drop: Measurement | None, limit: float, confident: bool = False) -> float | None:
    """Return the chance that a limit holds on other examples, r for each of these: Φ((limit − drop) / (s √(1 + 1/r))).

    The interval's upper end is 1.96 s above the drop. What was measured varies by s, and what will be measured by s √(1/r).

    Args:
        drop: as measured, with r as `others`; as many where that is not known.
        limit: what may be lost.
        confident: whether the upper end of the interval must hold it too, on the others.

    Returns:
        None where no interval is known.
    """
    deviation = _deviation(drop)
    if drop is None or drop.value is None or deviation is None:
        return None
    end = drop.value + (_Z * deviation / math.sqrt(_others(drop)) if confident else 0.0)
    return NormalDist().cdf((limit - end) / (_spread(drop) * deviation))


def wanted(drops: Iterable[Measurement | None], limit: float, confident: bool = False, share: float = SHARE) -> float:
    """Return the chance that each of several candidates must have: a share of the best one's."""
    return share * max((one for drop in drops if (one := chance(drop, limit, confident)) is not None), default=0.0)


def likely(drops: Sequence[Measurement | None], limit: float, confident: bool = False, share: float = SHARE) -> list[bool]:
    """Return of each of several candidates whether its chance is as wanted; where none is known, that is not held against it."""
    least = wanted(drops, limit, confident, share)
    return [(one := chance(drop, limit, confident)) is None or one >= least for drop in drops]


def by_luck(drop: Measurement, limit: float, least: float, confident: bool = False) -> float | None:
    """Return the chance that one whose true drop is twice the limit is measured within it, and has the chance that is wanted.

    With `confident`, that of one whose true drop is just more than the limit.

    Args:
        drop: of whose interval the widths are taken.
        limit: what may be lost.
        least: the chance that is wanted; 0 where none is.
        confident: whether the upper end of the interval must hold the limit.

    Returns:
        None where no interval is known.
    """
    deviation = _deviation(drop)
    if deviation is None:
        return None
    margin = max(0.0, _spread(drop) * NormalDist().inv_cdf(least)) if 0 < least < 1 else 0.0
    far = max(_Z, _Z / math.sqrt(_others(drop)) + margin) if confident else limit / deviation + margin
    return NormalDist().cdf(-far)


def _spread(drop: Measurement) -> float:
    """Return the standard deviation of what is measured on the other examples less what was measured, in deviations of the latter."""
    return math.sqrt(1 + 1 / _others(drop))


def _others(drop: Measurement) -> float:
    """Return how many other examples there are for each of these; as many where that is not known."""
    return drop.others or 1.0


def _deviation(drop: Measurement | None) -> float | None:
    """Return the standard deviation of a drop upwards; None where no interval is known."""
    if drop is None or drop.value is None or drop.high is None or drop.high <= drop.value:
        return None
    return (drop.high - drop.value) / _Z


def dependable(records: Sequence[Record], budget: Budget) -> list[Record]:
    """Return those of the records that may be chosen: all where the drop has no limit."""
    if budget.drop_limit is None:
        return list(records)
    chosen = likely([record.drop for record in records], budget.drop_limit, budget.confident)
    return [record for record, yes in zip(records, chosen, strict=True) if yes]
