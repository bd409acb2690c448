"""The stored weights of a program: the kernels, matrices and tables that its operators multiply with or look up, by name, and what reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from torch import fx, nn

from laconic.core.errors import BadInput, nearest
from laconic.core.graph import get_tensor, live_nodes, module_path
from laconic.core.operators import NORMS, Family, Operator, argument, is_stored, operator_of
from laconic.core.program import Program
from laconic.core.records import Skipped

COMPUTED = "its weight is computed, not stored"


@dataclass(frozen=True, eq=False)
class NamedWeight:
    """A parameter with its name, and the module path of what reads it first."""

    name: str
    path: str
    parameter: nn.Parameter

    def named(self, paths: Sequence[str]) -> bool:
        """Return whether one of these is its name, its module path, or a module around it."""
        return any(path in (self.name, self.path) or self.path.startswith(f"{path}.") for path in paths)


@dataclass(frozen=True, eq=False)
class StoredWeight(NamedWeight):
    """A parameter that operators have as their weight, or as their bias; one that several read stands here once.

    Attributes:
        reader: the operator that reads it first.
        family: of that reader.
    """

    reader: fx.Node = field(repr=False)
    family: Family


def is_no_norm(row: Operator) -> bool:
    """Return whether an operator is none of the norms, whose weights are scales."""
    return row.family not in NORMS


def stored_weights(
    program: Program, vectors: bool = False, reads: Callable[[Operator], bool] = is_no_norm
) -> tuple[list[StoredWeight], list[Skipped]]:
    """Return the weights that a program stores, in the order in which they are read, and the operators whose weight is computed, each with the reason.

    Args:
        program: whose.
        vectors: also those of one dimension, such as biases; else only those of two and more.
        reads: which operators are looked at.
    """
    found: dict[int, StoredWeight] = {}
    skipped = []
    live = live_nodes(program.graph)
    for node in program.graph.nodes:
        row = operator_of(node) if node in live else None
        if row is None or row.weight is None or not reads(row):
            continue
        path = module_path(node) or node.name
        positions = (row.weight, row.bias) if vectors else (row.weight,)
        for weight in [stored for position in positions for stored in _listed(argument(node, position))]:
            tensor = get_tensor(program, weight) if is_stored(weight) else None
            if tensor is None:
                skipped.append(Skipped(path, COMPUTED))
            elif not isinstance(tensor, nn.Parameter) or not tensor.is_floating_point():
                skipped.append(Skipped(path, "its weight is a constant, or holds no floating numbers"))
            elif tensor.dim() > (0 if vectors else 1):
                found.setdefault(id(tensor), StoredWeight(str(weight.target), path, tensor, node, row.family))
    return list(found.values()), skipped


def _listed(value: object) -> Iterator[fx.Node]:
    """Yield the nodes of an argument: of a recurrent operator, all its tensors."""
    for item in value if isinstance(value, (list, tuple)) else (value,):
        if isinstance(item, fx.Node):
            yield item


def check_paths(weights: Sequence[NamedWeight], paths: Sequence[str], option: str) -> None:
    """Check that each path names a weight, its module, or a module around it.

    Args:
        weights: that there are.
        paths: that were given.
        option: under which; begins the message.

    Raises:
        BadInput: one does not; names the nearest.
    """
    for path in paths:
        if not any(weight.named((path,)) for weight in weights):
            known = [name for weight in weights for name in (weight.path, weight.name)]
            raise BadInput(f"{option}: there is no weight at '{path}'." + nearest(path, known))
