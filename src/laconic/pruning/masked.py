"""The program with removed slices at zero: what a pruned program must compute.

Operators that compute over a dimension of which slices were removed (a mean, a layer norm, a product of two activations) see fewer numbers afterwards; there
a mask stands in place of the operator.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from laconic.core.graph import get_tensor
from laconic.pruning.coupling import Coupling
from laconic.pruning.rules import rule_of
from laconic.pruning.surgery import Keep
from laconic.pruning.trace import DYNAMIC, carries, is_ids


class Masked(fx.Interpreter):
    """Runs a coupling's program, which must be in eval mode, with the slices of all removed components at zero.

    Args:
        keep: of each component, whether it stays.
        tensors: by canonical name, values that stand for the program's parameters and buffers.
    """

    def __init__(self, coupling: Coupling, keep: Keep, tensors: Mapping[str, Tensor] | None = None) -> None:
        super().__init__(coupling.program.graph_module)
        self.extra_traceback = False
        self.coupling, self.kept = coupling, keep[coupling.label]
        self.tensors = tensors or {}
        self.names = {id(tensor): name for name, tensor in coupling.parameters()} | coupling.names

    def run_node(self, n: fx.Node) -> Any:
        """See `fx.Interpreter`."""
        if n.op == "get_attr":
            return self._attribute(n)
        row = rule_of(n.target) if n.op == "call_function" else None
        if row is None or row.mask is None or not self._reduces(n):
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        return row.mask(self, n, args, kwargs)

    def _attribute(self, node: fx.Node) -> Tensor:
        """Return a copy of a tensor, for operators may write into it; a parameter's removed slices are zero."""
        tensor = get_tensor(self.coupling.program, node)
        name = self.names.get(id(tensor), "")
        value = self.tensors.get(name, tensor).detach().clone()
        if isinstance(tensor, nn.Parameter):
            for dim, ids in enumerate(self.coupling.tensors.get(name, [])):
                if ids is not None and not self.kept[ids].all():
                    value.movedim(dim, 0)[torch.from_numpy(~self.kept[ids])] = 0
        return value

    def _reduces(self, node: fx.Node) -> bool:
        return any(type(self._value(v)) is tuple and any(carries(d) for d in self._value(v)) for v in node.all_input_nodes)

    def _value(self, node: fx.Node) -> Any:
        return self.coupling.values.get(node)

    def mask(self, node: fx.Node, axes: list[int], value: Tensor) -> Tensor:
        """Return 1 where indices along these axes survive, broadcastable to `value`."""
        result = torch.ones([1] * value.dim(), dtype=torch.bool, device=value.device)
        dims = self._value(node)
        if dims is None:
            return result
        for axis in axes:
            if carries(dims[axis]):
                parts = [torch.from_numpy(self.kept[ids]) if is_ids(ids) else None for _, ids in dims[axis]]
                sizes = [1 if ids is DYNAMIC else n for n, ids in dims[axis]]
                loose = [i for i, (_, ids) in enumerate(dims[axis]) if ids is DYNAMIC]
                if loose:  # where there are two, they lie side by side
                    sizes[loose[0]] = value.shape[axis] // int(np.prod(sizes))
                flat = torch.ones(sizes, dtype=torch.bool)
                for i, part in enumerate(parts):
                    if part is not None:
                        flat &= part.view([-1 if i == j else 1 for j in range(len(sizes))])
                shape = [-1 if i == axis % value.dim() else 1 for i in range(value.dim())]
                result = result & flat.reshape(shape).to(value.device)
        return result
