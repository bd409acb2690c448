"""Sensitivity: what the model's output loses when a share of one group's components, those of least magnitude, is removed alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from laconic.core.errors import BadInput
from laconic.core.program import Program
from laconic.core.progress import Progress, silent
from laconic.core.signal import sqnr_db
from laconic.pruning.coupling import Coupling, Group, couple
from laconic.pruning.surgery import remove
from laconic.pruning.trace import Policy

# Sums in another order leave noise of some roundings of single precision, 6e-8 each (-144 dB): beyond this the output counts as unchanged.
_SAME_DB = 120.0


def sensitivity(
    program: Program,
    inputs: Sequence[Tensor],
    share: float = 0.5,
    policy: Policy | None = None,
    progress: Progress = silent,
) -> list[dict[str, Any]]:
    """Measure what each group means to the outputs, in the order of the graph. It takes a copy and a run of the program for each.

    Args:
        program: not changed; it is run as in eval mode.
        inputs: flat, as `Program.inputs`, of some examples.
        share: of the components that are removed, one at least; one at least stays.
        policy: where a reshape allows two cuts.
        progress: advances with each group.

    Returns:
        For each group ``name``, ``components``, ``removed`` (how many of them) and ``sqnr_db``: the power of the unpruned outputs over that of their
        change, over all outputs of floats. None: they did not change (but for the order of sums), or nothing could be removed, as ``removed`` tells.

    Raises:
        BadInput: `share` is not between 0 and 1; see `couple`.
    """
    if not 0 < share < 1:
        raise BadInput(f"share: {share} must lie between 0 and 1: it is removed from each group in turn")
    coupling = couple(program, policy)
    exact = _outputs(coupling, inputs, coupling.everything())
    result = []
    progress.start("sensitivity", len(coupling.groups))
    for group in coupling.groups:
        least = _least(coupling, group, share)
        keep = coupling.everything()
        keep[least] = False
        ratio = sqnr_db(exact, _outputs(coupling, inputs, keep)) if len(least) else math.inf
        told = None if ratio > _SAME_DB else ratio
        result.append({"name": group.name, "components": len(group), "removed": len(least), "sqnr_db": told})
        progress.advance()
    progress.finish()
    return result


def magnitudes(coupling: Coupling, group: Group) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return for each component the sum of squares of the slices that produce it; of all its slices in parameters where none does (a table)."""
    parameters = {name for name, _ in coupling.parameters()}
    slots = [slot for slot in group.slots if slot.tensor in parameters]
    slots = [slot for slot in slots if slot.role == "out"] or slots
    result = np.zeros(len(group))
    for slot in slots:
        values = coupling.tensor(slot.tensor).detach().double().movedim(slot.dim, 0).flatten(1).square().sum(1).cpu().numpy()
        inside = slot.index >= 0
        result += np.bincount(slot.index[inside], values[inside], len(group))
    return result


def _least(coupling: Coupling, group: Group, share: float) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the components to remove."""
    count = min(max(1, round(share * len(group))), len(group) - 1)
    return group.components[np.argsort(magnitudes(coupling, group), kind="stable")[:count]]


@torch.no_grad()
def _outputs(coupling: Coupling, inputs: Sequence[Tensor], keep: Any) -> list[Tensor]:
    """Return the outputs of floats, of the program with what is kept."""
    result = remove(coupling, keep).graph_module(*inputs)
    return [value.double() for value in result if isinstance(value, Tensor) and value.is_floating_point()]
