"""Parameters and multiply-adds of a program, by layer. One multiply-add is 1; an operator without a row is listed, never counted as zero."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from laconic.core.fake_quant import is_fake_quant
from laconic.core.graph import get_tensor, live_nodes, module_path, module_type
from laconic.core.macs import FREE, Shape, cost_of, number, symbols
from laconic.core.operators import plain_name
from laconic.core.program import Program, as_program

UNUSED = "not used"  # the type of a layer whose parameters no output depends on
_NAMED = 3  # layers of these in a sentence


@dataclass(frozen=True)
class LayerCount:
    """One module that owns parameters or multiplies.

    Attributes:
        path: of the module.
        type: its class, or `UNUSED`.
        params: shared ones at their first reader.
        macs: multiply-adds.
        zeros: numbers of its kernels and matrices that are exactly zero.
    """

    path: str
    type: str
    params: int
    macs: int
    zeros: int = 0


@dataclass(frozen=True)
class Counts:
    """Totals, layers in the order of the graph, and how often each operator without a row occurs.

    Attributes:
        params: that an output depends on; these are in the files that ship.
        macs: multiply-adds.
        layers: those that no output depends on come last, with the type `UNUSED`.
        unknown: how often each operator without a row occurs.
        unused_params: that no output depends on, such as those of an auxiliary head in evaluation.
    """

    params: int
    macs: int
    layers: tuple[LayerCount, ...]
    unknown: dict[str, int] = field(default_factory=dict)
    unused_params: int = 0

    def notes(self) -> list[str]:
        """Return a sentence about the parameters that no output depends on, where there are any."""
        paths = [layer.path or "the model itself" for layer in self.layers if layer.type == UNUSED]
        if not paths:
            return []
        named = ", ".join(paths[:_NAMED]) + (f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else "")
        return [f"{self.unused_params:,} parameters reach no output in evaluation ({named}): they are left out of files and sizes"]


def count(program: Program, batch: int = 1, **lengths: int) -> Counts:
    """Count parameters and multiply-adds.

    Args:
        program: the program.
        batch: examples that the multiply-adds are for.
        lengths: sizes of other dynamic dimensions; those not given have the size of the example.
    """
    sizes = symbols(as_program(program, "count"), batch, lengths)

    def shape(value: Any) -> Shape:
        while is_fake_quant(value):  # what is rounded keeps its shape, which inserted nodes do not tell
            value = value.args[0]
        if isinstance(value, fx.Node) and value.op == "get_attr":
            return tuple(get_tensor(program, value).shape)
        rows = value.meta["val"]
        rows = rows[0] if isinstance(rows, (tuple, list)) else rows
        return tuple(number(size, sizes) for size in rows.shape)

    layers: dict[str, list[Any]] = {}
    unknown: Counter[str] = Counter()
    seen: set[int] = set()
    live = live_nodes(program.graph)
    for node in program.graph.nodes:
        if (
            node not in live
            or node.op != "call_function"
            or not isinstance(node.target, torch._ops.OpOverload)
            or "sym_" in str(node.target)
        ):
            continue
        parameters = list(_new_parameters(program, node, seen))
        macs = _macs(node, shape, unknown)
        if parameters or macs:
            row = layers.setdefault(module_path(node), [module_type(node), 0, 0, 0])
            row[1] += sum(parameter.numel() for parameter in parameters)
            row[2] += macs
            row[3] += sum(
                int((parameter == 0).sum()) for parameter in parameters if parameter.dim() > 1 and parameter.device.type != "meta"
            )
    unused = {name: parameter.numel() for name, parameter in program.named_parameters() if id(parameter) not in seen}
    for name, size in unused.items():
        layers.setdefault(name.rpartition(".")[0], [UNUSED, 0, 0, 0])[1] += size
    rows = tuple(LayerCount(path, *row) for path, row in layers.items())
    total = sum(parameter.numel() for parameter in program.parameters()) - sum(unused.values())
    return Counts(total, sum(layer.macs for layer in rows), rows, dict(unknown), sum(unused.values()))


def _macs(node: fx.Node, shape: Callable[[Any], Shape], unknown: Counter[str]) -> int:
    cost = cost_of(node)
    if cost is not None:
        try:
            return cost(node, shape)
        except LookupError:
            unknown[str(node.target)] += 1
    elif plain_name(node) not in FREE and not is_fake_quant(node):
        unknown[str(node.target)] += 1
    return 0


def _new_parameters(program: Program, node: fx.Node, seen: set[int]) -> Iterator[Tensor]:
    for source in node.all_input_nodes:
        if source.op == "get_attr":
            tensor: Tensor = get_tensor(program, source)
            if isinstance(tensor, torch.nn.Parameter) and id(tensor) not in seen:
                seen.add(id(tensor))
                yield tensor
