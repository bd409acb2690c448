"""How much goes where: counts of components for each group, so that the whole keeps to a budget.

`uniform` takes the same share of every group; `ranked` ranks all components by their score; `by_latency` takes, step by step, what loses the least score for
the time that it saves on the target, in counts that its kernels like; `by_name` takes counts that somebody else chose. Scores that are not comparable between
groups count relative to their group's mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from laconic.core.errors import BadInput, Mistakes, nearest
from laconic.core.macs import LayerShape
from laconic.pruning.coupling import Coupling
from laconic.pruning.sizes import Counts, Sizes

Price = Callable[[LayerShape], float]  # milliseconds of a layer on the target
_STEPS = 60


@dataclass(frozen=True)
class Limits:
    """What must be left of each group: a share of it, and a multiple that kernels like (where the group has more than that)."""

    floor: float = 0.1
    multiple: int = 1

    def lowest(self, n: int) -> int:
        """Return the fewest components that a group of `n` keeps."""
        return self.rounded(max(1, math.ceil(self.floor * n)), n)

    def rounded(self, count: float, n: int) -> int:
        """Return the nearest count that may be."""
        step = self.multiple if n >= 2 * self.multiple else 1
        least = max(1, math.ceil(self.floor * n))
        return min(max(round(count / step), math.ceil(least / step)) * step, n)


def across(scores: Sequence[Tensor], comparable: bool) -> list[Any]:
    """Return scores that can be compared between groups: as they are, or relative to the mean of their group."""
    result = []
    for score in scores:
        values = score.double().numpy()
        mean = values.mean()
        result.append(values if comparable else values / mean if mean > 0 else np.ones_like(values))
    return result


def uniform(sizes: Sizes, cost: Callable[[Counts], float], budget: float, limits: Limits) -> list[int]:
    """Return the largest equal share of all groups that keeps within the budget.

    Raises:
        BadInput: even the fewest that may be left cost more.
    """

    def counts(share: float) -> list[int]:
        return [limits.rounded(share * n, n) for n in sizes.full]

    return _bisect(counts, cost, budget)


def ranked(
    sizes: Sizes, cost: Callable[[Counts], float], budget: float, limits: Limits, scores: Sequence[Tensor], comparable: bool = False
) -> list[int]:
    """Return the counts that a common threshold leaves.

    Args:
        comparable: whether the scores are compared between groups as they are; else relative to their group's mean.

    Raises:
        BadInput: even the fewest that may be left cost more.
    """
    relative = across(scores, comparable)
    every = np.sort(np.concatenate(relative))

    def counts(share: float) -> list[int]:
        threshold = every[min(int((1 - share) * len(every)), len(every) - 1)] if share > 0 else math.inf
        return [limits.rounded(int((values >= threshold).sum()), len(values)) for values in relative]

    return _bisect(counts, cost, budget)


def _bisect(counts: Callable[[float], list[int]], cost: Callable[[Counts], float], budget: float) -> list[int]:
    low, high = 0.0, 1.0
    if cost(counts(high)) <= budget:
        return counts(high)
    best = counts(low)
    if cost(best) > budget:
        raise BadInput(
            f"the budget cannot be kept: with the fewest that may be left it is still {cost(best) / budget:.2f} times too much. Lower `floor`."
        )
    for _ in range(_STEPS):
        middle = (low + high) / 2
        result = counts(middle)
        if cost(result) <= budget:
            low, best = middle, result
        else:
            high = middle
    return best


def by_latency(
    sizes: Sizes, price: Price, share: float, limits: Limits, scores: Sequence[Tensor], levels: int = 8, comparable: bool = False
) -> list[int]:
    """Take away what loses the least score for the time it saves, until the layers' time is `share` of what it was.

    Args:
        price: milliseconds of a layer; called once for each shape that is looked at.
        levels: into how many steps each group is divided at most.
        comparable: as for `ranked`.

    Raises:
        BadInput: the share cannot be reached.
    """
    relative = [np.sort(values)[::-1].cumsum() for values in across(scores, comparable)]
    grid = [_grid(n, limits, levels) for n in sizes.full]
    counts = list(sizes.full)
    times = [price(sizes.layer(node, counts)) for node in sizes.layers]
    budget = share * sum(times)

    def gain(group: int) -> tuple[float, int] | None:
        """Return the best next level of a group: score lost for each millisecond saved, and the level."""
        best: tuple[float, int] | None = None
        now = counts[group]
        for level in [g for g in grid[group] if g < now][:3]:
            trial = [*counts[:group], level, *counts[group + 1 :]]
            saved = sum(times[i] - price(sizes.layer(sizes.layers[i], trial)) for i in sizes.readers[group])
            lost = float(relative[group][now - 1] - relative[group][level - 1])
            if saved > 0 and (best is None or lost / saved < best[0]):
                best = lost / saved, level
        return best

    fresh = {g: gain(g) for g in range(len(counts))}
    while sum(times) > budget:
        queue = [(result[0], g, result[1]) for g, result in fresh.items() if result is not None]
        if not queue:
            raise BadInput(
                f"{share:.2f} of the time cannot be reached: {sum(times) / budget * share:.2f} is the least with floor {limits.floor}."
            )
        _, group, level = min(queue)
        counts[group] = level
        for i in sizes.readers[group]:
            times[i] = price(sizes.layer(sizes.layers[i], counts))
        touched = {g for g in range(len(counts)) if set(sizes.readers[g]) & set(sizes.readers[group])}
        fresh |= {g: gain(g) for g in touched}
    return counts


def by_name(coupling: Coupling, first: Coupling, keep: Mapping[str, int], part: float = 1.0) -> list[int]:
    """Return the counts that are given for groups by their names; groups that are not named stay whole.

    Args:
        coupling: what there is now.
        first: what there was before all rounds.
        keep: how many components of a group are left in the end.
        part: of the way there, in equal ratios, for pruning in rounds.

    Raises:
        BadInput: every name that no group has, and every count that a group cannot keep.
    """
    sizes = {group.name: len(group) for group in first.groups}
    mistakes = [f"'{name}' is no group of coupled channels.{nearest(name, sizes)}" for name in keep if name not in sizes]
    mistakes += [
        f"{name}: {count} is not between 1 and {sizes[name]}, the number of its components"
        for name, count in keep.items()
        if name in sizes and not 1 <= count <= sizes[name]
    ]
    if mistakes:
        raise Mistakes("keep: groups cannot keep so many:", mistakes)
    wanted = {name: max(count, round(sizes[name] * (count / sizes[name]) ** part)) for name, count in keep.items()}
    return [min(len(group), wanted.get(group.name, len(group))) for group in coupling.groups]


def _grid(n: int, limits: Limits, levels: int) -> list[int]:
    """Return counts to choose from, from the highest down."""
    step = max(limits.multiple if n >= 2 * limits.multiple else 1, 1)
    step *= max(1, math.ceil(n / step / levels))
    lowest = limits.lowest(n)
    return sorted({n, *(count for count in range(n - n % step, 0, -step) if count >= lowest), lowest}, reverse=True)
