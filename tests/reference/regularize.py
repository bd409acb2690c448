"""Slow twins of the regularizers: plain numpy in double precision, one number or one component after another.

A slot is (tensor name, dimension, component of each index or −1).
"""

from __future__ import annotations

import math

import numpy as np

Tensors = dict[str, np.ndarray]


def soft(value: float, by: float) -> float:
    return math.copysign(max(abs(value) - by, 0.0), value)


def soft_all(values: np.ndarray, by: float) -> np.ndarray:
    return np.array([soft(value, by) for value in values.ravel().tolist()]).reshape(values.shape)


def l2(weights: list[np.ndarray], strength: float) -> float:
    return 0.5 * strength * sum(value * value for weight in weights for value in weight.ravel().tolist())


def orthogonality(weights: list[np.ndarray], strength: float) -> float:
    total = 0.0
    for weight in weights:
        rows = weight.reshape(len(weight), -1)
        vectors = rows if rows.shape[0] <= rows.shape[1] else rows.T
        n = len(vectors)
        for i in range(n):
            for j in range(n):
                total += (float(np.dot(vectors[i], vectors[j])) - (i == j)) ** 2 / n
    return strength * total


def group_lasso(tensors: Tensors, slots: list[tuple[str, int, list[int]]], by: float) -> Tensors:
    """The factors are those of the weights before; then each slice of each component is multiplied by its factor."""
    found = {name: value.copy() for name, value in tensors.items()}
    components = sorted({k for _, _, index in slots for k in index if k >= 0})
    for k in components:
        places = [(name, dim, i) for name, dim, index in slots for i, of in enumerate(index) if of == k]
        numbers = [value for name, dim, i in places for value in tensors[name].take(i, dim).ravel().tolist()]
        norm = math.sqrt(sum(value * value for value in numbers))
        factor = max(0.0, 1 - by * math.sqrt(len(numbers)) / norm) if norm else 0.0
        for name, dim, i in places:
            found[name][(slice(None),) * dim + (i,)] *= factor
    return found
