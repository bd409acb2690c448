"""What came of a comparison: a row for each variant, ranked on valid data, and a sentence that says what won.

Valid data ranks and decides; test data is looked at once, for the figures that are reported beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from laconic.core.plan import FitPlan
from laconic.core.records import Measurement
from laconic.core.wording import decimals, signed
from laconic.measure.stats import holm, over_seeds, paired_gain, paired_p
from laconic.studies.variants import Variant
from laconic.tasks.metrics import MetricSpec
from laconic.train.optim import planned

_LEVEL = 0.05  # of the corrected p-value
_BASE = "the others are compared with it"


@dataclass(frozen=True)
class Measured:
    """What the figures of a comparison are, and on how many examples; without test data `test` is None."""

    metric: MetricSpec
    train: int
    valid: int
    test: int | None

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the largest value of the metric; infinite where it has no end."""
        least, most = self.metric.bounds
        return -math.inf if least is None else least, math.inf if most is None else most

    @property
    def sign(self) -> float:
        """-1 where less is better."""
        return -1.0 if self.metric.direction == "min" else 1.0

    def resolution(self, examples: int) -> float | None:
        """Return the smallest step of the metric over so many examples, where it is a share of them."""
        return 100 / examples if self.metric.unit == "%" else None


def compared(
    variants: Sequence[Variant], runs: Mapping[str, list[dict[str, Any]]], plan: FitPlan, measured: Measured
) -> list[dict[str, Any]]:
    """Return a row for each variant; the first is what the others are compared with, seed by seed.

    Args:
        variants: in the order of the rows.
        runs: of each variant, one for each seed: ``valid``, ``final`` and ``curve``, or ``stopped``.
        plan: that they change.
        measured: what the figures are.
    """
    base = runs[variants[0].name]
    rows = [_row(variant, runs[variant.name], base, plan, measured) for variant in variants]
    for row, p in zip(rows[1:], holm([row["p"] for row in rows[1:]]), strict=True):
        row["p"] = p
    return [{**row, "rank": _rank(row, rows, measured)} for row in rows]


def _row(variant: Variant, runs: list[dict[str, Any]], base: list[dict[str, Any]], plan: FitPlan, measured: Measured) -> dict[str, Any]:
    stopped = [run["stopped"] for run in runs if "stopped" in run]
    pairs = [(run, first) for run, first in zip(runs, base, strict=True) if "final" in run and "final" in first]
    whole = pairs if not stopped else []
    missing = stopped[0] if stopped else "the first variant did not train"
    own = replace(plan, **variant.plan)
    steps = own.epochs * math.ceil(math.ceil(measured.train / own.batch_size) / own.accumulate)
    first = runs is base
    tested = measured.valid if measured.test is None else measured.test
    return {
        "name": variant.name,
        "lr": planned(own, steps)(0.0),
        "peak_lr": own.lr,
        "valid": _figure([run["valid"] for run in runs if "valid" in run], measured, measured.valid, missing if stopped else None),
        "valid_gain": _gain("valid", whole, measured, measured.valid, missing, first),
        "p": _p(whole, measured) if not first else math.nan,
        "final": _figure([run["final"] for run in runs if "final" in run], measured, tested, missing if stopped else None),
        "gain": _gain("final", whole, measured, tested, missing, first),
        "epochs_to_first": _epochs(pairs, measured.sign),
        "curves": [run.get("curve", []) for run in runs],
        "losses": [run.get("loss", []) for run in runs],
        "stopped": stopped,
    }


def _figure(values: Sequence[float], measured: Measured, examples: int, missing: str | None) -> Measurement:
    unit = measured.metric.unit
    if missing is not None:
        return Measurement.missing(unit, missing)
    return over_seeds(values, unit, measured.bounds, measured.resolution(examples))


def _gain(key: str, pairs: Sequence[tuple[Any, Any]], measured: Measured, examples: int, missing: str, first: bool) -> Measurement:
    """Return by how much a variant is better than the first, paired by seed; of the first itself 0."""
    unit = measured.metric.difference_unit
    if not pairs:
        return Measurement.missing(unit, missing)
    if first:
        return Measurement(0.0, unit, n=len(pairs), note=_BASE)
    values, base = [run[key] for run, _ in pairs], [other[key] for _, other in pairs]
    direction, resolution = measured.metric.direction, measured.resolution(examples)
    return paired_gain(values, base, direction=direction, unit=unit, bounds=measured.bounds, resolution=resolution)


def _p(pairs: Sequence[tuple[Any, Any]], measured: Measured) -> float:
    if not pairs:
        return math.nan
    return paired_p([run["valid"] for run, _ in pairs], [base["valid"] for _, base in pairs], measured.resolution(measured.valid))


def _epochs(pairs: Sequence[tuple[Any, Any]], sign: float) -> Measurement:
    """Return the epochs until a variant is as good on valid data as the first one at its end."""
    reached = [_reached(run["curve"], first["curve"][-1], sign) for run, first in pairs]
    if not reached or any(epoch is None for epoch in reached):
        return Measurement.missing("epochs", "not reached")
    most = max(len(run["curve"]) for run, _ in pairs)
    return over_seeds([float(epoch) for epoch in reached if epoch is not None], "epochs", (1.0, float(most)), 1.0)


def _reached(curve: list[float], target: float, sign: float) -> int | None:
    """Return the first epoch, from 1, whose metric is as good as the first variant's last."""
    return next((index + 1 for index, value in enumerate(curve) if sign * value >= sign * target), None)


def _rank(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], measured: Measured) -> int | None:
    """Return the place on valid data, from 1; equal figures share it."""
    sign = measured.sign
    values = [sign * other["valid"].value for other in rows if other["valid"].value is not None]
    own = row["valid"].value
    return None if own is None else 1 + sum(value > sign * own for value in values)


def verdict(rows: Sequence[Mapping[str, Any]], seeds: int, tested: bool) -> dict[str, Any]:
    """Return the winner's name, or None, and the sentence that says it.

    A variant wins that is better than the first one on valid data, by more than its seeds explain after Holm's correction for the number of variants; of
    several the one that gains most.

    Args:
        rows: of `compared`.
        seeds: runs of each variant.
        tested: whether there are test data.
    """
    base, others = rows[0], [row for row in rows[1:] if row["valid_gain"].value is not None]
    if not others:
        return {"winner": None, "text": "Nothing was compared: no second variant trained."}
    best = max(others, key=lambda row: row["valid_gain"].value)
    if seeds < 2:
        return {"winner": None, "text": f"One seed cannot tell what is better than {base['name']}: ask for more (--seeds)."}
    known = [row for row in others if not math.isnan(row["p"])]
    many = f"Holm's correction for {len(known)} comparison{'s' * (len(known) > 1)}"
    won = [row for row in known if row["p"] < _LEVEL and row["valid_gain"].value > 0]
    if not won:
        text = (
            f"Nothing won: on valid data no variant is better than {base['name']} by more than {seeds} seeds explain; {best['name']} comes nearest with "
            f"{_said(best['valid_gain'])}, p = {best['p']:.2g} after {many}."
        )
        return {"winner": None, "text": text}
    first = max(won, key=lambda row: row["valid_gain"].value)
    test = "" if not tested else f" On test data, which chose nothing, it gains {_said(first['gain'])}."
    text = f"{first['name']} won: {_said(first['valid_gain'])} over {base['name']} on valid data, p = {first['p']:.2g} after {many}.{test}"
    return {"winner": first["name"], "text": text}


def _said(gain: Measurement) -> str:
    """Write a gain with its interval and unit."""
    numbers = [number or 0.0 for number in (gain.value, gain.low, gain.high)]
    places = 2 if gain.unit == "points" else decimals(max(map(abs, numbers)), 3)
    value, low, high = (signed(number, places) for number in numbers)
    return f"{value} [{low}, {high}] {gain.unit}".rstrip()
