"""A program as exporters take it: what no input reaches is computed once, and pieces of a dynamic dimension are slices.

Runtimes stumble over both. A window mask that is written piece by piece becomes scattered writes, of which OpenVINO refuses those into an empty slice; a
`chunk` of the batch becomes a split into a number of outputs that depends on the batch.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx

from laconic.core.fake_quant import is_fake_quant
from laconic.core.graph import clean, free_name, get_tensor
from laconic.core.operators import argument, aten, family_of
from laconic.core.program import Program


def simplified(program: Program) -> Program:
    """Return a copy without writes that no input reaches and without pieces of dynamic dimensions; the program itself where it has neither."""
    nodes = list(program.graph.nodes)
    if not any(_is_cut(node) or _writes_nothing(node) for node in nodes) and not _written(nodes)[0]:
        return program
    result = copy.deepcopy(program).eval()
    _drop_empty_writes(result.graph)
    _store_written(result)
    for node in [node for node in result.graph.nodes if _is_cut(node)]:
        _slice(result.graph, node)
    result.recompile()
    return clean(result)


# What no input reaches --------------------------------------------------------------------------------------------------------------------


def _writes(node: fx.Node) -> bool:
    """Return whether an operator writes into its first argument."""
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and bool(schema.is_mutable)


def _drop_empty_writes(graph: fx.Graph) -> None:
    """Take out operators that write into slices without a number, whatever the inputs."""
    for node in [node for node in graph.nodes if _writes_nothing(node)]:
        node.replace_all_uses_with(node.args[0])
        graph.erase_node(node)


def _writes_nothing(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return _writes(node) and isinstance(value, Tensor) and any(isinstance(size, int) and size == 0 for size in value.shape)


def _store_written(program: Program) -> None:
    """Put tensors in the place of what is written step by step and depends on no input."""
    nodes = list(program.graph.nodes)
    roots, touched, fixed = _written(nodes)
    values: dict[fx.Node, Any] = {}
    for node in nodes:
        if node in fixed and roots:
            values[node] = get_tensor(program, node) if node.op == "get_attr" else _computed(node, values)
    for node in roots:
        name = free_name(program, f"{node.name}_folded")
        program.graph_module.register_buffer(name, values[node].detach().clone(memory_format=torch.contiguous_format))
        with program.graph.inserting_before(node):
            stored = program.graph.get_attr(name)
        stored.meta = {key: value for key, value in node.meta.items() if key in ("val", "nn_module_stack")}
        node.replace_all_uses_with(stored, delete_user_cb=lambda user: user not in fixed)
    for node in reversed(nodes):
        if node in touched and not node.users:
            program.graph.erase_node(node)


def _written(nodes: list[fx.Node]) -> tuple[list[fx.Node], set[fx.Node], dict[fx.Node, fx.Node]]:
    """Return what is read of tensors that are written step by step and depend on no input, all that makes them, and all that is `_fixed`."""
    fixed = _fixed(nodes)
    written = {node for node in nodes if node in fixed and _writes(node)}
    bases = {fixed[node] for node in written}
    touched: set[fx.Node] = set()
    for node in nodes:
        if node in fixed and (fixed[node] in bases or any(source in touched for source in node.all_input_nodes)):
            touched.add(node)
    roots = [node for node in nodes if node in touched and any(user not in fixed for user in node.users)]
    if not all(isinstance(node.meta["val"], Tensor) for node in roots):
        return [], set(), {}
    return roots, touched, fixed


def _fixed(nodes: list[fx.Node]) -> dict[fx.Node, fx.Node]:
    """Return the nodes that are the same at every call, each with the one whose storage it shares.

    Tensors that are written into belong together with their views: an input that reaches one reaches all. So does a reader that comes before the last write.
    """
    place = {node: i for i, node in enumerate(nodes)}
    base: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        source = _viewed(node)
        base[node] = base[source] if source is not None else node
    members: dict[fx.Node, list[fx.Node]] = {}
    for node in nodes:
        members.setdefault(base[node], []).append(node)
    written = {base[node]: place[node] for node in nodes if _writes(node)}  # the last one stays
    moving: set[fx.Node] = set()
    before = -1
    while len(moving) != before:
        before = len(moving)
        moving |= {node for node in nodes if node not in moving and not _repeatable(node, moving)}
        for root, last in written.items():
            group = members[root]
            early = any(user in moving and place[user] < last for node in group for user in node.users)
            if root.op == "get_attr" or early or any(node in moving for node in group if _writes(node)):
                moving |= set(group)
    return {node: base[node] for node in nodes if node not in moving}


def _viewed(node: fx.Node) -> fx.Node | None:
    """Return the argument whose storage an operator's result shares."""
    schema = getattr(node.target, "_schema", None)
    if node.op != "call_function" or not node.args:
        return None
    if schema is None:
        return node.args[0] if node.target is operator.getitem and isinstance(node.args[0], fx.Node) else None
    if not any(result.alias_info is not None for result in schema.returns):
        return None
    return node.args[0] if isinstance(node.args[0], fx.Node) else None


def _repeatable(node: fx.Node, moving: set[fx.Node]) -> bool:
    if node.op == "get_attr":
        return True
    value = node.meta.get("val")
    items = value if isinstance(value, (tuple, list)) else (value,)
    if node.op != "call_function" or is_fake_quant(node) or torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
        return False
    if not all(isinstance(item, Tensor) and all(isinstance(size, int) for size in item.shape) for item in items):
        return False
    sources = node.all_input_nodes
    if family_of(node) == "filled":
        sources = [source for source in sources if source is not node.args[0]]
    return not any(source in moving for source in sources)


@torch.no_grad()
def _computed(node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    """Compute a fixed node. Of a tensor that only says what another is like, an empty one does."""

    def known(source: fx.Node) -> Any:
        if source in values:
            return values[source]
        like = source.meta.get("val", node.meta["val"])
        return torch.empty(tuple(node.meta["val"].shape), dtype=like.dtype)

    args, kwargs = fx.node.map_arg((node.args, node.kwargs), known)
    return node.target(*args, **kwargs)  # type: ignore[operator]


# Pieces of a dynamic dimension ------------------------------------------------------------------------------------------------------------


def _is_cut(node: fx.Node) -> bool:
    """Return whether a node cuts a dynamic dimension into pieces."""
    if family_of(node) != "pieces" or not isinstance(node.meta.get("val"), (tuple, list)):
        return False
    return any(not isinstance(piece.shape[_axis(node)], int) for piece in node.meta["val"])


def _axis(node: fx.Node) -> int:
    return int(argument(node, 2)) % node.meta["val"][0].dim()


def _slice(graph: fx.Graph, node: fx.Node) -> None:
    """Put slices in the place of pieces."""
    axis, pieces = _axis(node), node.meta["val"]
    with graph.inserting_before(node):
        ends = list(_ends(graph, node, axis))
    for user in list(node.users):
        if user.target is not operator.getitem:
            continue
        i: Any = user.args[1]
        with graph.inserting_before(user):
            piece = graph.call_function(aten.slice.Tensor, (node.args[0], axis, ends[i - 1] if i else 0, ends[i]))
        piece.meta = {**user.meta, "val": pieces[i]}
        user.replace_all_uses_with(piece)
        graph.erase_node(user)


def _ends(graph: fx.Graph, node: fx.Node, axis: int) -> Iterator[Any]:
    """Yield where each piece ends, as a number or a node that computes it."""
    count, given = len(node.meta["val"]), argument(node, 1)
    sizes = [piece.shape[axis] for piece in node.meta["val"]]
    if isinstance(given, (tuple, list)):
        total: Any = 0
        for size in given:
            total = _arithmetic(graph, operator.add, total, size)
            yield total
        return
    each = given
    if _count_is_given(node):
        whole = graph.call_function(aten.sym_size.int, (node.args[0], axis))
        even = all(isinstance(size, torch.SymInt) and size.node.expr == sizes[0].node.expr for size in sizes)
        each = _arithmetic(graph, operator.floordiv, whole if even else _arithmetic(graph, operator.add, whole, given - 1), given)
    for i in range(count):
        yield _arithmetic(graph, operator.mul, each, i + 1)


def _count_is_given(node: fx.Node) -> bool:
    """Return whether an operator is told how many pieces to make, and not how large they are."""
    return bool(node.target._schema.arguments[1].name == "chunks")  # type: ignore[union-attr]


def _arithmetic(graph: fx.Graph, function: Callable[[Any, Any], Any], a: Any, b: Any) -> Any:
    return graph.call_function(function, (a, b)) if isinstance(a, fx.Node) or isinstance(b, fx.Node) else function(a, b)
