"""Rounding with compensation: what a number of a layer's weight errs, those right of it make up for, as far as the layer's inputs let them.

The layer's squared output error is tr(ΔW · G · ΔWᵀ), G the Gram matrix of its inputs. Columns are rounded one after the other; of each one's error, the least
squares answer is put on the columns behind it (optimal brain quantization, in one order of columns for all rows: Frantar et al. 2023, GPTQ, algorithm 1).

Shapes: O output channels, C columns (inputs, of a kernel at each of its places), k levels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, fx

from laconic.core.calibrate import calibration_batches, observe
from laconic.core.context import Context
from laconic.core.gram import Gram, fits, inverse_factor
from laconic.core.operators import argument, outputs_first, row_of
from laconic.core.program import Program
from laconic.core.weights import StoredWeight

_BLOCK = 128  # columns that are finished before the rest is told of their errors
_BATCH = 32


def grams(program: Program, weights: Sequence[StoredWeight], context: Context, examples: int) -> list[Tensor | None]:
    """Return the mean of the inputs' outer products of each weight's layer (C, C), `shrunk`; None where no layer's inputs fold into one of moderate size.

    Args:
        program: in eval mode.
        weights: of its own.
        context: with a task that has data.
        examples: of the train data.
    """
    found: list[Gram | None] = []
    watchers: dict[fx.Node, list[Gram]] = {}
    for weight in weights:
        node = weight.reader
        layer = row_of(node).is_layer and argument(node, row_of(node).weight).target == weight.name  # not its bias
        if not layer or not fits(node, weight.parameter):
            found.append(None)
            continue
        gram = Gram(node, tuple(outputs_first(weight.parameter, node).shape[2:]))
        watchers.setdefault(argument(node, row_of(node).inputs[0]), []).append(gram)
        found.append(gram)
    if watchers:
        observe(program, watchers, calibration_batches(context, examples, _BATCH, program), context.progress)
    return [None if gram is None or gram.total is None else shrunk(gram.mean, gram.n) for gram in found]


def shrunk(gram: Tensor, rows: int) -> Tensor:
    """Return a Gram matrix with its diagonal mixed in, the more the fewer rows of inputs it was folded from: C / (C + rows) of it.

    Fewer rows than columns leave directions that no input was seen in. There numbers would be free to err, and inputs of other examples go there.
    """
    share = len(gram) / (len(gram) + rows)
    return torch.lerp(gram, gram.diagonal().diag(), share)


def compensated(weight: Tensor, gram: Tensor, nearest: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Return a weight each number of which is one of its levels, the later ones chosen so that they make up for the earlier ones' errors.

    Args:
        weight: (O, C).
        gram: (C, C), of the layer's inputs.
        nearest: `(values (O,), column) -> levels (O,)`.
    """
    factor, left = inverse_factor(gram), weight.double().clone()
    for start in range(0, left.shape[1], _BLOCK):
        stop = min(start + _BLOCK, left.shape[1])
        errors = torch.zeros_like(left[:, start:stop])
        for j in range(start, stop):
            column = left[:, j].clone()
            left[:, j] = nearest(column, j)
            errors[:, j - start] = (column - left[:, j]) / factor[j, j]
            left[:, j + 1 : stop] -= errors[:, j - start, None] * factor[j, j + 1 : stop]
        left[:, stop:] -= errors @ factor[start:stop, stop:]
    return left.to(weight.dtype)
