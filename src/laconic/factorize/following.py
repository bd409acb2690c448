"""Layers that make up for what those before them, rewritten already, changed: fitted to the old output from the new input (Zhang et al. 2016, section 3.2).

With p̂ what a layer reads now and y what it put out before, the weight W* = E[y p̂ᵀ] E[p̂ p̂ᵀ]⁻¹ is the best of the layer's form, and
E|y − W̃ p̂|² = tr((W* − W̃) Σ̂ (W* − W̃)ᵀ) + a constant: whatever chain is near to W by Σ is then made near to W* by Σ̂.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, fx

from laconic.core.calibrate import Batch
from laconic.core.graph import get_tensor
from laconic.core.operators import argument, row_of
from laconic.core.program import Program
from laconic.factorize.moments import Fold, Moment
from laconic.factorize.reached import Reached
from laconic.factorize.sites import Site

# Inputs that differ less, relative to their size, count as unchanged: the weight is then the layer's own, to the last digit.
_SAME = 1e-5


class Following:
    """The weight and moments of each layer as its inputs are when its turn comes.

    Args:
        before: the program, not changed.
        after: a copy of it, whose layers will be rewritten in the order of the graph.
        batches: of the task's data.
        damping: see `Fold.moment`.
        counting: places that count, by layers of `after`.
    """

    def __init__(self, before: Program, after: Program, batches: Sequence[Batch], damping: float, counting: Reached | None = None) -> None:
        self.before = copy.deepcopy(before).eval() if before.training else before
        self.after, self.batches, self.damping, self.counting = after, batches, damping, counting or {}
        self._old: dict[fx.Node, fx.Node] = dict(zip(after.graph.nodes, self.before.graph.nodes, strict=True))

    @torch.no_grad()
    def __call__(self, site: Site, moment: Moment) -> tuple[Tensor, Moment]:
        """Return W* (G, O, I, *kernel) and the moments of what the layer reads now; those given where its inputs are what they were."""
        old = self._old[site.node]
        fold = Fold(site.node, site.groups, site.weight.shape[2], site.kernel, self.counting.get(site.node, ()))
        if not self.batches or not fold.whole or not fold.watched:
            return site.weight, moment
        source = argument(old, row_of(old).inputs[0])
        shift = argument(old, row_of(old).bias)
        bias = 0.0 if shift is None else get_tensor(self.before, shift)
        total, moved, size = torch.zeros(()), 0.0, 0.0
        unchanged, changed = _reader(self.before, (source, old)), _reader(self.after, (site.read,))
        for number, batch in enumerate(self.batches):
            (was, out), (now,) = unchanged(*batch), changed(*batch)
            moved, size = moved + float((now - was).double().square().sum()), size + float(was.double().square().sum())
            rows = fold.rows(now, number)
            wanted = fold.matching(out, number) - bias
            fold.add(rows)
            total = total + (wanted.unflatten(1, (site.groups, -1)).permute(1, 2, 0) @ rows).cpu().double()
        if moved <= _SAME**2 * size:
            return site.weight, moment
        seen = fold.moment(self.damping)
        if seen.matrix is None:
            return site.weight, moment
        pull = self.damping * fold.power
        weight = torch.linalg.solve(seen.matrix, (total / fold.n + pull * site.weight.flatten(2)).mT).mT
        return weight.reshape(site.weight.shape), seen


def _reader(program: Program, nodes: Sequence[fx.Node]) -> Callable[..., tuple[Tensor, ...]]:
    """Return a function that runs a program as far as these nodes and returns what they put out; parameters are shared."""
    graph = fx.Graph()
    values: dict[fx.Node, fx.Node] = {}
    graph.graph_copy(program.graph, values)
    graph.output(tuple(values[node] for node in nodes))
    graph.eliminate_dead_code()
    return fx.GraphModule(program.graph_module, graph)
