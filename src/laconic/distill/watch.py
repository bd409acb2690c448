"""Taps: what modules inside a student or a teacher put out while it runs; the same for programs and for plain modules."""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from laconic.core import structure
from laconic.core.errors import BadInput, nearest
from laconic.core.graph import module_outputs
from laconic.core.operators import argument, family_of, row_of
from laconic.core.program import Program
from laconic.distill.losses import TapKind

_REGISTRIES = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")


@dataclass(frozen=True)
class Tap:
    """A module's path and what is wanted of it: see `losses.HintLoss.value`."""

    path: str
    kind: TapKind = "output"


class TappedRun(NamedTuple):
    """One run of a model: its outputs, and the values at its taps."""

    outputs: Any
    values: dict[Tap, Tensor]


class Watch(ABC):
    """Records at some taps of one model what goes by."""

    def __init__(self, taps: Sequence[Tap]) -> None:
        self.taps = tuple(dict.fromkeys(taps))

    @abstractmethod
    def recording(self) -> contextlib.AbstractContextManager[dict[Tap, Tensor]]:
        """Record while the context is open: running the model fills the mapping. A module that is called several times is tapped at its last call."""


def paths_of(model: nn.Module) -> set[str]:
    """Return the module paths that can be tapped."""
    return set(module_outputs(model)) if isinstance(model, Program) else {path for path, _ in model.named_modules() if path}


def watch(model: nn.Module, taps: Sequence[Tap], role: str = "model") -> Watch:
    """Return a watch on a model.

    Args:
        role: what the model is called in errors: student, teacher.

    Raises:
        BadInput: a path that is not there, with the nearest; or no attention where it is wanted.
    """
    known = paths_of(model)
    for tap in taps:
        if tap.path not in known:
            raise BadInput(f"the {role} has no module path '{tap.path}'." + nearest(tap.path, known))
    return GraphWatch(model, taps) if isinstance(model, Program) else HookWatch(model, taps)


class HookWatch(Watch):
    """Of a plain module: forward hooks that are there only while it records."""

    def __init__(self, model: nn.Module, taps: Sequence[Tap]) -> None:
        super().__init__(taps)
        self.model = model

    @contextlib.contextmanager
    def recording(self) -> Iterator[dict[Tap, Tensor]]:
        """Record by forward hooks; see `Watch.recording`."""
        values: dict[Tap, Tensor] = {}
        hooks = [self.model.get_submodule(tap.path).register_forward_hook(_keep(tap, values)) for tap in self.taps]
        try:
            yield values
        finally:
            for hook in hooks:
                hook.remove()


def _keep(tap: Tap, values: dict[Tap, Tensor]) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        leaves: list[Tensor] = []
        structure.describe(output, leaves)
        fitting = [leaf for leaf in leaves if tap.kind != "attention" or leaf.dim() == 4]
        if not fitting:
            raise BadInput(
                f"the module '{tap.path}' returns no {'attention map (B, heads, L, L)' if tap.kind == 'attention' else 'tensor'}. Capture the model "
                "(laconic.capture), or have it return one (transformers: attn_implementation='eager')."
            )
        values[tap] = fitting[0]

    return hook


class GraphWatch(Watch):
    """Of a program: a copy of its graph with further outputs runs in its place while it records.

    The copy shares the program's tensors and is made anew whenever the program's code has changed, as it does between training and evaluation.
    """

    def __init__(self, program: Program, taps: Sequence[Tap]) -> None:
        super().__init__(taps)
        self.program = program
        self._code = ""
        self._tapped = self._copy()

    @contextlib.contextmanager
    def recording(self) -> Iterator[dict[Tap, Tensor]]:
        """Record by a copy of the graph with further outputs; see `Watch.recording`."""
        graph_module = self.program.graph_module
        if self._code != graph_module.code or self._tapped._modules is not graph_module._modules:
            self._tapped = self._copy()
        taps: dict[Tap, Tensor] = {}

        def forward(*leaves: Tensor) -> Any:
            outputs, values = self._tapped.forward(*leaves)
            taps.update(zip(self.taps, values, strict=True))
            return outputs

        graph_module.__dict__["forward"] = forward
        try:
            yield taps
        finally:
            del graph_module.__dict__["forward"]

    def _copy(self) -> fx.GraphModule:
        program = self.program
        outputs = module_outputs(program)
        graph = fx.Graph()
        values: dict[fx.Node, fx.Node] = {}
        result = graph.graph_copy(program.graph, values)
        tapped_values = tuple(_resolve(program, tap, outputs, values, graph) for tap in self.taps)
        graph.output((result, tapped_values))
        tapped = fx.GraphModule(program.graph_module, graph)
        for registry in _REGISTRIES:
            tapped.__dict__[registry] = program.graph_module.__dict__[registry]
        self._code = program.graph_module.code
        return tapped


def _resolve(program: Program, tap: Tap, outputs: dict[str, fx.Node], values: dict[fx.Node, fx.Node], graph: fx.Graph) -> fx.Node:
    """Return the node of the copy that a tap means."""
    if tap.kind == "output":
        return values[outputs[tap.path]]
    inside = [n for n in program.graph.nodes if n.op == "call_function" and _is_inside(n, tap.path)]
    whole = next((n for n in reversed(inside) if family_of(n) == "attention"), None)
    softmax = next((n for n in reversed(inside) if family_of(n) == "softmax"), None)
    if tap.kind == "values":
        product = None if softmax is None else _reader(softmax)
        wanted: Any = (
            argument(whole, 2)
            if whole is not None
            else argument(product, row_of(product).inputs[1])
            if product is not None
            else outputs[tap.path]
        )
        return values[wanted]
    if whole is not None:
        query_key_mask_causal_scale = tuple(argument(whole, index) for index in (0, 1, 3, 5, 6))
        return graph.call_function(attention_map, fx.node.map_arg(query_key_mask_causal_scale, lambda n: values[n]))
    if softmax is None:
        raise BadInput(f"no attention is computed in '{tap.path}': name a module with a softmax or scaled_dot_product_attention inside.")
    return values[softmax]


def _is_inside(node: fx.Node, path: str) -> bool:
    return any(name.partition("@")[0] == path for name, _ in (node.meta.get("nn_module_stack") or {}).values())


def _reader(softmax: fx.Node) -> fx.Node | None:
    """Return the product that attention's probabilities go into, behind dropout and conversions."""
    node: fx.Node | None = softmax
    while node is not None and family_of(node) != "matrix product":
        node = next(iter(node.users), None)
    return node


def attention_map(query: Tensor, key: Tensor, mask: Tensor | None, causal: bool, scale: float | None) -> Tensor:
    """Compute the probabilities inside `scaled_dot_product_attention`.

    Args:
        query: (B, N, L, d).
        key: (B, N, S, d), or with fewer heads, each of which serves several queries.
        mask: boolean (True takes part) or added to the scores; broadcast to (B, N, L, S).
        causal: tokens look at earlier ones only.
        scale: of the scores; None: 1/√d.

    Returns:
        (B, N, L, S). A row that may look nowhere is even, and has no gradient.
    """
    if key.shape[-3] != query.shape[-3]:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    scores = query @ key.transpose(-1, -2) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    lowest = torch.finfo(scores.dtype).min
    if mask is not None:
        scores = scores.masked_fill(~mask, lowest) if mask.dtype is torch.bool else (scores + mask).clamp(min=lowest)
    return torch.softmax(scores, -1)
