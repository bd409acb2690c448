"""Slow twins of the losses between student and teacher: plain Python in double precision, one example, one pair, one number after another."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

Vector = Sequence[float]


def softmax(row: Vector, temperature: float = 1.0) -> list[float]:
    powers = [math.exp(v / temperature) for v in row]
    return [p / sum(powers) for p in powers]


def kl(p: Vector, q: Vector) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def dot(a: Vector, b: Vector) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def huber(a: float, b: float) -> float:
    d = abs(a - b)
    return d * d / 2 if d < 1 else d - 0.5


def soft_targets(student: np.ndarray, teacher: np.ndarray, target: Sequence[int], t: float) -> float:
    return t * t * mean([kl(softmax(b, t), softmax(a, t)) for a, b in zip(student, teacher, strict=True)])


def dkd(student: np.ndarray, teacher: np.ndarray, target: Sequence[int], t: float, alpha: float = 1.0, beta: float = 8.0) -> float:
    found = []
    for a, b, right in zip(student, teacher, target, strict=True):
        q, p = softmax(a, t), softmax(b, t)
        tckd = kl([p[right], 1 - p[right]], [q[right], 1 - q[right]])
        others = [k for k in range(len(p)) if k != right]
        nckd = kl([p[k] / (1 - p[right]) for k in others], [q[k] / (1 - q[right]) for k in others])
        found.append(alpha * tckd + beta * nckd)
    return t * t * mean(found)


def mse_logits(student: np.ndarray, teacher: np.ndarray, target: Sequence[int], t: float) -> float:
    return features(student, teacher)


def features(student: np.ndarray, teacher: np.ndarray) -> float:
    return mean([(a - b) ** 2 for a, b in zip(student.ravel().tolist(), teacher.ravel().tolist(), strict=True)])


def last(x: np.ndarray) -> np.ndarray:
    """Feature vectors in rows; of maps (B, C, H, W) one for each place."""
    return (np.moveaxis(x, 1, -1) if x.ndim == 4 else x).reshape(-1, x.shape[1 if x.ndim == 4 else -1])


def cosine(student: np.ndarray, teacher: np.ndarray) -> float:
    return mean(
        [1 - dot(a, b) / math.sqrt(dot(a, a) * dot(b, b)) for a, b in zip(last(student).tolist(), last(teacher).tolist(), strict=True)]
    )


def attention_transfer(student: np.ndarray, teacher: np.ndarray) -> float:
    def maps(x: np.ndarray) -> list[list[float]]:
        sums = [[dot(place, place) for place in last(x[i : i + 1]).tolist()] for i in range(len(x))]
        return [[v / math.sqrt(dot(row, row)) for v in row] for row in sums]

    return mean([math.dist(a, b) / 2 for a, b in zip(maps(student), maps(teacher), strict=True)])


def similarity(student: np.ndarray, teacher: np.ndarray) -> float:
    def matrix(x: np.ndarray) -> list[list[float]]:
        rows = [row.ravel().tolist() for row in x]
        gram = [[dot(a, b) for b in rows] for a in rows]
        return [[v / math.sqrt(dot(row, row)) for v in row] for row in gram]

    ours, theirs = matrix(student), matrix(teacher)
    return sum((a - b) ** 2 for x, y in zip(ours, theirs, strict=True) for a, b in zip(x, y, strict=True)) / len(student) ** 2


def rkd_distance(student: np.ndarray, teacher: np.ndarray) -> float:
    def distances(x: np.ndarray) -> list[float]:
        found = [math.dist(a.ravel(), b.ravel()) for a, b in itertools.combinations(x, 2)]
        return [d / mean(found) for d in found]

    return mean([huber(a, b) for a, b in zip(distances(student), distances(teacher), strict=True)])


def rkd_angle(student: np.ndarray, teacher: np.ndarray) -> float:
    def angles(x: np.ndarray) -> list[float]:
        rows = [row.ravel() for row in x]
        found = []
        for i, j, k in itertools.permutations(range(len(rows)), 3):
            a, b = rows[i] - rows[j], rows[k] - rows[j]
            found.append(dot(a, b) / math.sqrt(dot(a, a) * dot(b, b)))
        return found

    return mean([huber(a, b) for a, b in zip(angles(student), angles(teacher), strict=True)])


def attention_maps(student: np.ndarray, teacher: np.ndarray) -> float:
    if student.shape != teacher.shape:
        student, teacher = (np.stack([sum(example) / len(example) for example in x]) for x in (student, teacher))
    return features(student, teacher)


def value_relations(student: np.ndarray, teacher: np.ndarray) -> float:
    """Of values (B, N, L, d) with equally many heads, or (B, L, D)."""
    student, teacher = (x if x.ndim == 4 else x[:, None] for x in (student, teacher))

    def relations(head: np.ndarray) -> list[list[float]]:
        return [softmax([dot(a, b) / math.sqrt(head.shape[1]) for b in head]) for a in head]

    found = []
    for a, b in zip(student, teacher, strict=True):
        for ours, theirs in zip(a, b, strict=True):
            found += [kl(p, q) for p, q in zip(relations(theirs), relations(ours), strict=True)]
    return mean(found)


TWINS: dict[str, Callable[..., float]] = {
    "features": features,
    "cosine": cosine,
    "attention_transfer": attention_transfer,
    "similarity": similarity,
    "rkd_distance": rkd_distance,
    "rkd_angle": rkd_angle,
    "hidden": features,
    "attention_maps": attention_maps,
    "value_relations": value_relations,
}
SOFT_TWINS: dict[str, Callable[..., float]] = {"soft_targets": soft_targets, "dkd": dkd, "mse_logits": mse_logits}
