"""Proof that the compact program computes what the masked one does: slices are set to zero, removed, and the outputs compared.

A difference of zero proves something only where the cut could have made one. So the comparison is repeated with parameters that are not degenerate (see
`perturb`), at other batch sizes and lengths than the example's, and it is measured how much each group's cut moves the output.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from laconic.core.errors import LaconicError
from laconic.core.program import Program
from laconic.pruning.coupling import Coupling
from laconic.pruning.inputs import Resized, other_sizes
from laconic.pruning.masked import Masked
from laconic.pruning.perturb import perturbed
from laconic.pruning.surgery import Keep, Surgeon, remove

PASSES = 1e-4  # relative difference that summing in another order explains
_TELLS = 10  # a cut that moves the output by less than so many differences cannot be told from none
_LEAST = 1e-6  # nor one within some roundings of single precision

Outputs = Sequence[Tensor]


@dataclass(frozen=True)
class Proof:
    """What was compared, and what it was worth.

    Attributes:
        difference: the largest of any output between the pruned and the masked program, relative to the largest number of that output.
        moved: by group, how much its cut changes the output of the unpruned program with perturbed parameters, relative in the same way.
        sizes: other sizes than the example's at which both were compared, e.g. ``batch 3, length 17``.
        real: how many batches of the task's data were compared.
        idle: groups whose cut moves the output so little that the comparison says nothing of them.
    """

    difference: float
    moved: Mapping[str, float]
    sizes: tuple[str, ...] = ()
    real: int = 0
    idle: tuple[str, ...] = ()


def random_choice(coupling: Coupling, share: float, seed: int = 0) -> Keep:
    """Return a choice that keeps about this share of the components of each group, one at least."""
    generator = np.random.default_rng(seed)
    keep = coupling.everything()
    for group in coupling.groups:
        keep[group.components] = generator.random(len(group)) < share
        if not keep[group.components].any():
            keep[group.components[0]] = True
    return keep


def prove(coupling: Coupling, keep: Keep, pruned: Program, real: Sequence[tuple[Tensor, ...]] = (), seed: int = 0) -> Proof:
    """Compare a pruned program with the masked one, as it is and with perturbed parameters, and a random choice as well.

    Args:
        pruned: what `remove` made of `keep`.
        real: batches of the task's data, flat.
        seed: of the perturbation and of the random choice.

    Raises:
        LaconicError: the outputs differ, are not finite or not comparable, or no cut that was compared could have moved them.
        BadInput: the program declares dynamic sizes and runs at those of the example only.
    """
    with _evaluated(coupling.program):
        example = coupling.program.example_inputs()
        others = other_sizes(coupling.program)
        tensors = _usable(coupling, example, others, seed)
        worst = [_compared(coupling, keep, pruned, inputs, told) for told, inputs in _as_it_is(example, real)]
        chance = random_choice(coupling, 0.5, seed)
        for choice, program in ((keep, pruned), (chance, remove(coupling, chance))):
            twin = _with(program, coupling, choice, tensors)
            for told, inputs in [("the example", example), *((str(other), other.inputs) for other in others)]:
                worst.append(_compared(coupling, choice, twin, inputs, f"{told}, with perturbed parameters", tensors))
        moved = movements(coupling, keep, example, tensors)
        by_chance = moves(coupling, chance, example, tensors)
    largest = max(worst)
    if largest > PASSES:
        raise LaconicError(
            f"the pruned program does not compute what the masked one does (relative difference {largest:.1e}). This is a defect of Laconic: "
            "please report the model. Freeze the modules in question meanwhile (freeze)."
        )
    idle = tuple(name for name, value in moved.items() if value <= max(_TELLS * largest, _LEAST))
    if len(idle) == len(moved) and by_chance <= max(_TELLS * largest, _LEAST):
        raise LaconicError(
            f"the proof of equivalence proves nothing: whatever is removed, the output moves by {by_chance:.1e} of it at most. "
            "Prune a model whose output depends on its channels."
        )
    return Proof(largest, moved, tuple(map(str, others)), len(real), idle)


def _as_it_is(example: tuple[Tensor, ...], real: Sequence[tuple[Tensor, ...]]) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
    yield "the example", example
    for number, inputs in enumerate(real, 1):
        yield f"batch {number} of the task's data", inputs


def equivalence(
    coupling: Coupling,
    keep: Keep,
    inputs: tuple[Tensor, ...] | None = None,
    pruned: Program | None = None,
    tensors: Mapping[str, Tensor] | None = None,
) -> float:
    """Return the largest difference of outputs between the pruned and the masked program, relative to the largest output.

    Args:
        inputs: flat, as `Program.inputs`; by default the example.
        pruned: what `remove` made, if it was made before.
        tensors: by canonical name, values that stand for the tensors of both.

    Raises:
        LaconicError: an output of either is not finite, their shapes differ, or there is nothing to compare.
    """
    pruned = remove(coupling, keep) if pruned is None else pruned
    if tensors:
        pruned = _with(pruned, coupling, keep, tensors)
    inputs = coupling.program.example_inputs() if inputs is None else inputs
    with _evaluated(coupling.program):
        return _compared(coupling, keep, pruned, inputs, "the inputs given" if inputs else "no inputs", tensors)


@torch.no_grad()
def moves(coupling: Coupling, keep: Keep, inputs: tuple[Tensor, ...], tensors: Mapping[str, Tensor] | None = None) -> float:
    """Return how much the output changes, relative to its largest number, when the removed components are masked.

    Args:
        tensors: as for `equivalence`.
    """
    with _evaluated(coupling.program):
        whole = Masked(coupling, coupling.everything(), tensors).run(*inputs)
        return difference(
            Masked(coupling, keep, tensors).run(*inputs), whole, ("the masked program", "the unpruned program"), "the example"
        )


def movements(coupling: Coupling, keep: Keep, inputs: tuple[Tensor, ...], tensors: Mapping[str, Tensor] | None = None) -> dict[str, float]:
    """Return what `moves` says of each group's removed components alone.

    Returns:
        By name of those groups that lose something; of groups of one name, the least.
    """
    result: dict[str, float] = {}
    for group in coupling.groups:
        gone = group.components[~keep[group.components]]
        if len(gone):
            alone = coupling.everything()
            alone[gone] = False
            value = moves(coupling, alone, inputs, tensors)
            result[group.name] = min(value, result.get(group.name, value))
    return result


def difference(outputs: Outputs, expected: Outputs, sides: tuple[str, str], told: str) -> float:
    """Return the largest difference of any output, relative to the largest number of the expected one.

    Outputs of whole numbers or truth values count, as the share of those that differ, where there are no others: a rounding may tip one of many.

    Args:
        sides: what the two are, for errors.
        told: on which inputs they were computed, for errors.

    Raises:
        LaconicError: something is not finite, shapes differ, or there is no number to compare.
    """
    pairs = list(zip(outputs, expected, strict=True))
    for number, (a, b) in enumerate(pairs):
        if a.shape != b.shape:
            raise LaconicError(
                f"the proof of equivalence failed on {told}: output {number} has the shape {tuple(a.shape)} in {sides[0]} "
                f"and {tuple(b.shape)} in {sides[1]}"
            )
        for side, value in zip(sides, (a, b), strict=True):
            if not bool(torch.isfinite(value).all()):
                raise LaconicError(
                    f"the proof of equivalence compares nothing: output {number} of {side} is not finite on {told}. "
                    "Look for an overflow, or for channels that are divided by what is zero when they are (freeze their layer, or add an epsilon)."
                )
    exact = [(a, b) for a, b in pairs if a.numel() and not (a.is_floating_point() or a.is_complex())]
    real = [(a, b) for a, b in pairs if a.numel() and (a.is_floating_point() or a.is_complex())]
    if not exact and not real:
        raise LaconicError(f"the proof of equivalence compares nothing: the model puts out no number on {told}")
    if not real:
        return max(float((a != b).double().mean()) for a, b in exact)
    return max(float((a - b).abs().max()) / (float(b.abs().max()) or 1.0) for a, b in real)


@torch.no_grad()
def _compared(
    coupling: Coupling, keep: Keep, pruned: Program, inputs: tuple[Tensor, ...], told: str, tensors: Mapping[str, Tensor] | None = None
) -> float:
    """Return the `difference` of the pruned and the masked program."""
    expected = Masked(coupling, keep, tensors).run(*inputs)
    try:
        result = pruned.graph_module(*inputs)
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        raise LaconicError(
            f"the pruned program does not run on {told}, where the unpruned one does: {type(error).__name__}: {text}. This is a defect of Laconic: "
            "please report the model. Freeze the modules in question meanwhile (freeze)."
        ) from error
    return difference(result, expected, ("the pruned program", "the masked program"), told)


def _with(pruned: Program, coupling: Coupling, keep: Keep, tensors: Mapping[str, Tensor]) -> Program:
    """Return a copy of the pruned program with what survives of these tensors."""
    twin = copy.deepcopy(pruned).eval()
    surgeon = Surgeon(twin, coupling, keep)
    for name, value in tensors.items():
        owner, _, leaf = name.rpartition(".")
        getattr(twin.graph_module.get_submodule(owner), leaf).data = surgeon.sliced(name, value) if name in coupling.tensors else value
    return twin


def _usable(coupling: Coupling, example: tuple[Tensor, ...], others: Sequence[Resized], seed: int) -> dict[str, Tensor]:
    """Return perturbed tensors with which the outputs are finite; none where the perturbation overflows."""
    tensors = perturbed(coupling, example, seed)
    with torch.no_grad():
        for inputs in (example, *(other.inputs for other in others)):
            outputs = Masked(coupling, coupling.everything(), tensors).run(*inputs)
            if not all(bool(torch.isfinite(leaf).all()) for leaf in outputs):
                return {}
    return tensors


@contextmanager
def _evaluated(program: Program) -> Iterator[None]:
    """Put the program in eval mode; give it back as it was."""
    mode = program.training
    try:
        program.eval()
        yield
    finally:
        program.train(mode)
