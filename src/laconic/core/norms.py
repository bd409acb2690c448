"""The checks of PyTorch's norm layers that its operators lack: a variance needs two values or more."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

from torch import Tensor, fx

from laconic.core.errors import BadInput
from laconic.core.operators import argument, family_of, operator_of


def check_batch_norm(x: Tensor, name: str) -> None:
    """Refuse a batch-norm in training mode that sees one value per channel: its output would be its bias, and its running variance no number.

    Args:
        x: the input, (B, C) or (B, C, …).
        name: of the layer.

    Raises:
        BadInput: names the layer and the way out.
    """
    if x.dim() > 1 and x.shape[1] and x.numel() == x.shape[1]:
        raise BadInput(
            f"the batch-norm '{name}' was given one value per channel (shape {tuple(x.shape)}), which has no variance: set batch_size to 2 or more, and "
            "leave out a last batch of one example"
        )


def check_instance_norm(x: Tensor, name: str) -> None:
    """Refuse an instance norm that sees one value per channel of an example.

    Args:
        x: the input, (B, C, …).
        name: of the layer.

    Raises:
        BadInput: names the layer.
    """
    if x.dim() > 2 and x.numel() and x.numel() == x.shape[0] * x.shape[1]:
        raise BadInput(
            f"the instance norm '{name}' was given one value per channel (shape {tuple(x.shape)}), which has no variance: give larger inputs"
        )


@contextlib.contextmanager
def refusals_told() -> Iterator[None]:
    """Tell what the norms of a plain module refuse as ours of a program do.

    Raises:
        BadInput: PyTorch's own check met one value per channel.
    """
    try:
        yield
    except ValueError as error:
        mend = next((mend for text, mend in _REFUSALS.items() if text in str(error)), None)
        if mend is None:
            raise
        raise BadInput(f"{mend[0]} was given one value per channel, which has no variance: {mend[1]}") from error


# What PyTorch's checks say -> which norm it is, and the way out.
_REFUSALS = {
    "more than 1 value per channel": ("a batch-norm (or a group norm)", "set batch_size to 2 or more"),
    "more than 1 spatial element": ("an instance norm", "give larger inputs"),
}
_CHECKS: dict[str | None, Callable[[Tensor, str], None]] = {"batch norm": check_batch_norm, "instance norm": check_instance_norm}


def normalizes_by_batch(node: fx.Node) -> bool:
    """Return whether a batch or instance norm takes mean and variance from what it reads."""
    row = operator_of(node)
    return row is not None and row.family in _CHECKS and bool(argument(node, row.mode))


def insert_checks(graph: fx.Graph, nodes: Iterable[fx.Node]) -> list[fx.Node]:
    """Put a check before each of these norms, and return the new nodes; recompile afterwards."""
    made = []
    for node in nodes:
        if (check := _CHECKS.get(family_of(node))) is not None:
            with graph.inserting_before(node):
                made.append(graph.call_function(check, (node.args[0], layer_name(node))))
    return made


def remove_checks(graph: fx.Graph, checks: Iterable[fx.Node]) -> None:
    """Take out what `insert_checks` put in, as far as it is still there; recompile afterwards."""
    there = set(graph.nodes)
    for node in checks:
        if node in there:
            graph.erase_node(node)


def is_check(node: fx.Node) -> bool:
    """Return whether a node is a check, which is in the graph in training mode only and computes nothing."""
    return node.op == "call_function" and node.target in _CHECKS.values()


def layer_name(node: fx.Node) -> str:
    """Return the dotted name of a norm: that of its tensors, or of its operator where it has none."""
    owned = next((str(a.target) for a in node.args[1:5] if isinstance(a, fx.Node) and a.op == "get_attr"), "")
    return owned.rpartition(".")[0] or node.name
