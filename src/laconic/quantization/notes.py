"""What a quantization tells: what stayed float and why, what was folded first, that nothing was rounded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from laconic.core.errors import BadInput
from laconic.core.fake_quant import Quantizer
from laconic.core.program import Program
from laconic.core.records import Skipped
from laconic.quantization.options import Quantize
from laconic.quantization.placement import WeightSite


def below(ratios: Mapping[str, float], config: Quantize) -> dict[str, float]:
    """Return the operators that are to stay float because rounding leaves too little of their signal."""
    return {} if config.min_sqnr_db is None else {name: ratio for name, ratio in ratios.items() if ratio < config.min_sqnr_db}


def reasons(skipped: Iterable[Skipped], dead: Mapping[str, float], config: Quantize) -> tuple[Skipped, ...]:
    """Return what stays float, with the true reason for those that rounding would have drowned."""
    text = "in few bits its output keeps {:.1f} dB of signal over noise, less than min_sqnr_db={:g}: its inputs or weights differ too widely for one scale"
    told = {name: Skipped(name, text.format(ratio, config.min_sqnr_db)) for name, ratio in dead.items()}
    return (*(item for item in skipped if item.name not in told), *told.values())


def finite_ratios(ratios: Mapping[str, float]) -> dict[str, float | None]:
    """Round ratios to a tenth of a dB; None where rounding changed nothing."""
    return {name: round(ratio, 1) if math.isfinite(ratio) else None for name, ratio in ratios.items()}


def constant_notes(names: Sequence[str], trains: bool = False) -> tuple[str, ...]:
    """Return what was folded before anything was rounded."""
    if not names:
        return ()
    told = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return (f"computed from parameters alone, and stored as tensors of their own{', which train as such' if trains else ''}: {told}",)


def nothing_rounded(program: Program, mode: str, target: str, skipped: Sequence[Skipped]) -> str:
    """Say that nothing was rounded, what there was, and why not."""
    kinds = sorted({str(node.target).removeprefix("aten.") for node in program.graph.nodes if node.op == "call_function"})
    why = "; ".join(f"{item.name}: {item.reason}" for item in skipped[:5] if item.reason) or "none of its operators has a rule"
    return (
        f"the quantization rounded nothing: mode '{mode}' for '{target}' found no operator that it could round among {', '.join(kinds[:12]) or 'none'}. "
        f"Left float: {why}. Leave the step out, or try another mode or target"
    )


def used_groups(sites: Sequence[WeightSite], quantizers: Sequence[Quantizer], config: Quantize) -> dict[str, Any]:
    """Return how many neighboring inputs share a scale in each weight; 0 stands for all of an output's.

    Raises:
        BadInput: a group was asked for and no weight can have it.
    """
    groups = {site.name: quantizer.group for site, quantizer in zip(sites, quantizers, strict=True)}
    if config.group and not any(groups.values()):
        raise BadInput(
            f"group: {config.group} divides the inputs of no weight of a linear layer here ({', '.join(list(groups)[:5])}); give a divisor of them, or 0"
        )
    return {"group": max(groups.values()), "groups": groups}


def group_notes(sites: Sequence[WeightSite], quantizers: Sequence[Quantizer], group: int) -> tuple[str, ...]:
    """Return the weights that a group did not fit."""
    without = [s.name for s, q in zip(sites, quantizers, strict=True) if group and not q.group and s.axis == 0 and not s.embedding]
    told = ", ".join(without[:5]) + (f" and {len(without) - 5} more" if len(without) > 5 else "")
    return (f"a group of {group} does not divide the inputs of {told}: each of their outputs has one scale",) if without else ()
