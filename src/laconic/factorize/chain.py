"""A layer as a chain of smaller ones: the weights of each, what they amount to together, and in which ranges the values between them lie.

Shapes: G groups; O, I output and input channels of one group; K places of the kernel, all axes together; R channels between two layers of a chain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from laconic.factorize.moments import Moment


@dataclass(frozen=True)
class Factor:
    """One layer of a chain.

    Attributes:
        weight: (O, I/G, *kernel), the output channels of all groups first.
        groups: of the channels.
        axes: of the kernel, those that are the old layer's, with its stride, padding and dilation; along the others it is 1.
    """

    weight: Tensor
    groups: int = 1
    axes: tuple[int, ...] = ()

    @property
    def dense(self) -> Tensor:
        """The weight with the zeros between groups: (O, I, *kernel)."""
        if self.groups == 1:
            return self.weight
        outputs, inputs, *kernel = self.weight.shape
        result = self.weight.new_zeros(outputs, self.groups * inputs, *kernel)
        for group, part in enumerate(self.weight.chunk(self.groups)):
            rows = slice(group * outputs // self.groups, (group + 1) * outputs // self.groups)
            result[rows, group * inputs : (group + 1) * inputs] = part
        return result


Chain = tuple[Factor, ...]


def composed(chain: Sequence[Factor]) -> Tensor:
    """Return the one weight that a chain amounts to: (O, I, *kernel), with the zeros between groups.

    Each axis of the kernel belongs to one factor, so the kernels multiply.
    """
    result = chain[0].dense
    for factor in chain[1:]:
        result = torch.einsum("oa...,ai...->oi...", factor.dense, result)
    return result


def by_group(weight: Tensor, groups: int) -> Tensor:
    """Return the blocks of a dense weight (G·O, G·I, …) that lie within groups: (G, O, I, …)."""
    blocks = [rows.chunk(groups, 1)[group] for group, rows in enumerate(weight.chunk(groups))]
    return torch.stack(blocks)


def balanced(chain: Chain, moment: Moment) -> Chain:
    """Scale the channels between the layers of a chain to one size, which changes nothing of what it computes.

    Singular vectors come out with the largest far above the others, and integers of 8 bits with one step for all channels would round the others away: with
    equal sizes the rounding moves the output least.

    Args:
        chain: of a layer.
        moment: of the layer's inputs; the size of a channel is the root of its mean square.
    """
    result = list(chain)
    for i in range(len(result) - 1):
        size = moment.sizes(composed(result[: i + 1]))
        size = torch.where(size > 0, size, torch.ones_like(size))
        size = size / size.log().mean().exp()
        first, second = result[i], result[i + 1]
        result[i] = replace(first, weight=first.weight / _along(size, first.weight.dim(), 0))
        # of a grouped layer, the inputs of each output are those of its own group
        outputs, inputs = second.weight.shape[:2]
        scale = size.reshape(second.groups, 1, inputs).expand(-1, outputs // second.groups, -1).reshape(outputs, inputs)
        result[i + 1] = replace(second, weight=second.weight * scale.reshape(*scale.shape, *[1] * (second.weight.dim() - 2)))
    return tuple(result)


def _along(numbers: Tensor, rank: int, axis: int) -> Tensor:
    return numbers.reshape([-1 if i == axis else 1 for i in range(rank)])


def count(chain: Sequence[Factor]) -> int:
    """Return the number of weights in a chain."""
    return sum(math.prod(factor.weight.shape) for factor in chain)
