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
from laconic.core.operators import argument, names_of, plain_name
from laconic.pruning.coupling import Coupling
from laconic.pruning.rules.reductions import reduced_axes
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
        masked = _MASKED.get(plain_name(n)) if n.op == "call_function" else None
        if masked is None or not self._reduces(n):
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        return masked(self, n, args, kwargs)

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


def _standardized(x: Tensor, mask: Tensor, axes: list[int], eps: float) -> Tensor:
    """Return x less its mean over its deviation along some axes, as far as the mask goes; 0 elsewhere."""
    count = mask.sum(axes, keepdim=True).clamp(min=1)
    mean = (x * mask).sum(axes, keepdim=True) / count
    var = ((x - mean).square() * mask).sum(axes, keepdim=True) / count
    return (x - mean) * (var + eps).rsqrt() * mask


def _norm(run: Masked, n: fx.Node, args: Any, kwargs: Any) -> Any:
    x, shape = args[0], args[1]
    axes = list(range(x.dim() - len(shape), x.dim()))
    mask = run.mask(n.args[0], axes, x).expand(x.shape).to(x.dtype)  # type: ignore[arg-type]
    weight = argument(n, 2)
    weight = run.env[weight] if isinstance(weight, fx.Node) else weight
    if plain_name(n) == "rms_norm":
        eps = argument(n, 3) or torch.finfo(x.dtype).eps
        result = x * ((x * mask).square().sum(axes, keepdim=True) / mask.sum(axes, keepdim=True) + eps).rsqrt()
        return result if weight is None else result * weight
    bias = argument(n, 3)
    bias = run.env[bias] if isinstance(bias, fx.Node) else bias
    result = _standardized(x, mask, axes, argument(n, 4))
    result = result if weight is None else result * weight
    return result if bias is None else result + bias


def _group_norm(run: Masked, n: fx.Node, args: Any, kwargs: Any) -> Any:
    x, groups = args[0], args[1]
    mask = run.mask(n.args[0], [1], x).expand(x.shape).to(x.dtype).reshape(x.shape[0], groups, -1)  # type: ignore[arg-type]
    parts = x.reshape(x.shape[0], groups, -1)
    result = _standardized(parts, mask, [-1], argument(n, 4)).reshape(x.shape)
    shape = [1, -1, *[1] * (x.dim() - 2)]
    for position, combine in ((2, torch.mul), (3, torch.add)):
        tensor = argument(n, position)
        if tensor is not None:
            result = combine(result, run.env[tensor].view(shape))
    return result


def _batch_norm(run: Masked, n: fx.Node, args: Any, kwargs: Any) -> Any:
    """Compute a batch-norm; only one that takes its statistics from what it reads, as standardized weights do, computes over removed slices."""
    if not argument(n, 5):
        return n.target(*args, **kwargs)  # type: ignore[operator]
    x = args[0]
    axes = [i for i in range(x.dim()) if i != 1]
    mask = run.mask(n.args[0], axes, x).expand(x.shape).to(x.dtype)  # type: ignore[arg-type]
    result = _standardized(x, mask, axes, argument(n, 7))
    shape = [1, -1, *[1] * (x.dim() - 2)]
    for tensor, combine in ((args[1], torch.mul), (args[2], torch.add)):
        result = result if tensor is None else combine(result, tensor.view(shape))
    return result


def _weight_norm(run: Masked, n: fx.Node, args: Any, kwargs: Any) -> Any:
    """Return the norm of a removed row is 0, and what is divided by it no number."""
    return torch.nan_to_num(n.target(*args, **kwargs))  # type: ignore[operator]


def _reduction(run: Masked, n: fx.Node, args: Any, kwargs: Any) -> Any:
    x = args[0]
    axes = reduced_axes(n, x.dim())
    mask = run.mask(n.args[0], axes, x)  # type: ignore[arg-type]
    if bool(mask.all()):
        return n.target(*args, **kwargs)  # type: ignore[operator]
    # pick what is there, axis by axis, and let the operator itself reduce it
    for axis in axes:
        along = mask.any([i for i in range(mask.dim()) if i != axis], keepdim=False) if mask.dim() > 1 else mask
        if len(along) > 1:
            x = x.index_select(axis, along.nonzero().flatten())
    return n.target(x, *args[1:], **kwargs)  # type: ignore[operator]


def _masked_inputs(run: Masked, n: fx.Node, args: Any, kwargs: Any) -> Any:
    """Compute products of two values: what was removed adds nothing."""
    masked = []
    for node, value in zip(n.args, args, strict=True):
        if isinstance(node, fx.Node) and isinstance(value, Tensor) and value.is_floating_point():
            value = value * run.mask(node, list(range(value.dim())), value).to(value.dtype)
        masked.append(value)
    return n.target(*masked, **kwargs)  # type: ignore[operator]


def _einsum(run: Masked, n: fx.Node, args: Any, kwargs: Any) -> Any:
    nodes: Any = n.args[1]
    values = [v * run.mask(node, list(range(v.dim())), v).to(v.dtype) for node, v in zip(nodes, args[1], strict=True)]
    return n.target(args[0], values, *args[2:], **kwargs)  # type: ignore[operator]


_MASKED = {
    **dict.fromkeys(("layer_norm", "rms_norm"), _norm),
    **dict.fromkeys(("mean", "sum", "amax", "amin", "var", "std", "var_mean", "std_mean", "linalg_vector_norm", "logsumexp"), _reduction),
    **dict.fromkeys((*names_of("matrix product", "attention"), "addmm"), _masked_inputs),
    "batch_norm": _batch_norm,
    "_weight_norm": _weight_norm,
    "group_norm": _group_norm,
    "einsum": _einsum,
}
