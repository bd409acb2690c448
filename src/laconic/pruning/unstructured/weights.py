"""The weights that can be sparse, of a Program or a plain module, and the matrix that each one is.

Shapes: O output channels, I input channels (of one group), K places of a kernel.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor, fx, nn

from laconic.core.graph import get_tensor, live_nodes, module_path
from laconic.core.operators import NORMS, argument, exchanged, family_of, groups_of, is_stored, plain_name, row_of
from laconic.core.program import Program
from laconic.core.records import Skipped
from laconic.core.weights import COMPUTED, NamedWeight, stored_weights

_WEIGHT, _STATES, _PROJECTIONS = re.compile("weight"), re.compile(r"weight_[ih][hr].*"), re.compile("(in|q|k|v)_proj_weight")
# class of a module, with those derived from it -> what its weights are called, and whether they stand inputs first
_MODULES: dict[type[nn.Module], tuple[re.Pattern[str], bool]] = {
    **dict.fromkeys((nn.Linear, nn.Bilinear, nn.Conv1d, nn.Conv2d, nn.Conv3d), (_WEIGHT, False)),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), (_WEIGHT, True)),
    **dict.fromkeys((nn.RNNBase, nn.RNNCellBase), (_STATES, False)),
    nn.MultiheadAttention: (_PROJECTIONS, False),
}
# Operators with a row for each output in their weights, of which the table of operators has none.
_CELLS = ("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
_TURNING = ("t", "numpy_T", "transpose", "permute")  # of a matrix: its sides change places
_NEVER = (*NORMS, "embedding")


@dataclass(frozen=True, eq=False)
class Weight(NamedWeight):
    """A parameter of two dimensions or more that a convolution, linear or recurrent layer multiplies with.

    Attributes:
        exchanged: groups of the layer where its tensor stands inputs first; 0: outputs first.
        reader: the node of the layer, in a program; None where it is no layer of one input.
        stacked: its tensor is a stack of matrices, whose outputs count one after the other.
    """

    exchanged: int = 0
    reader: fx.Node | None = field(default=None, repr=False)
    stacked: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Return (O, I, kernel …)."""
        return tuple(self._outputs_first(self.parameter).shape)

    def matrix(self, tensor: Tensor) -> Tensor:
        """Return a tensor of the weight's shape as (O, K · I): input channels next to each other, for each place of the kernel."""
        return self._outputs_first(tensor).movedim(1, -1).flatten(1)

    def tensor(self, matrix: Tensor) -> Tensor:
        """Return what `matrix` made of a tensor as that tensor."""
        outputs, inputs, *kernel = self.shape
        tensor = matrix.reshape(outputs, *kernel, inputs).movedim(-1, 1)
        return (exchanged(tensor, self.exchanged) if self.exchanged else tensor).reshape(self.parameter.shape)

    def _outputs_first(self, tensor: Tensor) -> Tensor:
        tensor = tensor.flatten(0, -2) if self.stacked else tensor
        return exchanged(tensor, self.exchanged) if self.exchanged else tensor


def weights_of(model: nn.Module) -> tuple[list[Weight], list[Skipped]]:
    """Return the weights that can be sparse, each once, in the order in which they are read, and what else has weights, with the reason why they cannot.

    Tables of embeddings and the scales of norms are not spoken of.
    """
    return _of_program(model) if isinstance(model, Program) else _of_module(model)


# Of a program ------------------------------------------------------------------------------------------------------------------------


def _of_program(program: Program) -> tuple[list[Weight], list[Skipped]]:
    layers, skipped = stored_weights(program, reads=lambda row: row.is_layer or row.family in ("recurrent", "bilinear"))
    found = {id(one.parameter): Weight(one.name, one.path, one.parameter, _exchanged(one.reader), one.reader) for one in layers}
    places = {node: place for place, node in enumerate(program.graph.nodes)}
    read = {key: places[weight.reader] for key, weight in found.items() if weight.reader is not None}
    for node, stored, parameter in _operands(program):
        if id(parameter) in found or family_of(node) in _NEVER:
            continue
        weight = _operand(node, stored, parameter)
        if weight is not None:
            found[id(parameter)], read[id(parameter)] = weight, places[node]
        else:
            skipped.append(Skipped(str(stored.target), f"{plain_name(node)} does not multiply with it as with a matrix"))
    told = ({weight.name for weight in found.values()}, tuple(f"{item.name}." for item in skipped if item.reason == COMPUTED))
    skipped = [item for item in dict.fromkeys(skipped) if item.name not in told[0] and not item.name.startswith(told[1])]
    return [found[key] for key in sorted(found, key=lambda key: read[key])], skipped


def _exchanged(reader: fx.Node) -> int:
    row = row_of(reader)
    return groups_of(reader) if row.is_layer and row.out_axis != 0 else 0


def _operands(program: Program) -> Iterator[tuple[fx.Node, fx.Node, nn.Parameter]]:
    """Yield each operator that an output depends on with each parameter of two dimensions or more that it reads as it is stored."""
    live = live_nodes(program.graph)
    for node in program.graph.nodes:
        for stored in node.all_input_nodes if node in live else ():
            tensor = get_tensor(program, stored) if is_stored(stored) else None
            if isinstance(tensor, nn.Parameter) and tensor.dim() > 1 and tensor.is_floating_point():
                yield node, stored, tensor


def _operand(node: fx.Node, stored: fx.Node, parameter: nn.Parameter) -> Weight | None:
    """Return the weight that an operator which is no layer multiplies with: a cell, or a product of matrices."""
    name, path = str(stored.target), module_path(node) or node.name
    if plain_name(node) in _CELLS:
        return Weight(name, path, parameter)
    turned = plain_name(node) in _TURNING and parameter.dim() == 2
    products = list(node.users) if turned else [node]
    value = node if turned else stored
    if not products or any(family_of(product) != "matrix product" for product in products):
        return None
    first, second = (argument(products[0], place) for place in row_of(products[0]).inputs)
    if first is second or any(argument(product, row_of(product).inputs[1]) is not second for product in products):
        return None
    inputs_first = (value is second) != turned
    batch = math.prod(parameter.shape[:-2])
    return Weight(name, path, parameter, batch if inputs_first else 0, stacked=parameter.dim() > 2)


# Of a module -------------------------------------------------------------------------------------------------------------------------


def _of_module(model: nn.Module) -> tuple[list[Weight], list[Skipped]]:
    found: dict[int, Weight] = {}
    skipped: list[Skipped] = []
    for path, module in model.named_modules():
        kind = next((base for base in type(module).__mro__ if base in _MODULES), None)
        if kind is None:
            continue
        called, inputs_first = _MODULES[kind]
        swapped = int(module.groups) if inputs_first else 0
        mine = [(name, p) for name, p in module.named_parameters(recurse=False) if called.fullmatch(name) and p.is_floating_point()]
        if not mine:
            skipped.append(Skipped(path, COMPUTED))
        for name, parameter in mine:
            found.setdefault(id(parameter), Weight(f"{path}.{name}".lstrip("."), path, parameter, swapped))
    return list(found.values()), skipped
