"""Surgery: remove components. Parameters and buffers are sliced at what survives, and the graph's shape constants are written anew.

The result is a program of its own; the one given is not changed, so nothing is half-pruned after a failure.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from operator import floordiv, mul
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from laconic.core.errors import BadInput
from laconic.core.graph import get_tensor
from laconic.core.norms import is_check
from laconic.core.operators import CONVOLUTIONS, argument, names_of, plain_name, row_of, set_argument
from laconic.core.program import Program, aten
from laconic.pruning.coupling import Coupling
from laconic.pruning.rules.joins import is_whole
from laconic.pruning.trace import Dim, is_ids, size_of

Node = Any  # an fx.Node, whose arguments are of every type
Keep = np.ndarray[Any, np.dtype[np.bool_]]  # for each component, whether it stays


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
            edit = _EDITS.get(plain_name(old))
            if edit is not None:
                edit(surgeon, old, new)
            surgeon.reshape_metadata(old, new)
    program.recompile()
    return program


class Surgeon:
    """A program under the knife, and what survives."""

    def __init__(self, program: Program, coupling: Coupling, keep: Keep) -> None:
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

    def sizes(self, old: Node, new: Node, given: Sequence[Any], dims: Sequence[Dim]) -> list[Any]:
        """Return sizes as an operator takes them, for what is left of `dims`. A symbolic one is computed from what it was."""
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
            if plain_name(old) in ("view", "reshape", "_unsafe_view") and not others:
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


def _named(program: Program) -> Any:
    module = program.graph_module
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


# Edits of shape constants -----------------------------------------------------------------------------------------------------------------


def _size_list(position: int) -> Callable[[Surgeon, Node, Node], None]:
    def edit(s: Surgeon, old: Node, new: Node) -> None:
        set_argument(new, position, s.sizes(old, new, list(argument(new, position)), s.dims(old)))

    return edit


def _unflatten(s: Surgeon, old: Node, new: Node) -> None:
    dims, sizes = s.dims(old), list(argument(new, 2))
    axis = int(argument(old, 1)) % (len(dims) - len(sizes) + 1)
    set_argument(new, 2, s.sizes(old, new, sizes, dims[axis : axis + len(sizes)]))


def _normalized(s: Surgeon, old: Node, new: Node) -> None:
    shape = list(argument(old, 1))
    value = _value(s, old)
    dims = (value[0] if isinstance(value, list) else value)[-len(shape) :]
    set_argument(new, 1, [s.count(dim) for dim in dims])


def _value(s: Surgeon, node: fx.Node) -> Any:
    return s.coupling.values[node]


def _groups(s: Surgeon, old: Node, new: Node) -> None:
    row = row_of(old)
    if row.groups is None or argument(old, row.groups) == 1:
        return
    x, weight = old.args[0], argument(old, row.weight)
    of_each, rank = _second(s, weight)
    # all channels of one side over those of one group of the same side
    dims = s.dims(old) if row.transposed else _value(s, x)
    set_argument(new, row.groups, s.count(dims[len(dims) - rank + 1]) // of_each)


def _second(s: Surgeon, weight: fx.Node) -> tuple[int, int]:
    """Return the size of dimension 1 of a weight afterwards, and its number of dimensions."""
    if weight.op != "get_attr":
        return s.count(_value(s, weight)[1]), len(_value(s, weight))
    tensor = get_tensor(s.coupling.program, weight)
    result = s.indices(s.coupling.name(weight), 1)
    return tensor.shape[1] if result is None else len(result), tensor.dim()


def _group_norm(s: Surgeon, old: Node, new: Node) -> None:
    groups = int(argument(old, 1))
    dim = s.dims(old)[1]
    if groups == 1 or not s.changed(dim):
        return
    set_argument(new, 1, int(_flat(s, dim).reshape(groups, -1).any(1).sum()))


def _pieces(s: Surgeon, old: Node, new: Node) -> None:
    values = _value(s, old)
    source = s.coupling.values[old.args[0]]
    axis = int(argument(old, 2)) % len(source)
    if s.changed(source[axis]):
        new.target = aten.split_with_sizes.default
        new.args, new.kwargs = (new.args[0], [s.count(value[axis]) for value in values], axis), {}


def _slice(s: Surgeon, old: Node, new: Node) -> None:
    source = s.coupling.values[old.args[0]]
    axis = int(argument(old, 1)) % len(source)
    if not s.changed(source[axis]):
        return
    if is_whole(old, axis):  # its end may be a number that holds for all sizes, or be computed from the size before
        new.target, new.args, new.kwargs = aten.alias.default, new.args[:1], {}
        return
    size, start = size_of(source[axis]), argument(old, 2) or 0
    begin = _before(s, source[axis], max(start + size, 0) if start < 0 else start)
    after = s.count(s.dims(old)[axis])
    new.args, new.kwargs = (new.args[0], axis, begin, after if plain_name(old) == "narrow" else begin + after), {}


def _select(s: Surgeon, old: Node, new: Node) -> None:
    source = s.coupling.values[old.args[0]]
    if s.changed(source[int(argument(old, 1)) % len(source)]):
        set_argument(new, 2, 0)


def _before(s: Surgeon, dim: Dim, start: int) -> int:
    return int(_flat(s, dim)[:start].sum())


def _flat(s: Surgeon, dim: Dim) -> Keep:
    """Return for each index of a dimension whether it survives."""
    result = np.ones([size for size, _ in dim], bool)
    for axis, (_, ids) in enumerate(dim):
        if is_ids(ids):
            result &= s.kept[ids].reshape([-1 if i == axis else 1 for i in range(len(dim))])
    return result.ravel()


def _shuffle(s: Surgeon, old: Node, new: Node) -> None:
    dim = s.dims(old)[1]
    if len(dim) == 2:  # (channels of a group, groups)
        set_argument(new, 1, s.count(dim[1:]))


def _squeeze(s: Surgeon, old: Node, new: Node) -> None:
    """Return a dimension of which one index is left is none of those that had one before."""
    source = s.dims(old.args[0])
    if any(s.changed(dim) for dim in source):
        given = range(len(source)) if len(old.args) == 1 else np.atleast_1d(old.args[1])
        axes = [axis for axis in (int(i) % len(source) for i in given) if size_of(source[axis]) == 1]
        new.target = aten.squeeze.dims if axes else aten.alias.default
        new.args, new.kwargs = ((new.args[0], axes) if axes else new.args[:1]), {}


def _pad(s: Surgeon, old: Node, new: Node) -> None:
    dims, source = s.dims(old), s.coupling.values[old.args[0]]
    amounts = list(argument(old, 1))
    for k in range(len(amounts) // 2):
        axis = len(dims) - 1 - k
        if (amounts[2 * k], amounts[2 * k + 1]) != (0, 0) and s.changed(source[axis]) | s.changed(dims[axis]):
            ids: Any = dims[axis][0][1]
            left, right = (max(amount, 0) for amount in amounts[2 * k : 2 * k + 2])
            cut = _count_cut(s, source[axis], amounts[2 * k], amounts[2 * k + 1])
            amounts[2 * k] = int(s.kept[ids[:left]].sum()) - cut[0]
            amounts[2 * k + 1] = int(s.kept[ids[len(ids) - right :]].sum()) - cut[1]
    set_argument(new, 1, amounts)


def _count_cut(s: Surgeon, dim: Dim, left: int, right: int) -> tuple[int, int]:
    """Return how much is still there of what negative padding cuts away on either side."""
    total, size = s.count(dim), size_of(dim)
    return (_before(s, dim, -left) if left < 0 else 0, total - _before(s, dim, size + right) if right < 0 else 0)


def _repeat(s: Surgeon, old: Node, new: Node) -> None:
    dims, times = s.dims(old), list(argument(new, 1))
    source = s.coupling.values[old.args[0]]
    source = (*[((1, None),)] * (len(dims) - len(source)), *source)
    for i, dim in enumerate(dims):
        if s.changed(dim) and size_of(source[i]) == 1:
            times[i] = s.count(dim)
    set_argument(new, 1, times)


def _scale(s: Surgeon, old: Node, new: Node) -> None:
    """Return the scale of attention stays as it was when indices of the head size go."""
    size = s.coupling.values[old.args[0]][-1]
    if s.changed(size) and argument(old, 6) is None:
        set_argument(new, 6, float(np.prod([n for n, _ in size])) ** -0.5)


_EDITS: Mapping[str, Callable[[Surgeon, Node, Node], None]] = {
    **dict.fromkeys(
        ("view", "reshape", "_unsafe_view", "expand", "broadcast_to", "new_zeros", "new_ones", "new_full", "new_empty"), _size_list(1)
    ),
    **dict.fromkeys(("zeros", "ones", "full", "empty", "rand", "randn"), _size_list(0)),
    **dict.fromkeys(names_of(*CONVOLUTIONS), _groups),
    **dict.fromkeys(names_of("layer norm", "rms norm"), _normalized),
    **dict.fromkeys(("split", "split_with_sizes", "chunk", "tensor_split"), _pieces),
    **dict.fromkeys(("slice", "narrow"), _slice),
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    **dict.fromkeys(("repeat", "tile"), _repeat),
    "unflatten": _unflatten,
    "select": _select,
    **dict.fromkeys(names_of("group norm"), _group_norm),
    "squeeze": _squeeze,
    **dict.fromkeys(("channel_shuffle", "native_channel_shuffle"), _shuffle),
    **dict.fromkeys(names_of("attention"), _scale),
}


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
