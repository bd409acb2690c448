"""The table of ways to write a layer as a chain, and which of them a layer allows."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from laconic.factorize.canonical import Canonical
from laconic.factorize.depthwise import Depthwise
from laconic.factorize.method import Method
from laconic.factorize.moments import Moment
from laconic.factorize.projections import Input, Output, Spatial, Tucker

METHODS: dict[str, type[Method]] = {
    "output": Output,
    "input": Input,
    "spatial": Spatial,
    "tucker": Tucker,
    "depthwise": Depthwise,
    "canonical": Canonical,
}


def allowed(weight: Tensor, transposed: bool, names: Sequence[str], moment: Moment) -> dict[str, Method]:
    """Return the ways that a layer allows, of those named: for a matrix `output`, for a transposed convolution `input`, whether these are named or not.

    Args:
        weight: (G, O, I, *kernel), in float64.
        transposed: of a transposed convolution.
        names: of `METHODS`.
        moment: of the layer's inputs.
    """
    kernel = weight.shape[3:]
    fitting = ("input",) if transposed else ("output",) if math.prod(kernel) == 1 else names
    made = {name: METHODS[name](weight, moment) for name in fitting}
    return {name: method for name, method in made.items() if method.fits()}
