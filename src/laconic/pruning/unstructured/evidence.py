"""What criteria of single weights look at beside the weights: gradients of the loss, and the inputs that columns are multiplied with.

Shapes: O output channels, I input channels, K places of a kernel, C = K · I columns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from laconic.core.context import Context
from laconic.core.errors import BadInput
from laconic.core.gram import Gram, fits, patches
from laconic.core.loss import borrowed, examples_of
from laconic.core.operators import argument, outputs_first, row_of
from laconic.core.program import Program
from laconic.pruning.collect import task_with
from laconic.pruning.unstructured.criteria import Need, Seen, weight_criteria
from laconic.pruning.unstructured.weights import Weight

_BATCH = 32


def look(program: Program, weights: Sequence[Weight], need: Need, context: Context, examples: int) -> dict[str, Seen]:
    """Run the program in evaluation mode over examples of the train data; return what was seen of each weight, by name.

    Weights whose inputs cannot be folded (grouped, transposed and recurrent layers, very wide ones) are left out of what is seen of inputs.

    Raises:
        BadInput: data or loss are missing, or a gradient is not finite.
    """
    if not need:
        return {}
    of_gradients = _GRADIENTS.get(need)
    kinds = ["activations"] if of_gradients is None else ["gradients"]
    task = task_with(context, kinds, [name for name, row in weight_criteria().items() if not row.needs])
    loader = examples_of(task, context.seed, examples, program.interface.loading(_BATCH))
    folds = _Inputs(program, weights, need) if of_gradients is None else of_gradients(weights)
    with borrowed(program, [weight.parameter for weight in weights] if of_gradients is not None else ()):
        for batch in loader:
            inputs, target = task.split(batch)
            leaves = program.flatten_inputs(inputs)
            if isinstance(folds, _Gradients):
                assert task.loss is not None
                folds.fold(task.loss(program.unflatten_outputs(program.graph_module(*leaves)), target))
            else:
                folds.fold(leaves)
    return folds.finish()


class _Gradients(ABC):
    """Means over batches of what gradients say."""

    def __init__(self, weights: Sequence[Weight]) -> None:
        self.weights, self.batches = weights, 0
        self.total = [torch.zeros_like(weight.parameter, requires_grad=False) for weight in weights]

    @abstractmethod
    def told(self, gradient: Tensor) -> Tensor:
        """Return what is averaged of a gradient."""

    @abstractmethod
    def seen(self, weight: Weight, mean: Tensor) -> Seen:
        """Return what the mean says of a weight."""

    def fold(self, loss: Tensor) -> None:
        gradients = torch.autograd.grad(loss, [weight.parameter for weight in self.weights], allow_unused=True)
        for weight, total, gradient in zip(self.weights, self.total, gradients, strict=True):
            if gradient is not None:
                if not bool(gradient.isfinite().all()):
                    raise BadInput(f"the gradient of {weight.name} is not finite. Look for bad examples or an overflow in the model.")
                total += self.told(gradient)
        self.batches += 1

    def finish(self) -> dict[str, Seen]:
        return {weight.name: self.seen(weight, total / self.batches) for weight, total in zip(self.weights, self.total, strict=True)}


class _Slopes(_Gradients):
    """Gradients, times the weights."""

    def told(self, gradient: Tensor) -> Tensor:
        return gradient

    def seen(self, weight: Weight, mean: Tensor) -> Seen:
        value = weight.parameter.detach()
        return Seen(weight.matrix(value), slope=weight.matrix(mean * value))


class _Bends(_Gradients):
    """Squared gradients."""

    def told(self, gradient: Tensor) -> Tensor:
        return gradient.square()

    def seen(self, weight: Weight, mean: Tensor) -> Seen:
        return Seen(weight.matrix(weight.parameter.detach()), bend=weight.matrix(mean))


_GRADIENTS: Mapping[Need, Callable[[Sequence[Weight]], _Gradients]] = {"slope": _Slopes, "bend": _Bends}


class _Power:
    """Sums of squares of what the columns of a layer are multiplied with."""

    def __init__(self, node: fx.Node, kernel: tuple[int, ...]) -> None:
        self.node, self.kernel, self.total = node, kernel, torch.zeros(())

    def fold(self, x: Tensor) -> None:
        self.total = self.total + patches(self.node, x, self.kernel).square().sum(0)


class _Inputs:
    """Sums over what the weights' layers read."""

    def __init__(self, program: Program, weights: Sequence[Weight], need: Need) -> None:
        self.program, self.need = program, need
        self.folds: dict[str, Any] = {}
        readers: dict[fx.Node, list[Any]] = {}
        for weight in weights:
            node = weight.reader
            if node is not None and row_of(node).is_layer and fits(node, weight.parameter):
                kernel = tuple(outputs_first(weight.parameter, node).shape[2:])
                fold = self.folds[weight.name] = Gram(node, kernel) if need == "gram" else _Power(node, kernel)
                readers.setdefault(argument(node, row_of(node).inputs[0]), []).append(fold)
        self.weights = {weight.name: weight for weight in weights}
        self.watch = _Watch(program, readers)

    @torch.no_grad()
    def fold(self, leaves: Sequence[Tensor]) -> None:
        self.watch.run(*leaves)

    def finish(self) -> dict[str, Seen]:
        result = {}
        for name, fold in self.folds.items():
            weight = self.weights[name]
            matrix = weight.matrix(weight.parameter.detach())
            order = _order(weight).to(matrix.device)
            if self.need == "gram":
                result[name] = Seen(matrix, gram=fold.mean[order][:, order])
            else:
                result[name] = Seen(matrix, power=fold.total[order])
        return result


def _order(weight: Weight) -> Tensor:
    """Return where the columns of `Weight.matrix` (places, then channels) stand among those of patches (channels, then places)."""
    _, inputs, *kernel = weight.shape
    places = torch.Size(kernel).numel()
    return torch.arange(inputs * places).view(inputs, places).T.flatten()


class _Watch(fx.Interpreter):
    """Runs the program node by node and shows folds what they read, at the moment when it is made: an operator in place may change it later."""

    def __init__(self, program: Program, readers: Mapping[fx.Node, list[Any]]) -> None:
        super().__init__(program.graph_module)
        self.extra_traceback = False
        self.readers = readers

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        for fold in self.readers.get(n, ()):
            fold.fold(value)
        return value
