"""Surgery: remove components. Parameters and buffers are sliced at what survives, and the graph's shape constants are written anew.

The result is a program of its own; the one given is not changed, so nothing is half-pruned after a failure.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor

from laconic.core.errors import BadInput
from laconic.core.norms import is_check
from laconic.core.program import Program
from laconic.pruning.coupling import Coupling
from laconic.pruning.rules import rule_of
from laconic.pruning.surgeon import Keep as Keep
from laconic.pruning.surgeon import Surgeon as Surgeon


def remove(coupling: Coupling, keep: Keep) -> Program:
    """Return a program without the components that `keep` leaves out.

    Names of parameters stay. In training it behaves as any program; an optimizer's state is carried over by `carry_over`.

    Raises:
        BadInput: a component that must stay was to go, or nothing would be left of a dimension; a choice for another coupling.
    """
    if keep.shape != coupling.cause.shape:
        raise BadInput(f"the choice says of {len(keep)} components whether they stay; there are {len(coupling.cause)}")
    gone = np.flatnonzero(~keep & coupling.frozen)
    if len(gone):
        raise BadInput(f"a component that must stay was to be removed: {coupling.causes[coupling.cause[gone[0]]]}")
    program = copy.deepcopy(coupling.program).eval()
    surgeon = Surgeon(program, coupling, keep)
    surgeon.cut_tensors()
    for old, new in zip((n for n in coupling.program.graph.nodes if not is_check(n)), program.graph.nodes, strict=True):
        if old.op == "call_function" and old in coupling.values:
            row = rule_of(old.target)
            if row is not None and row.edit is not None:
                row.edit(surgeon, old, new)
            surgeon.reshape_metadata(old, new)
    program.recompile()
    return program


def carry_over(optimizer: torch.optim.Optimizer, coupling: Coupling, keep: Keep, program: Program) -> None:
    """Let an optimizer of the program before go on with the pruned one: parameters are exchanged, their state is sliced alike.

    Args:
        optimizer: holds parameters of `coupling.program`.
        keep: as given to `remove`.
        program: what `remove` returned.
    """
    surgeon = Surgeon(program, coupling, keep)
    fresh = dict(program.graph_module.named_parameters(remove_duplicate=False))
    after = {id(value): fresh[name] for name, value in coupling.program.graph_module.named_parameters(remove_duplicate=False)}
    for group in optimizer.param_groups:
        for i, old in enumerate(group["params"]):
            new = after.get(id(old))
            if new is None:
                continue
            group["params"][i] = new
            state = optimizer.state.pop(old, {})
            name = coupling.names.get(id(old))
            optimizer.state[new] = {
                key: surgeon.sliced(name, value) if name and isinstance(value, Tensor) and value.shape == old.shape else value
                for key, value in state.items()
            }
