"""Proof that the compact program computes what the masked one does: random slices are set to zero, removed, and the outputs compared.

Operators that compute over a dimension of which slices were removed (a mean, a layer norm, a product of two activations) see fewer numbers afterwards; there
the zeroed program is run with a mask in place of the operator.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from laconic.core.program import Program, argument
from laconic.prune.coupling import DYNAMIC, Coupling, carries, is_ids, operator
from laconic.prune.rules import reduced_axes
from laconic.prune.surgery import Keep, remove


def random_choice(coupling: Coupling, share: float, seed: int = 0) -> Keep:
    """A choice that keeps about this share of the components of each group, one at least."""
    generator = np.random.default_rng(seed)
    keep = coupling.everything()
    for group in coupling.groups:
        keep[group.components] = generator.random(len(group)) < share
        if not keep[group.components].any():
            keep[group.components[0]] = True
    return keep


def equivalence(coupling: Coupling, keep: Keep, inputs: tuple[Tensor, ...] | None = None, pruned: Program | None = None) -> float:
    """Largest difference of outputs between the pruned and the zeroed program, relative to the largest output.

    Args:
        inputs: flat, as `Program.inputs`; by default the example.
        pruned: what `remove` made, if it was made before.
    """
    pruned = remove(coupling, keep) if pruned is None else pruned
    inputs = coupling.program.example_inputs() if inputs is None else inputs
    with torch.no_grad():
        expected = Masked(coupling, keep).run(*inputs)
        found = pruned.graph_module(*inputs)
    worst = 0.0
    for a, b in zip(found, expected, strict=True):
        if a.is_floating_point():
            scale = float(b.abs().max()) or 1.0
            worst = max(worst, float((a - b).abs().max()) / scale) if bool(torch.isfinite(a).all()) else float("inf")
    return worst


class Masked(fx.Interpreter):
    """Runs the program as it was, with the slices of all removed components at zero."""

    def __init__(self, coupling: Coupling, keep: Keep) -> None:
        program = copy.deepcopy(coupling.program).eval()
        super().__init__(program.graph_module)
        self.coupling, self.kept = coupling, keep[coupling.label]
        self.origin = dict(zip(program.graph.nodes, coupling.program.graph.nodes, strict=True))
        with torch.no_grad():
            for name, value in program.graph_module.named_parameters():
                old = coupling.program.graph_module.get_parameter(name)
                key = coupling.names.get(id(old))
                for dim, ids in enumerate(coupling.tensors.get(key, []) if key else []):
                    if ids is not None:
                        value.movedim(dim, 0)[torch.from_numpy(~self.kept[ids])] = 0

    def run_node(self, n: fx.Node) -> Any:
        """See `fx.Interpreter`."""
        old = self.origin[n]
        masked = _MASKED.get(operator(old)) if n.op == "call_function" else None
        if masked is None or not self._reduces(old):
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        return masked(self, old, n, args, kwargs)

    def _reduces(self, old: fx.Node) -> bool:
        return any(type(self._value(v)) is tuple and any(carries(d) for d in self._value(v)) for v in old.all_input_nodes)

    def _value(self, node: fx.Node) -> Any:
        return self.coupling.values.get(node)

    def mask(self, node: fx.Node, axes: list[int], value: Tensor) -> Tensor:
        """1 where indices along these axes survive, broadcastable to `value`."""
        found = torch.ones([1] * value.dim(), dtype=torch.bool)
        dims = self._value(node)
        if dims is None:
            return found
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
                found = found & flat.reshape([-1 if i == axis % value.dim() else 1 for i in range(value.dim())])
        return found


def _standardized(x: Tensor, mask: Tensor, axes: list[int], eps: float) -> Tensor:
    """x less its mean over its deviation along some axes, as far as the mask goes; 0 elsewhere."""
    count = mask.sum(axes, keepdim=True).clamp(min=1)
    mean = (x * mask).sum(axes, keepdim=True) / count
    var = ((x - mean).square() * mask).sum(axes, keepdim=True) / count
    return (x - mean) * (var + eps).rsqrt() * mask


def _norm(run: Masked, old: fx.Node, n: fx.Node, args: Any, kwargs: Any) -> Any:
    x, shape = args[0], args[1]
    axes = list(range(x.dim() - len(shape), x.dim()))
    mask = run.mask(old.args[0], axes, x).expand(x.shape).to(x.dtype)  # type: ignore[arg-type]
    weight = argument(n, 2)
    weight = run.env[weight] if isinstance(weight, fx.Node) else weight
    if operator(old) == "rms_norm":
        eps = argument(old, 3) or torch.finfo(x.dtype).eps
        found = x * ((x * mask).square().sum(axes, keepdim=True) / mask.sum(axes, keepdim=True) + eps).rsqrt()
        return found if weight is None else found * weight
    bias = argument(n, 3)
    bias = run.env[bias] if isinstance(bias, fx.Node) else bias
    found = _standardized(x, mask, axes, argument(old, 4))
    found = found if weight is None else found * weight
    return found if bias is None else found + bias


def _group_norm(run: Masked, old: fx.Node, n: fx.Node, args: Any, kwargs: Any) -> Any:
    x, groups = args[0], args[1]
    mask = run.mask(old.args[0], [1], x).expand(x.shape).to(x.dtype).reshape(x.shape[0], groups, -1)  # type: ignore[arg-type]
    parts = x.reshape(x.shape[0], groups, -1)
    found = _standardized(parts, mask, [-1], argument(old, 4)).reshape(x.shape)
    shape = [1, -1, *[1] * (x.dim() - 2)]
    for position, combine in ((2, torch.mul), (3, torch.add)):
        tensor = argument(n, position)
        if tensor is not None:
            found = combine(found, run.env[tensor].view(shape))
    return found


def _batch_norm(run: Masked, old: fx.Node, n: fx.Node, args: Any, kwargs: Any) -> Any:
    """Only one that takes its statistics from what it reads, as standardized weights do, computes over removed slices."""
    if not argument(old, 5):
        return n.target(*args, **kwargs)  # type: ignore[operator]
    x = args[0]
    axes = [i for i in range(x.dim()) if i != 1]
    mask = run.mask(old.args[0], axes, x).expand(x.shape).to(x.dtype)  # type: ignore[arg-type]
    found = _standardized(x, mask, axes, argument(old, 7))
    shape = [1, -1, *[1] * (x.dim() - 2)]
    for tensor, combine in ((args[1], torch.mul), (args[2], torch.add)):
        found = found if tensor is None else combine(found, tensor.view(shape))
    return found


def _weight_norm(run: Masked, old: fx.Node, n: fx.Node, args: Any, kwargs: Any) -> Any:
    """The norm of a removed row is 0, and what is divided by it no number."""
    return torch.nan_to_num(n.target(*args, **kwargs))  # type: ignore[operator]


def _reduction(run: Masked, old: fx.Node, n: fx.Node, args: Any, kwargs: Any) -> Any:
    x = args[0]
    axes = reduced_axes(old, x.dim())
    mask = run.mask(old.args[0], axes, x)  # type: ignore[arg-type]
    if bool(mask.all()):
        return n.target(*args, **kwargs)  # type: ignore[operator]
    # pick what is there, axis by axis, and let the operator itself reduce it
    for axis in axes:
        along = mask.any([i for i in range(mask.dim()) if i != axis], keepdim=False) if mask.dim() > 1 else mask
        if len(along) > 1:
            x = x.index_select(axis, along.nonzero().flatten())
    return n.target(x, *args[1:], **kwargs)  # type: ignore[operator]


def _masked_inputs(run: Masked, old: fx.Node, n: fx.Node, args: Any, kwargs: Any) -> Any:
    """Products of two values: what was removed adds nothing."""
    masked = []
    for node, value in zip(old.args, args, strict=True):
        if isinstance(node, fx.Node) and isinstance(value, Tensor) and value.is_floating_point():
            value = value * run.mask(node, list(range(value.dim())), value).to(value.dtype)
        masked.append(value)
    return n.target(*masked, **kwargs)  # type: ignore[operator]


def _einsum(run: Masked, old: fx.Node, n: fx.Node, args: Any, kwargs: Any) -> Any:
    nodes: Any = old.args[1]
    values = [v * run.mask(node, list(range(v.dim())), v).to(v.dtype) for node, v in zip(nodes, args[1], strict=True)]
    return n.target(args[0], values, *args[2:], **kwargs)  # type: ignore[operator]


_MASKED = {
    **dict.fromkeys(("layer_norm", "rms_norm"), _norm),
    **dict.fromkeys(("mean", "sum", "amax", "amin", "var", "std", "var_mean", "std_mean", "linalg_vector_norm", "logsumexp"), _reduction),
    **dict.fromkeys(("matmul", "bmm", "mm", "addmm", "baddbmm", "addbmm", "scaled_dot_product_attention"), _masked_inputs),
    "batch_norm": _batch_norm,
    "_weight_norm": _weight_norm,
    "group_norm": _group_norm,
    "einsum": _einsum,
}
