"""What `torch.export` leaves behind without a word, seen while it runs and in the graph that it makes."""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.autograd import function as autograd_function
from torch.func import functional_call

from laconic.core.assembly import tensors_of
from laconic.core.norms import normalizes_by_batch
from laconic.core.operators import OPERATORS, argument, family_of, operator_of

_CHECKPOINT = "torch.utils.checkpoint"  # its function runs another one, which is what the graph is to hold
_SCALES = (1.0, 8.0)  # of inputs and weights, so that what is clipped somewhere is seen too
_SAME = 1e-3  # relative difference of gradients that summing in another order explains
_HOOK = "Tensor.register_hook"
_CONTAINERS = (list, tuple, dict, set, deque)
_OWN = frozenset((*vars(nn.Module()), "_flat_weights", "_flat_weight_refs"))  # what PyTorch keeps in a module


@dataclass
class Recording:
    """What ran while a module was exported."""

    functions: list[str] = field(default_factory=list)  # that may define a gradient of their own, by name
    autocast: list[str] = field(default_factory=list)
    attributes: list[str] = field(default_factory=list)


@contextlib.contextmanager
def recording() -> Iterator[Recording]:
    """Note each `torch.autograd.Function` that runs inside and hooks of gradients, and leave out checkpoints and regions of `torch.autocast`.

    A checkpoint runs its content without gradient, which the graph would keep; a region would be computed without autocast, with types that say otherwise.
    """
    ran = Recording()
    with _functions(ran.functions), _hooks(ran.functions), _autocast(ran.autocast):
        yield ran


def mentions(model: nn.Module, name: str) -> bool:
    """Return whether a method of a module that is not PyTorch's own uses this name."""
    kinds = {kind for part in model.modules() for kind in type(part).__mro__ if not kind.__module__.startswith("torch.")}
    return any(name in _names(value) for kind in kinds for value in vars(kind).values())


def _names(function: Any) -> tuple[str, ...]:
    function = getattr(function, "__func__", function)  # of a static or class method
    function = getattr(function, "__wrapped__", function)
    return getattr(getattr(function, "__code__", None), "co_names", ())


def plain_attributes(model: nn.Module) -> dict[str, Any]:
    """Return the numbers and texts that a module and its parts hold, and what their containers contain, by dotted name."""
    return {
        f"{path}.{name}".lstrip("."): _content(value)
        for path, part in model.named_modules()
        for name, value in vars(part).items()
        if isinstance(value, (int, float, str, *_CONTAINERS)) and name not in _OWN
    }


def _content(value: Any) -> Any:
    """Return a number or text as it is; of a container its length and which objects are in it, of the first thousand."""
    if not isinstance(value, _CONTAINERS):
        return value
    items = itertools.chain(value, value.values()) if isinstance(value, dict) else value
    return len(value), tuple(map(id, itertools.islice(items, 1000)))


@contextlib.contextmanager
def _hooks(seen: list[str]) -> Iterator[None]:
    register = Tensor.register_hook

    def note(self: Tensor, hook: Any) -> Any:
        if _HOOK not in seen:
            seen.append(_HOOK)
        return register(self, hook)

    Tensor.register_hook = note  # type: ignore[method-assign]
    try:
        yield
    finally:
        Tensor.register_hook = register  # type: ignore[method-assign]


@contextlib.contextmanager
def _functions(seen: list[str]) -> Iterator[None]:
    base: Any = autograd_function._SingleLevelFunction  # `Function.apply` calls the `apply` of its parents
    transformed = autograd_function.custom_function_call

    def note(cls: type[Any]) -> None:
        if cls.__qualname__ not in seen:
            seen.append(cls.__qualname__)

    def apply(cls: type[Any], *args: Any, **kwargs: Any) -> Any:
        if cls.__module__ == _CHECKPOINT:
            run, _, *rest = args
            return run(*rest)
        note(cls)
        return super(base, cls).apply(*args, **kwargs)

    def custom_function_call(cls: type[Any], *args: Any, **kwargs: Any) -> Any:
        note(cls)
        return transformed(cls, *args, **kwargs)

    base.apply = classmethod(apply)
    autograd_function.custom_function_call = custom_function_call  # type: ignore[assignment]
    try:
        yield
    finally:
        del base.apply
        autograd_function.custom_function_call = transformed


@contextlib.contextmanager
def _autocast(seen: list[str]) -> Iterator[None]:
    enter, leave = torch.autocast.__enter__, torch.autocast.__exit__

    def note(self: Any) -> Any:
        if self._enabled and (name := str(self.fast_dtype).removeprefix("torch.")) not in seen:
            seen.append(name)
        return self

    torch.autocast.__enter__ = note  # type: ignore[method-assign]
    torch.autocast.__exit__ = lambda self, *_: False  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.autocast.__enter__, torch.autocast.__exit__ = enter, leave  # type: ignore[method-assign]


@dataclass(frozen=True)
class State:
    """Parameters and buffers that forward writes, by whether answers depend on what is in them."""

    read: tuple[str, ...]
    unread: tuple[str, ...]


def changed_state(module: fx.GraphModule) -> State:
    """Find what operators in place change through any view of it. What no answer depends on is no longer written: those operators are erased."""
    tensors = {name: value for name, (value, *_) in tensors_of(module)}
    written: dict[str, list[fx.Node]] = {}
    for node in module.graph.nodes:
        for target in _written(node):
            if (base := _base(target)) is not None:
                written.setdefault(str(base.target), []).append(node)
    read: list[str] = []
    unread: list[str] = []
    for name, writers in written.items():
        same = [n for n in module.graph.nodes if n.op == "get_attr" and tensors.get(str(n.target)) is tensors.get(name)]
        (read if _reaches_output(same) else unread).append(name)
        if name in unread:
            for node in reversed(writers):
                _erase(module.graph, node)
    if unread:
        module.recompile()
    return State(tuple(read), tuple(unread))


def _written(node: fx.Node) -> Iterator[fx.Node]:
    """Yield the arguments that an operator writes into."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return
    for index, spec in enumerate(node.target._schema.arguments):
        if spec.alias_info is not None and spec.alias_info.is_write:
            value = node.args[index] if index < len(node.args) else node.kwargs.get(spec.name)
            yield from (item for item in (value if isinstance(value, (list, tuple)) else (value,)) if isinstance(item, fx.Node))


def _base(node: fx.Node) -> fx.Node | None:
    """Return the parameter or buffer that a value is a view of; None where it is of its own."""
    while node.op == "call_function":
        target: Any = node.target
        if isinstance(target, torch._ops.OpOverload):
            source = next((i for i, spec in enumerate(target._schema.arguments) if spec.alias_info is not None), None)
            if source is None or all(item.alias_info is None for item in target._schema.returns):
                return None
            value: Any = argument(node, source)
        else:
            value = node.args[0] if "getitem" in str(target) else None
        if not isinstance(value, fx.Node):
            return None
        node = value
    return node if node.op == "get_attr" else None


def _reaches_output(sources: Sequence[fx.Node]) -> bool:
    seen, waiting = set(sources), list(sources)
    while waiting:
        for user in waiting.pop().users:
            if user.op == "output":
                return True
            if user not in seen:
                seen.add(user)
                waiting.append(user)
    return False


def _erase(graph: fx.Graph, node: fx.Node) -> None:
    """Erase a node, what reads it, and nothing else: no output does."""
    for user in list(node.users):
        _erase(graph, user)
    if not node.users and node in set(graph.nodes):
        graph.erase_node(node)


def without_effects(module: fx.GraphModule, names: Sequence[str]) -> Callable[..., Sequence[Tensor]]:
    """Run a module without gradient, leaving tensors that it changes and the random state as they were."""
    tensors = [value for name, (value, *_) in tensors_of(module) if name in names]

    def run(*leaves: Tensor) -> Sequence[Tensor]:
        before = [value.detach().clone() for value in tensors]
        random = torch.get_rng_state()
        try:
            with torch.no_grad():
                result: Sequence[Tensor] = module(*leaves)
                return result
        finally:
            torch.set_rng_state(random)
            with torch.no_grad():
                for value, old in zip(tensors, before, strict=True):
                    value.copy_(old)

    return run


def lost_gradients(
    functions: Sequence[str],
    model: nn.Module,
    run: Callable[[nn.Module, Sequence[Tensor]], Sequence[Tensor]],
    graph: nn.Module,
    leaves: Sequence[Tensor],
) -> tuple[str, ...]:
    """Return what may define a gradient of its own, unless the module's gradients and the graph's agree at several scales of inputs and weights.

    Args:
        functions: that ran in forward, by name; hooks of the module's parameters are added.
        model: the module, which stays as it is.
        run: `(model, flat inputs) -> flat outputs`.
        graph: the same from flat inputs to flat outputs, with the module's names of parameters.
        leaves: flat inputs.
    """
    hooked = [f"a hook of {name}" for name, parameter in model.named_parameters() if parameter._backward_hooks]
    if _HOOK not in functions and mentions(model, "register_hook"):  # tracing may not reach it: it may ask whether there is a gradient
        hooked.append(_HOOK)
    names = (*functions, *hooked)
    if not names:
        return ()
    wrapped = _Flat(model, run)
    try:
        for scale in _SCALES:
            given = [leaf * scale if leaf.is_floating_point() else leaf for leaf in leaves]
            theirs, ours = (_gradients(net, prefix, given, scale) for net, prefix in ((wrapped, "model."), (graph, "")))
            if not all(_same(value, ours.get(name)) for name, value in theirs.items()):
                return names
    except Exception:  # noqa: BLE001 - a backward of somebody else's: what cannot be compared is not known to be right
        return names
    return ()


class _Flat(nn.Module):
    def __init__(self, model: nn.Module, run: Callable[[nn.Module, Sequence[Tensor]], Sequence[Tensor]]) -> None:
        super().__init__()
        self.model, self._run = model, run

    def forward(self, *leaves: Tensor) -> Sequence[Tensor]:
        return self._run(self.model, leaves)


def _gradients(net: nn.Module, prefix: str, leaves: Sequence[Tensor], scale: float) -> dict[str, Tensor | None]:
    """Compute gradients of a fixed random sum of all outputs, by the parameter's name without the prefix, at weights that are scaled."""
    weights = {name: (p.detach() * scale).requires_grad_() for name, p in net.named_parameters() if p.is_floating_point()}
    for name, parameter in net.named_parameters():
        for hook in (parameter._backward_hooks or {}).values() if name in weights else ():
            weights[name].register_hook(hook)
    buffers = {name: b.detach().clone() for name, b in net.named_buffers()}
    generator = torch.Generator().manual_seed(0)
    with torch.enable_grad():
        outputs = [out for out in functional_call(net, {**weights, **buffers}, tuple(leaves)) if out.requires_grad]
        total = sum((out * torch.randn(out.shape, generator=generator).to(out)).sum() for out in outputs)
    known = isinstance(total, Tensor)
    gradients = torch.autograd.grad(total, list(weights.values()), allow_unused=True) if known else [None] * len(weights)
    return {name.removeprefix(prefix): value for name, value in zip(weights, gradients, strict=True)}


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        rest = a if b is None else b
        return rest is None or not bool(rest.any())
    return bool(torch.isclose(a, b, rtol=0, atol=_SAME * max(float(a.abs().max()), 1e-12)).all())


def notes(graph: fx.Graph, ran: Recording, state: State, lost: Sequence[str]) -> Iterator[str]:
    """Yield what the program does otherwise than the module, one sentence each; of its dropout see `dropout_notes`."""
    if any(family_of(node) == "batch norm" and argument(node, OPERATORS[node.target].momentum) == 0.0 for node in graph.nodes):
        yield "a batch-norm with momentum=None (cumulative average) does not update its statistics when the program trains"
    if any(family_of(node) == "batch norm" and normalizes_by_batch(node) for node in graph.nodes):
        yield "a batch-norm uses the batch's statistics in evaluation too (track_running_stats=False): an answer depends on the other examples in the batch"
    for node in graph.nodes:
        if _is_random(node):
            yield f"{node.target} draws random numbers in evaluation too: the same input has other answers each time"
            break
    if ran.autocast:
        yield f"torch.autocast inside forward ({', '.join(ran.autocast)}) is left out: the graph computes those operators in float32"
    if state.read:
        yield f"forward changes the buffer {', '.join(state.read)}, and answers depend on it: no file can keep that, so export refuses"
    if state.unread:
        yield f"forward writes {', '.join(state.unread)}, on which no answer depends; the graph leaves it out"
    if ran.attributes:
        yield f"forward changes the attribute {', '.join(ran.attributes)}; the graph keeps what followed from its value at capture"
    if lost:
        yield f"the gradient of {', '.join(lost)} (a torch.autograd.Function or a hook) is not in the graph: steps that train refuse"


def _is_random(node: fx.Node) -> bool:
    if not isinstance(node.target, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded not in node.target.tags:
        return False
    row = operator_of(node)
    switch = None if row is None else row.dropout if row.mode is None else row.mode
    return switch is None or bool(argument(node, switch))


def dropout_notes(graph: fx.Graph, model: nn.Module) -> Iterator[str]:
    """Yield a sentence about dropout that acts in the module's training mode and is not in the graph, as far as the modules tell."""
    modules = dict(model.named_modules(remove_duplicate=False))
    owners = [(family, _owner(node, modules)) for node in graph.nodes if (family := family_of(node)) in ("attention", "dropout")]
    fused = {path for family, path in owners if family == "attention"}
    applied = {path for family, path in owners if family == "dropout"}
    rates = {path: _rates(part) for path, part in modules.items() if not isinstance(part, nn.RNNBase)}
    told = {path: own for path, own in rates.items() if any(own.values()) and (path in fused or path not in applied)}
    names = [f"{path}.{name} = {rate:g}".lstrip(".") for path, own in told.items() for name, rate in own.items() if rate]
    if names:
        listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        yield f"dropout that forward asks for in training mode alone is not applied when the program trains ({listed})"
    elif any(not rates.get(path) for path in fused):
        yield "dropout inside scaled_dot_product_attention, if the module has any, is not applied when the program trains"


def _owner(node: fx.Node, modules: Mapping[str, nn.Module]) -> str:
    """Return the path of the innermost module that an operator came from."""
    paths = [path.partition("@")[0] for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
    return next((path for path in reversed(paths) if path in modules), "")


def _rates(part: nn.Module) -> dict[str, float]:
    """Return the dropout rates that a module holds itself, by name."""
    kind = type(part).__name__.lower()
    named = {
        name: value for name, value in vars(part).items() if "drop" in name or (name == "p" and ("drop" in kind or "stochastic" in kind))
    }
    return {name: float(value) for name, value in named.items() if isinstance(value, (int, float)) and not isinstance(value, bool)}
