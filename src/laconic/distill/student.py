"""Students: another net in the program's place, untrained; and weights taken over from a teacher by name."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from laconic.core import structure
from laconic.core.capture import capture
from laconic.core.context import Context
from laconic.core.errors import BadInput
from laconic.core.program import Program
from laconic.core.records import Outcome
from laconic.core.step import StepConfig, step


@dataclass(frozen=True)
class Student(StepConfig):
    """Put an untrained net in the program's place; a training step behind it teaches it.

    Args:
        model: `module:attribute` of a function without arguments that makes it, or the name of a reference net.
        transfer: take over the program's tensors that have the same name and shape.
    """

    model: str = "resnet8"
    transfer: bool = False

    def words(self) -> str:
        """Return its name with the net that it makes."""
        return f"student {self.model}"


@step("student")
def student(program: Program, config: Student, context: Context) -> tuple[Program, Outcome]:
    """Capture a new net in the program's place, with the program's inputs and known by their names.

    Raises:
        BadInput: there is no such net, it does not take the inputs, or it answers in another form or with other classes.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(context.seed)
        net = _make(config.model, context)
    example = program.example_inputs()
    captured = _captured(net.to(example[0].device), program)
    _same_answer(config.model, program, captured)
    transferred = transfer(captured, program) if config.transfer else []
    changed = {"model": config.model, "params": [_count(program), _count(captured)], "transferred": transferred}
    return captured, Outcome("student", changed)


def transfer(student: nn.Module, teacher: nn.Module) -> list[str]:
    """Copy what has the same name and shape in both, parameters and buffers, into the student; returns the names."""
    theirs = teacher.state_dict()
    ours = student.state_dict()
    names = [name for name, value in ours.items() if name in theirs and theirs[name].shape == value.shape]
    with torch.no_grad():
        for name in names:
            ours[name].copy_(theirs[name])
    return names


def _count(program: Program) -> int:
    return sum(p.numel() for p in program.parameters())


def _make(name: str, context: Context) -> nn.Module:
    module, _, attribute = name.partition(":")
    if not attribute:
        nets = None if context.task is None else context.task.nets
        if nets is None:
            raise BadInput(
                f"the step 'student' finds no reference net '{name}' here: give Task(nets=…), or name a function as module:attribute"
            )
        return nets(name)
    try:
        factory = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise BadInput(
            f"the student '{name}' cannot be found: {error}. Name a function as module:attribute, importable from here."
        ) from error
    made = factory()
    if not isinstance(made, nn.Module):
        raise BadInput(f"the student '{name}' is a function that makes {type(made).__name__}; it must make a torch.nn.Module.")
    return made


def _captured(net: nn.Module, program: Program) -> Program:
    """Capture the net on the program's example, with the program's names of inputs and dynamic dimensions."""
    spec = program.interface.input_structure
    given: Mapping[str, Any] = structure.build(spec, iter(program.example_inputs()))
    known = inspect.signature(net.forward).parameters
    by_name = set(given) <= set(known)
    renamed = dict(zip(given, given if by_name else known, strict=False))
    batch = any(item.shape and item.shape[0] == "batch" for item in program.inputs)
    dynamic: dict[str, dict[int, str]] = {}
    for item in program.inputs:
        head, dot, rest = item.name.partition(".")
        labels = {index: dim for index, dim in enumerate(item.shape) if isinstance(dim, str) and not (index == 0 and dim == "batch")}
        if labels:
            dynamic[f"{renamed.get(head, head)}{dot}{rest}"] = labels
    captured = capture(net, dict(given) if by_name else tuple(given.values()), dynamic=dynamic, dynamic_batch=batch)
    interface = replace(captured.interface, inputs=program.inputs, input_structure=spec)
    return Program(captured.graph_module, interface, captured.example_inputs())


def _same_answer(name: str, program: Program, student: Program) -> None:
    """Check that outputs agree in nesting and in every fixed size."""
    wanted, given = ([(o.name, [d if isinstance(d, int) else "any" for d in o.shape]) for o in p.outputs] for p in (program, student))
    if wanted != given:
        shown = ["; ".join(f"{o.name} ({', '.join(map(str, o.shape))})" for o in p.outputs) for p in (student, program)]
        raise BadInput(
            f"the student '{name}' answers {shown[0]} where the program answers {shown[1]}. It needs the same outputs and the same classes."
        )
    if program.interface.output_structure != student.interface.output_structure:
        raise BadInput(
            f"the student '{name}' nests its outputs otherwise than the program. Return them in the same tuple, mapping or dataclass."
        )
