"""The weights that can be sparse, of a Program or a plain module, and the matrix that each one is.

Shapes: O output channels, I input channels (of one group), K places of a kernel.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, fx, nn

from laconic.core.operators import exchanged, groups_of, row_of
from laconic.core.program import Program
from laconic.core.records import Skipped
from laconic.core.weights import NamedWeight, stored_weights

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
class Weight(NamedWeight):
    """A parameter of two dimensions or more that a convolution, linear or recurrent layer multiplies with.

    Attributes:
        exchanged: groups of the layer where its tensor stands inputs first; 0: outputs first.
        reader: the node of the layer, in a program.
    """

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


def weights_of(model: nn.Module) -> tuple[list[Weight], list[Skipped]]:
    """Return the weights that can be sparse, each once, in the order in which they are read, and the layers whose weight is computed, with the reason."""
    return _of_program(model) if isinstance(model, Program) else (_of_module(model), [])


def _of_program(program: Program) -> tuple[list[Weight], list[Skipped]]:
    found, skipped = stored_weights(program, reads=lambda row: row.is_layer or row.family == "recurrent")
    return [Weight(one.name, one.path, one.parameter, _exchanged(one.reader), one.reader) for one in found], skipped


def _exchanged(reader: fx.Node) -> int:
    row = row_of(reader)
    return groups_of(reader) if row.is_layer and row.out_axis != 0 else 0


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
