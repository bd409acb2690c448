"""Biases of integer kernels: whole numbers of 32 bits, in steps of the product of the input's step and the weight's.

A channel whose weights are tiny beside its bias would need a larger number than 32 bits hold, so its weight's step is bounded from below:
`step ≥ |bias| / (input step · 2^30)`. With the bound its bias and the sum of its products fit, and what the wider step costs the weights is below what the
bias shows. A bias that is rounded in the program as the kernel rounds it makes the program and the file one computation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from laconic.core.fake_quant import (
    LEARNED_CHANNEL,
    LEARNED_TENSOR,
    PER_CHANNEL,
    PER_TENSOR,
    TINY,
    Quantizer,
    is_dynamic,
    is_fake_quant,
    quantizer_of,
    weight_of,
)
from laconic.core.folding import affine, normalizes_channels
from laconic.core.graph import free_name, get_tensor, set_parameter
from laconic.core.norms import normalizes_by_batch
from laconic.core.operators import argument, family_of, operator_of, set_bias
from laconic.core.program import Program

# Half of what an int32 holds; the other half is for the sum of products.
LARGEST = 2**30
# Steps and their products are of single precision, so a bias may come out that much larger than its bound.
_SINGLE = 1 + 2**-20


def least_steps(bias: Tensor, input_step: float) -> Tensor:
    """Return the smallest step of each output channel's weights with which its bias fits.

    Args:
        bias: (O,).
        input_step: of the layer's input.

    Returns:
        (O,), in double precision.
    """
    return bias.detach().double().abs() / (input_step * LARGEST)


@dataclass(frozen=True)
class Layer:
    """An operator whose input and weight are rounded to fixed grids. `bias` is an attribute, None where there is none or where it is computed."""

    node: fx.Node
    input: fx.Node
    weight: fx.Node
    bias: fx.Node | None


def integer_layers(program: Program) -> Iterator[Layer]:
    """Yield the layers that runtimes compute in integers, in order."""
    for node in program.graph.nodes:
        row = operator_of(node)
        if row is None or not row.is_layer:
            continue
        source, kernel, bias = argument(node, row.inputs[0]), argument(node, row.weight), argument(node, row.bias)
        if is_fake_quant(source) and not is_dynamic(source) and is_fake_quant(kernel) and weight_of(kernel) is not None:
            stored = isinstance(bias, fx.Node) and bias.op == "get_attr" and get_tensor(program, bias).dim() == 1
            yield Layer(node, source, kernel, bias if stored else None)


@torch.no_grad()
def bound_steps(program: Program) -> int:
    """Widen, in place, the weights' steps that leave their bias no room; a batch-norm behind a layer counts as folded into it.

    Returns:
        How many steps were widened.
    """
    count = 0
    for layer in integer_layers(program):
        bias, factor = _effective(program, layer)
        grid = quantizer_of(program.graph_module, layer.weight)
        if bias is None or grid.group:
            continue
        least = _SINGLE * least_steps(bias, float(quantizer_of(program.graph_module, layer.input).scale)) / factor.abs().clamp(min=1e-30)
        least = least.max().reshape(1) if grid.axis is None else least
        source = weight_of(layer.weight)
        assert source is not None
        wider = _wider(grid, least, get_tensor(program, source), layer.weight.target in (LEARNED_TENSOR, LEARNED_CHANNEL))
        if not torch.equal(wider, grid.scale):
            count += int((wider != grid.scale).sum())
            _set_step(program, layer.weight, wider)
    return count


def _wider(grid: Quantizer, least: Tensor, weight: Tensor, learned: bool) -> Tensor:
    """Return the steps with room for the biases; that of a dead slice is free, and the smallest keeps most of its bias."""
    step = torch.where(grid.scale == 0, torch.ones_like(grid.scale), grid.scale).double()
    wider = torch.maximum(step, least)
    if not learned:
        largest = weight.abs().max().reshape(1) if grid.axis is None else weight.movedim(grid.axis, 0).flatten(1).abs().amax(1)
        wider = torch.where((largest == 0) & (least > 0), least.clamp(min=TINY), wider)
    return wider.float()


def _effective(program: Program, layer: Layer) -> tuple[Tensor | None, Tensor]:
    """Return the bias that the file will have, and the factor of the weights in it."""
    bias = None if layer.bias is None else get_tensor(program, layer.bias)
    norm = next(iter(layer.node.users)) if len(layer.node.users) == 1 else None
    weight = weight_of(layer.weight)
    assert weight is not None
    folded = norm is not None and family_of(norm) == "batch norm" and norm.args[0] is layer.node and not normalizes_by_batch(norm)
    if norm is None or not folded or not normalizes_channels(program, layer.node, weight):
        return bias, torch.ones(())
    factor, shift = affine(program, norm)
    return shift if bias is None else bias.double() * factor + shift, factor


def _set_step(program: Program, node: fx.Node, step: Tensor) -> None:
    if node.target is PER_TENSOR:
        node.update_arg(1, float(step))
        program.graph_module.recompile()
        return
    assert node.target in (PER_CHANNEL, LEARNED_TENSOR, LEARNED_CHANNEL)
    get_tensor(program, node.args[1]).copy_(step)  # type: ignore[arg-type]


@torch.no_grad()
def round_biases(program: Program) -> int:
    """Round, in place, the biases of integer layers to whole steps of their products; a bias that several layers read becomes one for each.

    Returns:
        How many biases were rounded.
    """
    layers = [layer for layer in integer_layers(program) if layer.bias is not None]
    readers: dict[int, int] = {}
    for node in program.graph.nodes:
        if node.op == "get_attr":
            tensor = id(get_tensor(program, node))
            readers[tensor] = readers.get(tensor, 0) + len(node.users)
    for layer in layers:
        assert layer.bias is not None
        old = get_tensor(program, layer.bias)
        step = _product_step(program, layer)
        rounded = (torch.round(old.double() / step) * step).to(old.dtype)
        if readers[id(old)] == 1:
            old.data.copy_(rounded)
        elif not torch.equal(rounded, old):
            _own_bias(program, layer, rounded)
    program.graph_module.recompile()
    return len(layers)


def _product_step(program: Program, layer: Layer) -> Tensor:
    """Return the step of an accumulator in single precision, as runtimes compute it: shape (O,) or (1,)."""
    module = program.graph_module
    return (quantizer_of(module, layer.input).scale.float() * quantizer_of(module, layer.weight).scale.float()).double()


def _own_bias(program: Program, layer: Layer, value: Tensor) -> None:
    assert layer.bias is not None
    name = free_name(program, str(layer.bias.target))
    set_parameter(program, name, value)
    with program.graph.inserting_before(layer.node):
        own = program.graph.get_attr(name)
    set_bias(layer.node, own)
