"""From which module of the user's a node of the graph came."""

from __future__ import annotations

from torch import fx


def module_path(node: fx.Node) -> str:
    """Return the dotted path of the module that a node came from, e.g. ``layer3.1.conv1``; empty for the model itself.

    Repeated calls of one module carry a suffix ``@1``, ``@2`` in PyTorch's metadata, which is dropped.
    """
    stack = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values() if not path.startswith("_empty_nn_module_stack")]
    return stack[-1].partition("@")[0] if stack else ""


def module_type(node: fx.Node) -> str:
    """Return the class name of the module that a node came from, e.g. ``Conv2d``; empty where PyTorch kept none."""
    stack = [kind for path, kind in (node.meta.get("nn_module_stack") or {}).values() if not path.startswith("_empty_nn_module_stack")]
    kind = stack[-1] if stack else ""
    return (kind if isinstance(kind, str) else kind.__name__).rpartition(".")[2]
