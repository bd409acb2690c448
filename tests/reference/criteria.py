"""Slow twins of the criteria: plain numpy in double precision, one component, one slice, one number after another."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Form:
    """A group in its simplest form.

    Attributes:
        n: number of components.
        slots: (tensor name, dimension, role, component of each index or −1), parameters only.
        tensors, gradients, squares: by name.
        scales: names of the scales of batch norms.
        gates: names of what scales and shifts the channels last.
        reads: (weight, component of each of its columns, what it reads: examples, …, columns).
    """

    n: int
    slots: list[tuple[str, int, str, list[int]]]
    tensors: dict[str, np.ndarray]
    gradients: dict[str, np.ndarray] = field(default_factory=dict)
    squares: dict[str, np.ndarray] = field(default_factory=dict)
    scales: set[str] = field(default_factory=set)
    gates: set[str] = field(default_factory=set)
    reads: list[tuple[np.ndarray, list[int], np.ndarray]] = field(default_factory=list)

    def numbers(self, component: int, roles: tuple[str, ...] | None, *maps: dict[str, np.ndarray]) -> Iterator[tuple[str, list[float]]]:
        """Name and the values of each map, for every number in a component's slices of these roles."""
        for name, dim, role, index in self.slots:
            if roles is None or role in roles:
                for i, c in enumerate(index):
                    if c == component:
                        yield from ((name, list(row)) for row in zip(*(m[name].take(i, dim).ravel().tolist() for m in maps), strict=True))

    def columns(self, component: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Weights of a column that reads the component (all outputs), and what it reads (examples, positions)."""
        for weight, index, x in self.reads:
            for j, c in enumerate(index):
                if c == component:
                    yield weight[:, j].ravel(), x[..., j].reshape(len(x), -1)

    def each(self, of: Callable[[int], float]) -> list[float]:
        return [float(of(c)) for c in range(self.n)]


OUT = ("out", "bias")


def l1(form: Form) -> list[float]:
    return form.each(lambda c: sum(abs(w) for _, (w,) in form.numbers(c, OUT, form.tensors)))


def l2(form: Form) -> list[float]:
    return form.each(lambda c: math.sqrt(sum(w * w for _, (w,) in form.numbers(c, OUT, form.tensors))))


def power(form: Form) -> list[float]:
    return form.each(lambda c: sum(w * w for _, (w,) in form.numbers(c, None, form.tensors)))


def group_l2(form: Form) -> list[float]:
    norms = [math.sqrt(p) for p in power(form)]
    return [norm * len(norms) / sum(norms) for norm in norms]


def lamp(form: Form) -> list[float]:
    """As published: sort ascending, and divide each by the sum of itself and all that come after it."""
    found = power(form)
    order = sorted(range(form.n), key=lambda c: found[c])
    return [found[c] / sum(found[v] for v in order[order.index(c) :]) if found[c] else 0.0 for c in range(form.n)]


def bn_scale(form: Form) -> list[float]:
    if not form.scales:
        return l1(form)
    return form.each(lambda c: sum(abs(w) for name, (w,) in form.numbers(c, ("norm",), form.tensors) if name in form.scales))


def fpgm(form: Form) -> list[float]:
    vectors = [[w for _, (w,) in form.numbers(c, ("out",), form.tensors)] for c in range(form.n)]
    return [sum(math.dist(a, b) for b in vectors) for a in vectors]


def gini(values: list[float]) -> float:
    """Half the relative mean absolute difference."""
    total = sum(values)
    return sum(abs(a - b) for a in values for b in values) / (2 * len(values) * total) if total else 0.0


def gini_weight(form: Form) -> list[float]:
    return form.each(lambda c: gini([abs(w) for _, (w,) in form.numbers(c, ("out",), form.tensors)]))


def taylor(form: Form) -> list[float]:
    numbers = [form.numbers(c, (*OUT, "norm"), form.tensors, form.gradients) for c in range(form.n)]
    return [sum(w * g for name, (w, g) in found if name in form.gates) ** 2 for found in numbers]


def obd(form: Form) -> list[float]:
    return form.each(lambda c: sum(0.5 * h * w * w for _, (w, h) in form.numbers(c, None, form.tensors, form.squares)))


def activation(form: Form) -> list[float]:
    return form.each(lambda c: float(np.mean([np.abs(x).mean() for _, x in form.columns(c)])))


def histogram_entropy(values: np.ndarray, bins: int = 32) -> float:
    count, _ = np.histogram(values, bins, (values.min(), values.max()))
    return -sum(k / len(values) * math.log(k / len(values)) for k in count.tolist() if k)


def entropy(form: Form) -> list[float]:
    return form.each(lambda c: float(np.mean([histogram_entropy(x.mean(1)) for _, x in form.columns(c)])))


def gini_activation(form: Form) -> list[float]:
    return form.each(lambda c: float(np.mean([gini(np.abs(x.mean(1)).tolist()) for _, x in form.columns(c)])))


def wanda(form: Form) -> list[float]:
    return form.each(lambda c: sum(float(np.abs(w).sum()) * math.sqrt(float((x * x).sum())) for w, x in form.columns(c)))


TWINS: dict[str, Callable[[Form], list[float]]] = {
    function.__name__: function
    for function in (l1, l2, group_l2, lamp, bn_scale, fpgm, gini_weight, taylor, obd, activation, entropy, gini_activation, wanda)
}
