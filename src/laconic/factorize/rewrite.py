"""Put a chain of layers into a program's graph in the place of one."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx, nn

from laconic.core.operators import argument, row_of, spread
from laconic.core.program import Program, aten
from laconic.factorize.chain import Chain, Factor
from laconic.factorize.sites import Site

_CONVOLUTION = {1: aten.conv1d, 2: aten.conv2d, 3: aten.conv3d}
_TRANSPOSED = {1: aten.conv_transpose1d.default, 2: aten.conv_transpose2d.input, 3: aten.conv_transpose3d.input}


def put(site: Site, chain: Chain) -> list[str]:
    """Replace a layer by a chain; the program must be recompiled afterwards.

    The module `conv` becomes a sequence: `conv.0`, `conv.1`, …; the last one has the bias. Shapes and module paths are noted on the new nodes as capture does.

    Returns:
        The module paths of the new layers.
    """
    program, node, row = site.program, site.node, row_of(site.node)
    weight, bias = site.source, argument(node, row.bias)
    old, learns, rank = site.stored, site.stored.requires_grad, len(site.kernel)
    shift = None if bias is None else _take(program, bias)
    base = _base(program, str(weight.target))
    _take(program, weight)
    paths, value = [], site.read
    for index, factor in enumerate(chain):
        path = f"{base}.{index}" if base else str(index)
        stored = factor.weight.to(old.device, old.dtype)
        if row.transposed and factor.axes:
            stored = stored.unflatten(0, (factor.groups, -1)).transpose(1, 2).flatten(0, 1)
        last = index == len(chain) - 1
        _register(program, f"{path}.weight", stored, learns)
        if last and shift is not None:
            _register(program, f"{path}.bias", shift, shift.requires_grad)
        with program.graph.inserting_before(node):
            kernel = program.graph.get_attr(f"{path}.weight")
            shifted = program.graph.get_attr(f"{path}.bias") if last and shift is not None else None
            value = _layer(site, rank, factor, value, kernel, shifted)
        _describe(site, value, factor, path, last)
        paths.append(path)
    node.replace_all_uses_with(value)
    program.graph.erase_node(node)
    for attribute in [other for other in program.graph.nodes if other.op == "get_attr" and not other.users]:
        program.graph.erase_node(attribute)
    return paths


def _take(program: Program, attribute: fx.Node) -> Tensor:
    """Take a parameter out of the program, under every name that it has; the nodes that read it stay, for now."""
    owner, _, leaf = str(attribute.target).rpartition(".")
    module = program.graph_module.get_submodule(owner)
    value: Tensor = getattr(module, leaf)
    for other in program.graph_module.modules():
        for registry in (other._parameters, other._buffers):
            for name in [name for name, tensor in registry.items() if tensor is value]:
                del registry[name]
    return value


def _base(program: Program, weight: str) -> str:
    """Return the path below which a layer's new ones go: its module's, or one of its own where that has children of these names already."""
    base = weight.removesuffix("weight").rstrip(".") if weight.rpartition(".")[2] == "weight" else weight
    taken = {name for name, _ in program.graph_module.named_modules(remove_duplicate=False)}
    number, result = 1, base
    while any(f"{result}.{index}".lstrip(".") in taken for index in range(4)):
        number += 1
        result = f"{base}.factors_{number}".lstrip(".")
    return result


def _register(program: Program, name: str, value: Tensor, learns: bool) -> None:
    *path, leaf = name.split(".")
    owner: nn.Module = program.graph_module
    for part in path:
        if part not in owner._modules:
            owner.add_module(part, nn.Module())
        owner = owner.get_submodule(part)
    owner.register_parameter(leaf, nn.Parameter(value.detach().clone().contiguous(), requires_grad=learns))


def _layer(site: Site, rank: int, factor: Factor, read: fx.Node, weight: fx.Node, bias: fx.Node | None) -> fx.Node:
    """Insert one layer of a chain."""
    row = row_of(site.node)
    if not rank:
        return _call(site, aten.linear.default, read, weight, bias)
    stride, dilation = (list(site.along(position, factor.axes, 1)) for position in (row.stride, row.dilation))
    given = argument(site.node, row.padding)
    if isinstance(given, str) and factor.axes:
        return _call(site, _CONVOLUTION[rank].padding, read, weight, bias, stride, given, dilation, factor.groups)
    padding = [0] * rank if isinstance(given, str) else list(site.along(row.padding, factor.axes, 0))
    if row.transposed and factor.axes:
        more = list(spread(argument(site.node, row.output_padding), rank))
        return _call(site, _TRANSPOSED[rank], read, weight, bias, stride, padding, more, factor.groups, dilation)
    return _call(site, _CONVOLUTION[rank].default, read, weight, bias, stride, padding, dilation, factor.groups)


def _call(site: Site, target: Any, *given: Any) -> fx.Node:
    """Insert an operator as export writes it: without the last arguments where these are the schema's defaults."""
    args, specs = list(given), target._schema.arguments
    while specs[len(args) - 1].has_default_value() and args[-1] == specs[len(args) - 1].default_value:
        args.pop()
    return site.program.graph.call_function(target, tuple(args))


def _describe(site: Site, node: fx.Node, factor: Factor, path: str, last: bool) -> None:
    """Say of an inserted layer what capture says of others: its value's shape and its module."""
    stack: dict[str, Any] = dict(site.node.meta.get("nn_module_stack") or {})
    kind = _kind(site, factor)
    node.meta["nn_module_stack"] = {
        **stack,
        f"{next(reversed(stack), '')}.{path.rpartition('.')[2]}": (path, f"{kind.__module__}.{kind.__qualname__}"),
    }
    whole = site.node.meta["val"]
    if last:
        node.meta["val"] = whole
        return
    rank, before = len(site.kernel), node.args[0].meta["val"]  # type: ignore[union-attr]
    sizes = list(before.shape)
    sizes[len(sizes) - 1 - rank] = factor.weight.shape[0]
    for axis in factor.axes:
        sizes[len(sizes) - rank + axis] = whole.shape[whole.dim() - rank + axis]
    node.meta["val"] = before.new_empty(sizes)


def _kind(site: Site, factor: Factor) -> type[nn.Module]:
    rank = len(site.kernel)
    if not rank:
        return nn.Linear
    plain = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    transposed = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    return (transposed if row_of(site.node).transposed and factor.axes else plain)[rank - 1]
