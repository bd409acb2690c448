"""A program under the knife: what survives of its tensors and dimensions. The edits of operators (`rules`) ask it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import floordiv, mul
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, fx, nn

from laconic.core.errors import BadInput
from laconic.core.graph import get_tensor
from laconic.core.program import Program
from laconic.pruning.trace import Dim, Node, is_ids

Keep = np.ndarray[Any, np.dtype[np.bool_]]  # for each component, whether it stays


class Coupled(Protocol):
    """What the surgeon reads of a `Coupling`."""

    @property
    def program(self) -> Program:
        """The program before."""

    @property
    def values(self) -> dict[fx.Node, Any]:
        """Ids of the dimensions of each node's output."""

    @property
    def tensors(self) -> dict[str, list[Any]]:
        """Ids of the dimensions of each tensor, by name."""

    @property
    def names(self) -> dict[int, str]:
        """Names of tensors, by identity."""

    @property
    def label(self) -> np.ndarray[Any, np.dtype[np.int32]]:
        """Component of each id."""

    def name(self, node: fx.Node) -> str:
        """Return the name of the tensor behind an attribute."""


class Surgeon:
    """A program under the knife, and what survives."""

    def __init__(self, program: Program, coupling: Coupled, keep: Keep) -> None:
        self.program, self.coupling = program, coupling
        self.kept = keep[coupling.label]  # of each id

    def indices(self, name: str, dim: int) -> Tensor | None:
        """Return what survives of a tensor's dimension; None: all of it."""
        ids = self.coupling.tensors[name][dim]
        if ids is None or self.kept[ids].all():
            return None
        result = np.flatnonzero(self.kept[ids])
        if not len(result):
            raise BadInput(f"nothing would be left of dimension {dim} of {name}: keep at least one")
        return torch.from_numpy(result)

    def sliced(self, name: str, value: Tensor) -> Tensor:
        """Return what survives of a tensor that is shaped like the one of this name."""
        for dim in range(value.dim()):
            result = self.indices(name, dim)
            if result is not None:
                value = value.index_select(dim, result.to(value.device))
        return value

    def cut_tensors(self) -> None:
        """Slice parameters and buffers; what is tied stays tied."""
        made: dict[int, Any] = {}
        for name, value in _named(self.coupling.program):
            key = self.coupling.names.get(id(value))
            if key is None:
                continue
            owner, _, leaf = name.rpartition(".")
            module = self.program.graph_module.get_submodule(owner)
            if id(value) not in made:
                cut = self.sliced(key, value.detach())
                if cut.shape == value.shape:
                    continue
                made[id(value)] = nn.Parameter(cut.clone(), value.requires_grad) if isinstance(value, nn.Parameter) else cut.clone()
            if isinstance(value, nn.Parameter):
                module.register_parameter(leaf, made[id(value)])
            else:
                module.register_buffer(leaf, made[id(value)], persistent=leaf not in module._non_persistent_buffers_set)

    def count(self, dim: Dim) -> int:
        """Return the size of a dimension afterwards (of a dynamic part, the example's)."""
        result = 1
        for size, ids in dim:
            result *= int(self.kept[ids].sum()) if is_ids(ids) else size
        return result

    def changed(self, dim: Dim) -> bool:
        """Return whether anything of a dimension goes."""
        return any(is_ids(ids) and not self.kept[ids].all() for _, ids in dim)

    def dims(self, old: fx.Node) -> tuple[Dim, ...]:
        """Return the dimensions of a node's output before."""
        return self.coupling.values[old]

    def value(self, node: fx.Node) -> Any:
        """Return the dimensions of what a node puts out, or a list of them where there are several outputs."""
        return self.coupling.values[node]

    def flat(self, dim: Dim) -> Keep:
        """Return for each index of a dimension whether it survives."""
        result = np.ones([size for size, _ in dim], bool)
        for axis, (_, ids) in enumerate(dim):
            if is_ids(ids):
                result &= self.kept[ids].reshape([-1 if i == axis else 1 for i in range(len(dim))])
        return result.ravel()

    def before(self, dim: Dim, start: int) -> int:
        """Return how many indices before `start` survive."""
        return int(self.flat(dim)[:start].sum())

    def weight_sizes(self, weight: fx.Node) -> list[int]:
        """Return the sizes of a weight afterwards, stored or computed."""
        if weight.op != "get_attr":
            return [self.count(dim) for dim in self.value(weight)]
        tensor = get_tensor(self.coupling.program, weight)
        left = (self.indices(self.coupling.name(weight), dim) for dim in range(tensor.dim()))
        return [size if kept is None else len(kept) for size, kept in zip(tensor.shape, left, strict=True)]

    def sizes(self, old: Node, new: Node, given: Sequence[Any], dims: Sequence[Dim], infer: bool = False) -> list[Any]:
        """Return sizes as an operator takes them, for what is left of `dims`. A symbolic one is computed from what it was, or inferred where one may be."""
        result = list(given)
        for i, (size, dim) in enumerate(zip(given, dims, strict=True)):
            if not self.changed(dim) or (isinstance(size, int) and size < 0):
                continue
            if isinstance(size, int):
                result[i] = self.count(dim)
                continue
            fixed = [(n, int(self.kept[ids].sum()) if is_ids(ids) else n) for n, ids in dim if is_ids(ids)]
            was, now = (int(np.prod([pair[k] for pair in fixed])) for k in (0, 1))
            others = [other for j, other in enumerate(result) if j != i and isinstance(other, int) and other < 0]
            if infer and not others:
                result[i] = -1
                continue
            with new.graph.inserting_before(new):
                whole = new.graph.call_function(floordiv, (size, was))
                result[i] = new.graph.call_function(mul, (whole, now))
            whole.meta["val"] = size.meta["val"] // was
            result[i].meta["val"] = whole.meta["val"] * now
        return result

    def reshape_metadata(self, old: Node, new: Node) -> None:
        """Let the shapes noted on a node be those that it has now, so that it can be pruned again."""
        value = self.coupling.values[old]
        result = old.meta["val"]
        if isinstance(value, list):
            shapes = [self._shaped(item, dims) for item, dims in zip(result, value, strict=True)]
            new.meta["val"] = type(result)(shapes) if isinstance(result, (tuple, list)) else shapes
        else:
            new.meta["val"] = self._shaped(result, value)

    def _shaped(self, found: Any, dims: Sequence[Dim]) -> Tensor:
        if not any(self.changed(dim) for dim in dims):
            return found
        shape: list[Any] = []
        for size, dim in zip(found.shape, dims, strict=True):
            if not self.changed(dim):
                shape.append(size)
            elif isinstance(size, int):
                shape.append(self.count(dim))
            else:
                was = int(np.prod([n for n, ids in dim if is_ids(ids)]))
                now = int(np.prod([self.kept[ids].sum() for _, ids in dim if is_ids(ids)]))
                shape.append(size // was * now)
        return found.new_empty(shape)


def _named(program: Program) -> Iterator[tuple[str, Tensor]]:
    module = program.graph_module
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)
