"""Masks: which weights are zero, held there through any training by a hook that follows each optimizer step.

Zeros are stored in the parameter itself. Nothing is multiplied in the graph, so placement, folding and export see a weight like any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from laconic.core.errors import BadInput, nearest
from laconic.core.hook import StatefulHook


class Masks(StatefulHook):
    """Holds weights at zero, whatever the optimizer did to them.

    Args:
        kept: by name of a parameter, which of its numbers stay: booleans of its shape.
    """

    def __init__(self, kept: Mapping[str, Tensor]) -> None:
        self.kept = dict(kept)

    @classmethod
    def of_zeros(cls, model: nn.Module, names: Iterable[str] | None = None) -> Masks:
        """Return the masks that hold the zeros which these parameters have now; None: all of two dimensions or more that have some.

        Raises:
            BadInput: there is no such parameter.
        """
        known = _parameters(model)
        if names is None:
            names = [name for name, p in known.items() if p.dim() > 1 and bool((p == 0).any())]
        return cls({name: _parameter(known, name).detach() != 0 for name in names})

    @property
    def masks(self) -> Masks:
        """Itself, as other hooks have their masks."""
        return self

    def __call__(self, model: nn.Module, progress: float) -> None:
        """See `StatefulHook`."""
        self.apply(model)

    @torch.no_grad()
    def apply(self, model: nn.Module) -> None:
        """Set what is masked to zero.

        Raises:
            BadInput: the model lacks a parameter, or has it in another shape.
        """
        known = _parameters(model) if self.kept else {}
        for name, kept in self.kept.items():
            parameter = _parameter(known, name)
            if parameter.shape != kept.shape:
                raise BadInput(f"the mask of '{name}' is for the shape {tuple(kept.shape)}; the parameter's is {tuple(parameter.shape)}")
            self.kept[name] = kept = kept.to(parameter.device)
            parameter.masked_fill_(~kept, 0)  # not a product: −1 · 0 is −0, and other bytes

    def state(self) -> dict[str, Tensor]:
        """See `StatefulHook`."""
        return dict(self.kept)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """See `StatefulHook`."""
        self.kept = dict(state)


def _parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    return dict(model.named_parameters(remove_duplicate=False))


def _parameter(known: Mapping[str, nn.Parameter], name: str) -> nn.Parameter:
    if name not in known:
        raise BadInput(f"the model has no parameter '{name}'." + nearest(name, known))
    return known[name]
