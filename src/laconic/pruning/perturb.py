"""Parameters under which every channel counts: a proof on a net whose last layer or scale is zero would pass whatever is cut.

New nets have such parameters on purpose (zero heads, a LayerScale of 1e-6, a last norm of zero in each residual block), pruned ones by training. Equal numbers
are no better: where all scales of a norm are one, a wrong slice of them looks like the right one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from laconic.core.norms import normalizes_by_batch
from laconic.core.operators import argument, family_of
from laconic.pruning.coupling import Coupling
from laconic.pruning.masked import Masked

_WEAK = 1e-3  # of the usual deviation of a weight
_WEAK_VECTOR = 1e-2  # of scales and shifts, which are near one where they matter
_DEAD = 1e-2  # of the mean variance: a channel below it is hardly alive
_ROUNDING = 1e-6  # of the squared mean: a variance below it is that of roundings


@torch.no_grad()
def perturbed(coupling: Coupling, inputs: tuple[Tensor, ...], seed: int = 0) -> dict[str, Tensor]:
    """Return tensors that stand for those of the program, by canonical name; the program itself is not changed.

    Numbers that are nearly zero are drawn anew, equal ones are spread, and batch-norms get the statistics of `inputs`, so that activations do not vanish on
    their way. The program must be in eval mode.
    """
    generator = torch.Generator().manual_seed(seed)
    result = {}
    for name, tensor in coupling.parameters():
        if tensor.is_floating_point():
            value = _lively(tensor.detach(), generator)
            if value is not None:
                result[name] = value
    norms = _Settled(coupling, result)
    norms.run(*inputs)
    return {**result, **norms.statistics}


def _lively(tensor: Tensor, generator: torch.Generator) -> Tensor | None:
    """Return a parameter whose numbers all count; None where they do already."""
    shape = tuple(tensor.shape)
    if not tensor.numel():
        return None
    if sum(size > 1 for size in shape) > 1:
        usual = float(tensor.numel() / shape[0]) ** -0.5
        weak = tensor.abs() < _WEAK * usual
        drawn = torch.randn(shape, generator=generator) * usual
    else:  # scales, shifts, single numbers: positive ones, since some are divisors or exponents
        weak = tensor.abs() < _WEAK_VECTOR
        drawn = 0.1 + 0.4 * torch.rand(shape, generator=generator)
    drawn = drawn.to(tensor)
    if bool(weak.any()):
        return torch.where(weak, drawn, tensor)
    if tensor.numel() > 1 and bool((tensor == tensor.flatten()[0]).all()):
        return tensor * (0.8 + 0.4 * torch.rand(shape, generator=generator)).to(tensor)
    return None


class _Settled(Masked):
    """Runs the whole program and gives each batch-norm the mean and variance of what it reads."""

    def __init__(self, coupling: Coupling, tensors: dict[str, Tensor]) -> None:
        super().__init__(coupling, coupling.everything(), tensors)
        self.statistics: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        """See `fx.Interpreter`."""
        if family_of(n) == "batch norm" and not normalizes_by_batch(n):
            x = self.env[n.args[0]]  # type: ignore[index]
            if x.numel() // x.shape[1] > 1:
                self._settle(n, x)
        return super().run_node(n)

    def _settle(self, n: fx.Node, x: Tensor) -> None:
        """Replace statistics and scale: activations small beside the norm's epsilon come out as large as others."""
        var, mean = torch.var_mean(x, [axis for axis in range(x.dim()) if axis != 1], correction=0)
        usual = float(var.mean())
        if usual <= _ROUNDING * float(mean.square().mean()):
            return
        var = var.clamp(min=_DEAD * usual)
        self._replace(n.args[3], mean)
        self._replace(n.args[4], var)
        scale = n.args[1]
        if isinstance(scale, fx.Node) and scale.op == "get_attr":
            self._replace(scale, self.env[scale] * (1 + argument(n, 7) / var).sqrt())

    def _replace(self, source: Any, value: Tensor) -> None:
        if isinstance(source, fx.Node) and source.op == "get_attr":
            self.statistics[self.coupling.name(source)] = self.env[source] = value
