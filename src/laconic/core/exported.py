"""What capture and the reader of files share: from an `ExportedProgram` to a plain graph and its tensors."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from laconic.core.assembly import Tensors

aten = torch.ops.aten

# The wrapper that `with torch.no_grad()` leaves in the graph: positions of the subgraph (the first input comes after it).
_REGIONS = {"wrap_with_set_grad_enabled": 1}
_CHECKS = (
    aten._assert_tensor_metadata.default,
    aten._assert_scalar.default,
    aten.sym_constrain_range_for_size.default,
    aten.sym_constrain_range.default,
)


@contextlib.contextmanager
def quiet_export() -> Iterator[None]:
    """Keep the exporters' own warnings and log lines from the reader; what matters of them is raised."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def plain_graph(exported: ExportedProgram) -> tuple[fx.Graph, bool]:
    """Return the graph with parameters as attributes, without checks and regions, and whether it had no region to begin with."""
    module = exported.module(check_guards=False)
    graph = module.graph
    graph.set_codegen(fx.graph.CodeGen())
    inlined = _inline_regions(module)
    for node in reversed(list(graph.nodes)):
        if node.target in _CHECKS or (node.op == "call_module" and "_guards_fn" in str(node.target)):
            graph.erase_node(node)
    for node in reversed(list(graph.nodes)):
        if not node.users and (node.op == "get_attr" or "sym_size" in str(node.target)):
            graph.erase_node(node)
    return graph, not inlined


def _inline_regions(module: Any) -> int:
    """Replace `no_grad` regions by their content and count them; what was computed without gradient is detached."""
    graph, count = module.graph, 0
    for node in list(graph.nodes):
        first = _REGIONS.get(str(getattr(node.target, "__name__", "")))
        if first is None:
            continue
        inner = module.get_submodule(node.args[first].target)
        inner_inputs = [n for n in inner.graph.nodes if n.op == "placeholder"]
        values = dict(zip(inner_inputs, node.args[first + 1 :], strict=True))
        with graph.inserting_before(node):
            results = graph.graph_copy(inner.graph, values)
            if node.args[0] is False:
                results = fx.node.map_arg(results, lambda n: _detached(graph, n))
        for user in list(node.users):
            user.replace_all_uses_with(results[user.args[1]])
            graph.erase_node(user)
        graph.erase_node(node)
        count += 1
    return count


def _detached(graph: fx.Graph, node: fx.Node) -> fx.Node:
    twin = graph.call_function(aten.detach.default, (node,))
    twin.meta = dict(node.meta)
    return twin


def tensors_in(exported: ExportedProgram) -> Tensors:
    """Return parameters, buffers and lifted constants with their names."""
    signature = exported.graph_signature
    parameters, transient = set(signature.parameters), set(signature.non_persistent_buffers)
    tensors: Tensors = [(name, (value, name in parameters, name not in transient)) for name, value in exported.state_dict.items()]
    return tensors + [(name, (value, False, False)) for name, value in exported.constants.items() if isinstance(value, Tensor)]
