"""Weight sharing the slow way: a parameter of shared values that is looked up in forward."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call


class LookedUp(nn.Module):
    """A module whose parameters of two dimensions are read from codebooks: `book[codes]`, 0 where the number was 0."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.books, self.codes = nn.ParameterDict(), {}
        for name, p in list(module.named_parameters()):
            if p.dim() > 1:
                values, codes = p.detach()[p != 0].unique(return_inverse=True)
                table = torch.full(p.shape, len(values))
                table[p != 0] = codes
                self.books[name.replace(".", "/")] = nn.Parameter(values)
                self.codes[name] = table
                p.requires_grad_(False)

    def weights(self) -> dict[str, Tensor]:
        """Return the parameters as they are read."""
        return {name: torch.cat([self.books[name.replace(".", "/")], torch.zeros(1)])[codes] for name, codes in self.codes.items()}

    def forward(self, x: Tensor) -> Tensor:
        """Run the module with them."""
        return functional_call(self.module, self.weights(), (x,))
