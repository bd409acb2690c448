"""When a comparison may stop before its last round, because what it is made for is already clear.

A sequential test with a corrected level: after each round from the fourth on, Student's interval of the mean log ratio of the rounds is looked at, each side at
the level `ERROR` / (looks · sides) (Bonferroni over all looks that may come and all marks that may be crossed). So the chance that any look, at any time,
crosses a mark that the truth has not crossed is at most `ERROR` / 2 for each side, however often one looks; looking so often at plain 95 % intervals is wrong
in 8 % of cases on one side and in 18 % on either (`tests/measure/test_sequential.py`). Student's interval with four values and such a level is wide: what
is within a tenth of a mark is timed to the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean, median, stdev

from laconic.measure.stats import ratio_of_rounds

ERROR = 0.05
FIRST_LOOK = 4
# Two starts of one program differ by a percent or two, which no round of one start can tell: what is nearer to a mark than this is not clear.
MARGIN = 0.02


@dataclass(frozen=True)
class Marks:
    """What a candidate's times are held against.

    Args:
        least_ratio: how many times faster than the baseline it must be; None where nothing is asked.
        most_ms: milliseconds that it may take; None where nothing is asked.
        best_ratio: the lower end of the interval of the best so far, where speed decides which is best; None where there is no best or it does not decide.
    """

    least_ratio: float | None = None
    most_ms: float | None = None
    best_ratio: float | None = None


def settled(
    base: Sequence[Sequence[float]], own: Sequence[Sequence[float]], marks: Marks, planned: int, *, margin: float = MARGIN
) -> str | None:
    """Return why no further round is needed; None where one is.

    It is clear that the candidate will be rejected; or that it holds what is asked of its time and is slower than the best so far.

    Args:
        base: nanoseconds of the baseline's runs, per round so far.
        own: of the candidate's, of the same rounds.
        marks: what it is held against.
        planned: rounds of the whole comparison.
        margin: relative distance from a mark within which nothing is clear.
    """
    n = len(own)
    if n < FIRST_LOOK or n >= planned:
        return None
    level = ERROR / ((planned - FIRST_LOOK) * (2 if marks.most_ms is None else 4))
    slack = math.log1p(margin)
    low, high = _interval([math.log(median(b) / median(o)) for b, o in zip(base, own, strict=True)], level)
    least, best = (None if mark is None else math.log(mark) for mark in (marks.least_ratio, marks.best_ratio))
    if least is not None and high < least - slack:
        return "clearly not faster than the baseline" if least == 0 else f"clearly not {marks.least_ratio:g}× as fast as the baseline"
    in_time = True
    if marks.most_ms is not None:
        limit = math.log(marks.most_ms * 1e6)
        fastest, slowest = _interval([math.log(median(o)) for o in own], level)
        if fastest > limit + slack:
            return f"clearly slower than {marks.most_ms:g} ms"
        in_time = slowest < limit - slack
    holds = in_time and (least is None or (low > least + slack and _plainly(base, own) >= least))
    return "clearly behind the best so far" if best is not None and high < best - slack and holds else None


def _interval(values: Sequence[float], level: float) -> tuple[float, float]:
    """Return Student's interval of the mean that misses it on either side with probability `level`."""
    mean, half = fmean(values), _student(level, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return mean - half, mean + half


@lru_cache
def _student(level: float, freedom: int) -> float:
    from scipy.stats import t

    return float(t.ppf(1 - level, freedom))


def _plainly(base: Sequence[Sequence[float]], own: Sequence[Sequence[float]]) -> float:
    """Return the logarithm of the lower end that the gate will read from these rounds."""
    low = ratio_of_rounds(base, own).low
    return -math.inf if low is None else math.log(low)
