"""What an artifact must pass to be a candidate. Each rule is a function of its record: a `Reason` why not, or None."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from laconic.core.quantities import Quantity
from laconic.core.records import Measurement
from laconic.run.record import Reason, Record

Condition = Callable[[Record], Reason | None]
BETTER = "better"  # the rule that no worse artifact ships


@dataclass(frozen=True)
class Tolerance:
    """How far the outputs of a file may be from its program's, each output and each channel by itself.

    Args:
        max_rel: largest difference, relative to the output's largest value; None: not asked.
        sqnr_db: least power of an output over that of its differences; None: not asked.
        channel_db: the same of a channel, in which a small channel cannot hide behind large ones.
        equal: least share of equal numbers, of outputs that are whole numbers or booleans.
        resolution: see `deploy.parity.ParityMeter.result`.
        grid: likewise.
    """

    max_rel: float | None
    sqnr_db: float | None
    channel_db: float
    equal: float
    resolution: float = 1e-6
    grid: bool = False


# After a step that rounds, values lie on coarse grids: another order of a sum moves some to the next step, and later layers spread that over all outputs.
# There the largest difference says little; the power of all differences does. A lost zero point leaves less than 5 dB, the next step 20 to 50 dB.
ROUNDED = "rounded"
# By precision of the arithmetic. fp32 runtimes sum in other orders (1e-6 per operator, growing with depth); bf16 keeps 8 bits of mantissa (4e-3 per
# operator). A zeroed channel leaves 0 dB; channels of a softmax carry e to the power of the logits' noise, so those of rounded programs may be noisy. What
# these let through, the metric still judges.
TOLERANCES: dict[str, Tolerance] = {
    "fp32": Tolerance(max_rel=1e-3, sqnr_db=None, channel_db=20.0, equal=0.99),
    "bf16": Tolerance(max_rel=1e-1, sqnr_db=None, channel_db=6.0, equal=0.9, resolution=1e-4),
    "fp16-weights": Tolerance(max_rel=2e-2, sqnr_db=None, channel_db=12.0, equal=0.95, resolution=1e-5),
    ROUNDED: Tolerance(max_rel=None, sqnr_db=12.0, channel_db=3.0, equal=0.75, grid=True),
}


def tolerance(precision: str, rounded: bool = False) -> Tolerance:
    """Return what is asked of an artifact in this precision; `rounded`: whether its program rounds to the grids of integers."""
    return TOLERANCES[ROUNDED if rounded else precision]


def parity(figures: Mapping[str, Any], precision: str, rounded: bool = False) -> tuple[dict[str, Any], Reason | None]:
    """Judge the outputs of an artifact against those of the program it came from; the worst output decides.

    Args:
        figures: what `deploy.parity.ParityMeter.result` tells; of one output, its figures alone will do.
        precision: of the artifact's arithmetic.
        rounded: whether the program rounds to the grids of integers.

    Returns:
        The figures, with the tolerance and the name of the worst output, and why it is not enough.
    """
    asked = tolerance(precision, rounded)
    evidence = {
        **figures,
        **({"tolerance": asked.max_rel} if asked.max_rel is not None else {"tolerance_sqnr_db": asked.sqnr_db}),
        "tolerance_channel_db": asked.channel_db,
    }
    outputs = figures.get("outputs") or [figures]
    worst = max(outputs, key=lambda output: _rank(output, asked))
    what = "rounded program's" if rounded else "program's"
    told = [text for rule in _PARITY_RULES if (text := rule(worst, asked)) is not None]
    evidence["worst"] = worst.get("name")
    if not told:
        return evidence, None
    return evidence, Reason("parity", f"{_of(worst)} differ{'s' if 'name' in worst else ''} from the {what}: {told[0]}")


def _of(output: Mapping[str, Any]) -> str:
    return f"its output '{output['name']}'" if "name" in output else "its outputs"


def _rank(output: Mapping[str, Any], asked: Tolerance) -> tuple[bool, float]:
    """Return what orders outputs from good to bad: whether a rule is broken, and then how near the output is to its limit."""
    broken = any(rule(output, asked) is not None for rule in _PARITY_RULES)
    if "equal" in output:
        return broken, (1 - output["equal"]) / (1 - asked.equal) - 1
    if asked.max_rel is not None:
        return broken, output["max_rel"] / asked.max_rel - 1
    return broken, (asked.sqnr_db or 0.0) - output["sqnr_db"]


def _agrees(output: Mapping[str, Any], asked: Tolerance) -> str | None:
    if "equal" not in output:
        return None
    if output.get("lost_values"):
        values = ", ".join(map(str, output["lost_values"]))
        return f"at no place where the program has {values} does the file have it too"
    if output["equal"] >= asked.equal:
        return None
    return f"{100 * output['equal']:.3g} % of its whole numbers are equal; at least {100 * asked.equal:g} % is asked for"


def _near(output: Mapping[str, Any], asked: Tolerance) -> str | None:
    if "equal" in output or asked.max_rel is None or output["max_rel"] <= asked.max_rel:
        return None
    return f"by {output['max_rel']:.2g} of the largest value; {asked.max_rel:g} is allowed"


def _clear(output: Mapping[str, Any], asked: Tolerance) -> str | None:
    if "equal" in output or asked.sqnr_db is None or output["sqnr_db"] >= asked.sqnr_db:
        return None
    return f"signal to noise is {output['sqnr_db']:.3g} dB; at least {asked.sqnr_db:g} dB is asked for"


def _varies(output: Mapping[str, Any], asked: Tolerance) -> str | None:
    return "it is constant in the file and varies in the program" if output.get("constant") else None


def _channels(output: Mapping[str, Any], asked: Tolerance) -> str | None:
    if output.get("dead_channels"):
        which = ", ".join(map(str, output["dead_channels"]))
        return f"channel {which} of dimension {output['channel_axis']} is constant in the file and varies in the program"
    decibels = output.get("worst_channel_db")
    if decibels is None or decibels >= asked.channel_db:
        return None
    place = f"channel {output['worst_channel']} of dimension {output['channel_axis']}"
    return f"signal to noise of {place} is {decibels:.3g} dB; at least {asked.channel_db:g} dB is asked for"


_PARITY_RULES: tuple[Callable[[Mapping[str, Any], Tolerance], str | None], ...] = (_agrees, _near, _clear, _varies, _channels)


def better(goal: Quantity, baseline: Record) -> Condition:
    """Return the rule that a record is better than its baseline in what is to be best; where there is an interval, the whole of it must say so."""

    def rule(record: Record) -> Reason | None:
        mine, theirs = record.compared(goal), baseline.compared(goal)
        if goal.reference is not None:
            return _better_ratio(goal, mine, goal.reference)
        if mine is None or mine.value is None or theirs is None or theirs.value is None:
            return _unknown(goal, mine)
        worst, best = (
            value if end is None else end for value, end in ((mine.value, goal.bad_end(mine)), (theirs.value, goal.good_end(theirs)))
        )
        if goal.cost(worst) < goal.cost(best):
            return None
        told = f"{goal.described(mine)} against {goal.described(theirs)}"
        return Reason(BETTER, f"its {goal.noun} is not {goal.better} than the baseline's: {told}")

    return rule


def _better_ratio(goal: Quantity, mine: Measurement | None, reference: float) -> Reason | None:
    """Return the same of a quantity that is a comparison with the baseline already."""
    end = None if mine is None else goal.bad_end(mine)
    if mine is None or end is None:
        return _unknown(goal, mine)
    if goal.cost(end) < goal.cost(reference):
        return None
    return Reason(BETTER, f"it is not {goal.better} than the baseline: {goal.described(mine)}")


def _unknown(goal: Quantity, mine: Measurement | None) -> Reason:
    note = f": {mine.note}" if mine is not None and mine.note else ""
    return Reason(BETTER, f"its {goal.noun} could not be measured{note}")


def gate(record: Record, rules: Iterable[Condition]) -> Record:
    """Return the record, rejected with every rule that it does not meet."""
    if record.status != "passed":
        return record
    return record.rejected(*[reason for rule in rules if (reason := rule(record)) is not None])
