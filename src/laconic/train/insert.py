"""Steps that insert what helps training into a captured graph: dropout, stochastic depth, batch-norm. What the program answers in eval mode stays.

Shapes: B batch, C channels, * any further dimensions.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, fx, nn

from laconic.core.context import Context
from laconic.core.errors import BadInput, nearest
from laconic.core.graph import get_tensor, module_outputs, module_path
from laconic.core.operators import CONVOLUTIONS, argument, family_of, is_layer, is_stored, row_of
from laconic.core.program import Program, aten
from laconic.core.reader import reader_of
from laconic.core.records import Outcome, Skipped
from laconic.core.step import Stage, StepConfig, step
from laconic.core.task import calibration_subset

# Dropout ----------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class InsertDropout(StepConfig):
    """Put dropout behind modules.

    Args:
        paths: of the modules, e.g. ``layers.0``; of a module that is called several times, behind each call. Empty: all convolutions and linear layers but
            the last.
        p: probability that a number is zeroed in training.
    """

    stage: ClassVar[Stage] = "insertion"

    paths: tuple[str, ...] = ()
    p: float = 0.1


@step("insert_dropout")
def insert_dropout(program: Program, config: InsertDropout, context: Context | None = None) -> tuple[Program, Outcome]:
    """Insert dropout (Srivastava et al. 2014, section 4; scaled in training, so that eval mode is the identity) behind the outputs of modules.

    Returns:
        A new program, bit-equal in eval mode, and the paths.

    Raises:
        BadInput: an unknown path (names the nearest), no layer but the last, a module without one output of floats, or `p` out of range.
    """
    _check_probability("insert_dropout", config.p)
    paths = config.paths or tuple(dict.fromkeys(module_path(n) for n in program.graph.nodes if is_layer(n)))[:-1]
    if not paths:
        raise BadInput("insert_dropout finds no hidden convolution or linear layer: name modules, as InsertDropout(paths=('layers.0',))")
    result = copy.deepcopy(program).eval()
    for path in paths:
        for inside in _calls(result, path):
            output = _output(path, inside)
            with result.graph.inserting_before(output.next):
                node = result.graph.call_function(aten.dropout.default, (output, config.p, False))
            _describe(node, output.meta.get("val"), _stack(inside[0], path), f"{path}.dropout", nn.Dropout)
            _put_behind(output, node)
    result.recompile()
    return result, Outcome("insert_dropout", {"inserted": list(paths), "p": config.p})


# Stochastic depth -------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class InsertStochasticDepth(StepConfig):
    """Leave out residual branches at random in training.

    Args:
        paths: of modules whose output goes straight into a sum; empty: all residual branches.
        p: probability that an example does without the (last) branch.
        decay: ``linear``: branch l of L is left out with probability p l / L, in the order of the graph; ``uniform``: each with p.
    """

    stage: ClassVar[Stage] = "insertion"

    paths: tuple[str, ...] = ()
    p: float = 0.1
    decay: Literal["linear", "uniform"] = "linear"


@dataclass(frozen=True)
class Branch:
    """An operand of a sum that can be left out."""

    sum: fx.Node
    node: fx.Node

    @property
    def name(self) -> str:
        """The module that computes it last."""
        return module_path(self.node) or self.node.name


@step("insert_stochastic_depth")
def insert_stochastic_depth(program: Program, config: InsertStochasticDepth, context: Context | None = None) -> tuple[Program, Outcome]:
    """Insert stochastic depth per example (Huang et al. 2016, sections 3 and 4, "linear decay"; Larsson et al. 2017, section 3.1).

    We differ: a branch that stays is divided by 1 − p in training, where the paper multiplies by it in eval mode, so that eval mode is the identity; and each
    example has its own draw. A branch without paths is an operand of a sum of equal shapes that is computed, with weights, from the other operand; where the
    other one has weights of its own (a projection), name the path.

    It is `feature_dropout` on a value (B, 1, *), of which that operator drops whole examples; in eval mode it is the identity between two views.

    Returns:
        A new program, bit-equal in eval mode, and each branch with its probability.

    Raises:
        BadInput: an unknown path (names the nearest), one whose output is not added to a value of the same shape, or `p` out of range.
    """
    _check_probability("insert_stochastic_depth", config.p)
    if config.decay not in ("linear", "uniform"):
        raise BadInput(f"insert_stochastic_depth: decay '{config.decay}'.{nearest(config.decay, ('linear', 'uniform'))}")
    result = copy.deepcopy(program).eval()
    order = {node: index for index, node in enumerate(result.graph.nodes)}
    candidates = _named_branches(result, config.paths) if config.paths else residual_branches(result)
    reasons = {branch: _unfit(result, branch) for branch in sorted(candidates, key=lambda branch: order[branch.sum])}
    if config.paths and (bad := next((f"{branch.name}: {reason}" for branch, reason in reasons.items() if reason), None)):
        raise BadInput(f"insert_stochastic_depth: {bad}")
    branches = [branch for branch, reason in reasons.items() if reason is None]
    rates = [config.p * (i / len(branches) if config.decay == "linear" else 1.0) for i in range(1, len(branches) + 1)]
    inserted = []
    for branch, rate in zip(branches, rates, strict=True):
        _drop(result, branch, rate)
        inserted.append({"branch": branch.name, "p": rate})
    result.recompile()
    notes = () if branches else ("no residual branch is there: a sum of equal shapes, one computed with weights from the other",)
    skipped = tuple(Skipped(branch.name, reason) for branch, reason in reasons.items() if reason)
    return result, Outcome("insert_stochastic_depth", {"inserted": inserted}, skipped, notes)


def residual_branches(program: Program) -> Iterator[Branch]:
    """Yield sums of two values of equal shape of which one is computed from the other with weights: that one is the branch."""
    order = {node: index for index, node in enumerate(program.graph.nodes)}
    for node in filter(_is_sum_of_equals, program.graph.nodes):
        for branch, identity in (node.args[:2], node.args[1::-1]):
            if _computed_from(program, branch, identity, order):
                yield Branch(node, branch)
                break


def _computed_from(program: Program, branch: fx.Node, identity: fx.Node, order: Mapping[fx.Node, int]) -> bool:
    """Return whether `identity` and a matrix or kernel are among what `branch` is computed from. (x + 0.04 x³ in a GELU is no residual.)"""
    seen, waiting, meets, weights = {identity}, [branch], False, False
    while waiting:
        for source in waiting.pop().all_input_nodes:
            meets |= source is identity
            weights |= source.op == "get_attr" and isinstance(tensor := get_tensor(program, source), nn.Parameter) and tensor.dim() > 1
            if source not in seen and order[source] > order[identity]:
                seen.add(source)
                waiting.append(source)
    return meets and weights


def _named_branches(program: Program, paths: Sequence[str]) -> Iterator[Branch]:
    for path in paths:
        for inside in _calls(program, path):
            output = _output(path, inside)
            sums = [user for user in output.users if _is_sum_of_equals(user)]
            if not sums:
                readers = ", ".join(sorted({str(getattr(user.target, "_opname", user.target)) for user in output.users}))
                raise BadInput(
                    f"insert_stochastic_depth: the output of '{path}' is not added to a value of its shape (it goes into {readers}). "
                    "Name a module whose output goes straight into the sum."
                )
            yield from (Branch(node, output) for node in sums)


def _is_sum_of_equals(node: fx.Node) -> bool:
    if family_of(node) != "sum":
        return False
    left, right = node.args[:2]
    return isinstance(left, fx.Node) and isinstance(right, fx.Node) and left is not right and _sizes(left) == _sizes(right) != ()


def _unfit(program: Program, branch: Branch) -> str | None:
    """Return why a branch cannot be dropped example by example; None where it can."""
    if branch.node.target is aten.squeeze.dim and getattr(branch.node.args[0], "target", None) is aten.feature_dropout.default:
        return "it has stochastic depth already"
    sizes, batches = _sizes(branch.node), _batches(program)
    if not sizes:
        return "its shape is not known: insert stochastic depth before other steps insert operators"
    if sizes[0] not in batches:
        return f"its first dimension ({sizes[0]}) is not the batch"
    return None if branch.node.meta["val"].is_floating_point() else "it holds no floats"


def _batches(program: Program) -> set[str]:
    """Return the sizes that a batch may have, as text: the symbol of a dynamic one, the number of a fixed one."""
    nodes = [node for node in program.graph.nodes if node.op == "placeholder"]
    first = [(spec.shape[0], (_sizes(node) or ("",))[0]) for node, spec in zip(nodes, program.inputs, strict=True) if spec.shape]
    return {size for label, size in first if label == "batch"} or {size for _, size in first[:1]}


def _drop(program: Program, branch: Branch, p: float) -> None:
    value, path = branch.node.meta["val"], module_path(branch.sum)
    with program.graph.inserting_before(branch.sum):
        wide = program.graph.call_function(aten.unsqueeze.default, (branch.node, 1))
        dropped = program.graph.call_function(aten.feature_dropout.default, (wide, p, False))
        narrow = program.graph.call_function(aten.squeeze.dim, (dropped, 1))
    for node, meta in ((wide, value.unsqueeze(1)), (dropped, value.unsqueeze(1)), (narrow, value)):
        _describe(node, meta, _stack(branch.sum, path), f"{path}.stochastic_depth".lstrip("."), nn.Dropout)
    branch.sum.replace_input_with(branch.node, narrow)


# Batch-norm -------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class InsertBatchNorm(StepConfig):
    """Put a batch-norm behind convolutions that lack one.

    Args:
        paths: of the convolutions, or of modules that hold them; empty: all.
        examples: of the train data, from which mean and variance are estimated.
    """

    stage: ClassVar[Stage] = "insertion"
    calibrates: ClassVar[bool] = True

    paths: tuple[str, ...] = ()
    examples: int = 256


_NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


@step("insert_batch_norm")
def insert_batch_norm(program: Program, config: InsertBatchNorm, context: Context | None = None) -> tuple[Program, Outcome]:
    """Insert batch-norms (Ioffe & Szegedy 2015, algorithm 1) that change nothing yet.

    The running mean and variance are those of the convolution's outputs on train data (0 and 1 without data), shift and scale undo them: β = mean,
    γ = √(variance + ε). Tensors are called `PATH.batch_norm.weight` and so on, PATH the convolution's.

    Returns:
        A new program, equal in eval mode up to rounding; the paths, and how many examples were seen.

    Raises:
        BadInput: a path without a convolution (names the nearest), `examples` less than 2, or an output that is not finite.
    """
    if config.examples < 2:
        raise BadInput(f"insert_batch_norm: examples is 2 or more (a variance needs two), not {config.examples}")
    result = copy.deepcopy(program).eval()
    chosen, skipped = [], []
    for node in _convolutions(result, config.paths):
        reason = _needs_no_norm(result, node)
        if reason is None:
            chosen.append(node)
        else:
            skipped.append(Skipped(module_path(node) or node.name, reason))
    moments = {node: Moments() for node in chosen}
    examples = _observe(result, moments, config.examples, context)
    inserted = [_normalize(result, node, moments[node]) for node in chosen]
    result.recompile()
    return result, Outcome("insert_batch_norm", {"inserted": inserted, "examples": examples}, tuple(skipped))


@dataclass
class Moments:
    """Mean and variance of each channel over all that was seen, folded batch by batch (Chan et al. 1979, equation 2.1); float64."""

    count: int = 0
    mean: Tensor | float = 0.0
    squares: Tensor | float = 0.0

    def fold(self, value: Tensor) -> None:
        """Add a value (B, C, *)."""
        rows = value.double().movedim(1, 0).flatten(1)
        count, mean = rows.shape[1], rows.mean(1)
        gap, total = mean - self.mean, self.count + count
        self.squares = self.squares + (rows - mean[:, None]).square().sum(1) + gap.square() * (self.count * count / total)
        self.mean = self.mean + gap * (count / total)
        self.count = total

    @property
    def variance(self) -> Tensor | float:
        """Of the population, (C,)."""
        return self.squares / self.count if self.count else 1.0


def _convolutions(program: Program, paths: Sequence[str]) -> list[fx.Node]:
    convolutions = [node for node in program.graph.nodes if family_of(node) in CONVOLUTIONS]
    places = {node: module_path(node) for node in convolutions}
    for path in paths:
        if not any(f"{place}.".startswith(f"{path}.") for place in places.values()):
            raise BadInput(f"insert_batch_norm: there is no convolution in '{path}'.{nearest(path, set(places.values()))}")
    return [node for node in convolutions if not paths or f"{places[node]}.".startswith(tuple(f"{path}." for path in paths))]


def _needs_no_norm(program: Program, node: fx.Node) -> str | None:
    if any(family_of(user) == "batch norm" for user in node.users):
        return "a batch-norm reads it already"
    if "val" not in node.meta:
        return "its shape is not known: insert batch-norms before other steps insert operators"
    kernel = argument(node, row_of(node).weight)
    rank = get_tensor(program, kernel).dim() if is_stored(kernel) else kernel.meta["val"].dim()
    return None if node.meta["val"].dim() == rank else "it has no batch dimension"


@torch.no_grad()
def _observe(program: Program, moments: Mapping[fx.Node, Moments], examples: int, context: Context | None) -> int:
    """Fold what the nodes put out on train data; returns how many examples were seen."""
    task = None if context is None else context.task
    if task is None or task.train is None or not moments:
        return 0
    subset = calibration_subset(task.train, examples, 0 if context is None else context.seed)

    class Watch(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            if n in moments:
                moments[n].fold(result)
            return result

    batches: Iterable[Any] = reader_of(task, subset).loader(collate=task.collate, **program.interface.loading(task.batch_size))
    for batch in batches:
        Watch(program.graph_module).run(*program.flatten_inputs(task.split(batch)[0]))
    return len(subset)


@torch.no_grad()
def _normalize(program: Program, node: fx.Node, moments: Moments) -> str:
    """Put a norm behind a convolution; returns its path."""
    value, place = node.meta["val"], module_path(node)
    kind = _NORMS[value.dim() - 2]
    norm = kind(value.shape[1], dtype=value.dtype, device=next(program.parameters()).device)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.copy_(torch.as_tensor(moments.mean))
    norm.running_var.copy_(torch.as_tensor(moments.variance))
    if not (norm.running_mean.isfinite().all() and norm.running_var.isfinite().all()):
        raise BadInput(f"insert_batch_norm: '{place or node.name}' puts out numbers that are not finite on the train data")
    norm.bias.copy_(norm.running_mean)
    norm.weight.copy_((norm.running_var.double() + norm.eps).sqrt())
    path = _add_module(program, f"{place}.batch_norm".lstrip("."), norm)
    graph = program.graph
    with graph.inserting_before(node.next):
        tensors = [graph.get_attr(f"{path}.{leaf}") for leaf in ("weight", "bias", "running_mean", "running_var")]
        inserted = graph.call_function(aten.batch_norm.default, (node, *tensors, False, norm.momentum, norm.eps, False))
    _describe(inserted, value, _stack(node, place), path, kind)
    _put_behind(node, inserted)
    return path


def _add_module(program: Program, path: str, module: nn.Module) -> str:
    """Register a module under a path, numbered if that is taken; returns it."""
    *above, leaf = path.split(".")
    owner: nn.Module = program.graph_module
    for part in above:
        if part not in owner._modules:
            owner.add_module(part, nn.Module())
        owner = owner.get_submodule(part)
    number = 0
    while (name := f"{leaf}_{number}" if number else leaf) in owner._modules:
        number += 1
    owner.add_module(name, module)
    return ".".join([*above, name])


# What the steps share ---------------------------------------------------------------------------------------------------------------------


def _check_probability(step: str, p: float) -> None:
    if not 0 <= p < 1:
        raise BadInput(f"{step}: p is a probability, 0 or more and less than 1, not {p}")


def _calls(program: Program, path: str) -> list[list[fx.Node]]:
    """Return the nodes of a module, call by call: PyTorch's metadata keeps a module under another key at each call.

    Raises:
        BadInput: there is no such path; names the nearest.
    """
    calls: dict[str, list[fx.Node]] = {}
    for node in program.graph.nodes:
        if node.op == "call_function":
            for call, (place, _) in (node.meta.get("nn_module_stack") or {}).items():
                if place.partition("@")[0] == path and path:
                    calls.setdefault(call, []).append(node)
    if not calls:
        raise BadInput(f"the program has no module path '{path}'.{nearest(path, module_outputs(program))}")
    return list(calls.values())


def _output(path: str, inside: Sequence[fx.Node]) -> fx.Node:
    """Return the one tensor that is computed inside a module and read outside."""
    within = set(inside)
    outputs = [node for node in inside if isinstance(node.meta.get("val"), Tensor) and any(user not in within for user in node.users)]
    if len(outputs) != 1:
        raise BadInput(f"'{path}' puts out {len(outputs)} tensors; name a module that puts out one")
    if not outputs[0].meta["val"].is_floating_point():
        raise BadInput(f"'{path}' puts out {outputs[0].meta['val'].dtype}, not floats")
    return outputs[0]


def _put_behind(node: fx.Node, inserted: fx.Node) -> None:
    """Let what reads a node read the inserted one."""
    node.replace_all_uses_with(inserted, delete_user_cb=lambda user: user is not inserted)


def _sizes(node: fx.Node) -> tuple[str, ...]:
    """Return the shape as text, so that comparing symbols fixes none; empty where it is not known."""
    value = node.meta.get("val")
    return tuple(str(size) for size in value.shape) if isinstance(value, Tensor) else ()


def _stack(node: fx.Node, path: str) -> dict[str, Any]:
    """Return the modules around a node, down to the one at `path`."""
    stack: dict[str, Any] = {}
    for call, (place, kind) in (node.meta.get("nn_module_stack") or {}).items():
        stack[call] = (place, kind)
        if place.partition("@")[0] == path:
            break
    return stack


def _describe(node: fx.Node, value: Any, stack: dict[str, Any], path: str, kind: type[nn.Module]) -> None:
    """Say of an inserted node what capture says of the others: its value's shape and its module."""
    call = f"{next(reversed(stack), '')}.{path.rpartition('.')[2]}"
    node.meta["val"] = value
    node.meta["nn_module_stack"] = {**stack, call: (path, f"{kind.__module__}.{kind.__qualname__}")}
