"""The stored weights of a program: the kernels, matrices and tables that its operators multiply with or look up, by name, and what reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import fx, nn

from laconic.core.errors import BadInput, nearest
from laconic.core.graph import get_tensor, live_nodes, module_path
from laconic.core.operators import NORMS, Family, argument, is_stored, operator_of
from laconic.core.program import Program
from laconic.core.records import Skipped


@dataclass(frozen=True)
class StoredWeight:
    """A parameter that operators have as their weight, or as their bias; one that several read stands here once.

    Attributes:
        name: of the parameter.
        path: module path of its first reader.
        family: of that reader.
        parameter: itself.
    """

    name: str
    path: str
    family: Family
    parameter: nn.Parameter

    def named(self, paths: Sequence[str]) -> bool:
        """Return whether one of these is its name, its module path, or a module around it."""
        return any(path in (self.name, self.path) or self.path.startswith(f"{path}.") for path in paths)


def stored_weights(program: Program, vectors: bool = False) -> tuple[list[StoredWeight], list[Skipped]]:
    """Return the weights that a program stores, in the order in which they are read, and the operators whose weight is computed, each with the reason.

    Args:
        program: whose; norms are left out.
        vectors: also those of one dimension, such as biases; else only those of two and more.
    """
    found: dict[int, StoredWeight] = {}
    skipped = []
    live = live_nodes(program.graph)
    for node in program.graph.nodes:
        row = operator_of(node) if node in live else None
        if row is None or row.weight is None or row.family in NORMS:
            continue
        path = module_path(node) or node.name
        positions = (row.weight, row.bias) if vectors else (row.weight,)
        for weight in [stored for position in positions for stored in _listed(argument(node, position))]:
            tensor = get_tensor(program, weight) if is_stored(weight) else None
            if tensor is None:
                skipped.append(Skipped(path, "its weight is computed, not stored"))
            elif not isinstance(tensor, nn.Parameter) or not tensor.is_floating_point():
                skipped.append(Skipped(path, "its weight is a constant, or holds no floating numbers"))
            elif tensor.dim() > (0 if vectors else 1):
                found.setdefault(id(tensor), StoredWeight(str(weight.target), path, row.family, tensor))
    return list(found.values()), skipped


def _listed(value: object) -> Iterator[fx.Node]:
    """Yield the nodes of an argument: of a recurrent operator, all its tensors."""
    for item in value if isinstance(value, (list, tuple)) else (value,):
        if isinstance(item, fx.Node):
            yield item


def check_paths(weights: Sequence[StoredWeight], paths: Sequence[str], option: str) -> None:
    """Check that each path names a weight, its module, or a module around it.

    Args:
        weights: of `stored_weights`.
        paths: that were given.
        option: under which; begins the message.

    Raises:
        BadInput: one does not; names the nearest.
    """
    for path in paths:
        if not any(weight.named((path,)) for weight in weights):
            known = [name for weight in weights for name in (weight.path, weight.name)]
            raise BadInput(f"{option}: the program has no weight at '{path}'." + nearest(path, known))
