"""What an artifact must pass to be a candidate. Each rule is a function of its record: a `Reason` why not, or None."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from laconic.run.record import Reason, Record

Rule = Callable[[Record], Reason | None]

# Largest difference of any output, relative to the largest output of the program, by precision of the arithmetic. fp32 runtimes sum in other orders
# (1e-6 per operator, growing with depth); bf16 keeps 8 bits of mantissa (4e-3 per operator). What these let through, the metric still judges.
PARITY_TOLERANCE: dict[str, float] = {"fp32": 1e-3, "bf16": 1e-1}
# Steps after which values lie on coarse grids: another order of a sum moves some to the next step, and later layers spread that over all outputs. There
# the largest difference says little; the power of all differences does. A lost zero point leaves less than 5 dB, the next step 20 to 50 dB.
ROUNDING = ("quantize", "quantize_mixed", "qat")
PARITY_SQNR_DB = 12.0


def parity(found: Mapping[str, float], precision: str, rounded: bool = False) -> tuple[dict[str, Any], Reason | None]:
    """Judge the outputs of an artifact against those of the program it came from.

    Args:
        found: `max_abs`, `max_rel`, `sqnr_db` and `n` as `deploy.export.parity` gives them.
        precision: of the artifact's arithmetic.
        rounded: whether the program rounds to the grids of integers.
    """
    if rounded:
        evidence = {**found, "tolerance_sqnr_db": PARITY_SQNR_DB}
        if found["sqnr_db"] >= PARITY_SQNR_DB:
            return evidence, None
        return evidence, Reason(
            "parity",
            f"its outputs differ from the rounded program's: signal to noise is {found['sqnr_db']:.3g} dB; at least {PARITY_SQNR_DB:g} dB is asked for",
        )
    tolerance = PARITY_TOLERANCE[precision]
    evidence = {**found, "tolerance": tolerance}
    if found["max_rel"] <= tolerance:
        return evidence, None
    text = f"its outputs differ from the program's by {found['max_rel']:.2g} of the largest output; {precision} allows {tolerance:g}"
    return evidence, Reason("parity", text)


def better(objective: str, baseline: Record) -> Rule:
    """The rule that the objective is better than the baseline's; for latency the whole 95 % interval must say so."""

    def latency(record: Record) -> Reason | None:
        ratio = record.speedup
        if ratio is None or ratio.value is None or ratio.low is None:
            return Reason("better", "its latency could not be measured")
        if ratio.low > 1.0:
            return None
        return Reason(
            "better", f"it is not faster than the baseline: {ratio.value:.2f}× (95 % interval {ratio.low:.2f} to {ratio.high:.2f})"
        )

    def size(record: Record) -> Reason | None:
        return _smaller("file", record.size_bytes, baseline.size_bytes)

    def memory(record: Record) -> Reason | None:
        return _smaller("peak memory", record.peak_memory_bytes, baseline.peak_memory_bytes)

    return {"latency": latency, "size": size, "memory": memory}[objective]


def _smaller(what: str, found: int | None, baseline: int | None) -> Reason | None:
    if found is None or baseline is None:
        return Reason("better", f"its {what} could not be measured")
    if found < baseline:
        return None
    return Reason("better", f"its {what} is not smaller than the baseline's: {found / 1e6:.3g} MB against {baseline / 1e6:.3g} MB")


def gate(record: Record, rules: Iterable[Rule]) -> Record:
    """The record, rejected with every rule that it does not meet."""
    if record.status != "passed":
        return record
    return record.rejected(*[reason for rule in rules if (reason := rule(record)) is not None])
