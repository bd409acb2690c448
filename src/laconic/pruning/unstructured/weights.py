"""The weights that can be sparse, of a Program or a plain module, and the matrix that each one is.

Shapes: O output channels, I input channels (of one group), K places of a kernel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx, nn

from laconic.core.errors import BadInput, nearest
from laconic.core.graph import get_tensor, live_nodes, module_path
from laconic.core.operators import argument, exchanged, groups_of, is_stored, operator_of
from laconic.core.program import Program
from laconic.core.records import Skipped

# class of a module -> whether its weight stands inputs first. Recurrent ones have several weights, all of them with a row for each output.
_MODULES: dict[type[nn.Module], bool] = {
    nn.Linear: False,
    nn.Conv1d: False,
    nn.Conv2d: False,
    nn.Conv3d: False,
    nn.ConvTranspose1d: True,
    nn.ConvTranspose2d: True,
    nn.ConvTranspose3d: True,
    nn.LSTM: False,
    nn.GRU: False,
    nn.RNN: False,
}


@dataclass(frozen=True, eq=False)
class Weight:
    """A parameter of two dimensions or more that a convolution, linear or recurrent layer multiplies with.

    Attributes:
        name: of the parameter.
        path: module path of the layer that reads it first.
        parameter: itself.
        exchanged: groups of the layer where its tensor stands inputs first; 0: outputs first.
        reader: the node of the layer, in a program.
    """

    name: str
    path: str
    parameter: nn.Parameter
    exchanged: int = 0
    reader: fx.Node | None = field(default=None, repr=False)

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
        return self._outputs_first(matrix.reshape(outputs, *kernel, inputs).movedim(-1, 1))

    def _outputs_first(self, tensor: Tensor) -> Tensor:
        return exchanged(tensor, self.exchanged) if self.exchanged else tensor

    def inside(self, paths: Sequence[str]) -> bool:
        """Return whether one of these is its name, its module path, or a module around it."""
        return any(path in (self.name, self.path) or self.path.startswith(f"{path}.") for path in paths)


def weights_of(model: nn.Module) -> tuple[list[Weight], list[Skipped]]:
    """Return the weights that can be sparse, each once, in the order in which they are read, and the layers whose weight is computed, with the reason."""
    return _of_program(model) if isinstance(model, Program) else (_of_module(model), [])


def _of_program(program: Program) -> tuple[list[Weight], list[Skipped]]:
    found: dict[int, Weight] = {}
    skipped = []
    live = live_nodes(program.graph)
    for node in program.graph.nodes:
        row = operator_of(node) if node in live else None
        if row is None or not (row.is_layer or row.family == "recurrent"):
            continue
        path = module_path(node) or node.name
        swapped = groups_of(node) if row.is_layer and row.out_axis != 0 else 0
        for given in _listed(argument(node, row.weight)):
            tensor = get_tensor(program, given) if is_stored(given) else None
            if not isinstance(tensor, nn.Parameter) or not tensor.is_floating_point():
                skipped.append(Skipped(path, "its weight is computed, or no parameter"))
            elif tensor.dim() > 1:
                found.setdefault(id(tensor), Weight(str(given.target), path, tensor, swapped, node))
    return list(found.values()), skipped


def _listed(value: Any) -> Iterator[fx.Node]:
    for item in value if isinstance(value, (list, tuple)) else (value,):
        if isinstance(item, fx.Node):
            yield item


def _of_module(model: nn.Module) -> list[Weight]:
    found: dict[int, Weight] = {}
    for path, module in model.named_modules():
        if type(module) in _MODULES:
            swapped = int(module.groups) if _MODULES[type(module)] else 0
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.dim() > 1 and parameter.is_floating_point():
                    full = f"{path}.{name}".lstrip(".")
                    found.setdefault(id(parameter), Weight(full, path, parameter, swapped))
    return list(found.values())


def check_paths(weights: Sequence[Weight], paths: Sequence[str]) -> None:
    """Check that each path names a weight, its module, or a module around it.

    Raises:
        BadInput: one does not; names the nearest.
    """
    for path in paths:
        if not any(weight.inside((path,)) for weight in weights):
            known = [name for weight in weights for name in (weight.path, weight.name)]
            raise BadInput(f"freeze: there is no layer with a weight at '{path}'." + nearest(path, known))
