from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from laconic.core.gram import inverse_factor
from laconic.pruning.unstructured.obs import solve
from laconic.pruning.unstructured.patterns import Pattern


def inputs(n: int, seed: int = 0) -> Tensor:
    """Correlated inputs (400, n)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(400, 5, generator=generator) @ torch.randn(5, n, generator=generator) + 0.3 * torch.randn(
        400, n, generator=generator
    )


def twin(weight: np.ndarray, h: np.ndarray, density: float, keep: int, of: int, block: int) -> np.ndarray:
    """Column by column: the inverse of what is left is computed anew at each (optimal brain surgeon), each weight that goes is made up for by all behind it."""
    w, n = weight.copy(), len(h)
    rest = [np.linalg.inv(h[j:, j:]) for j in range(n)]
    for start in range(0, n, block):
        cost = np.stack([w[:, j] ** 2 / rest[j][0, 0] for j in range(start, min(start + block, n))], 1)
        gone = np.zeros_like(cost, dtype=bool)
        if not of:
            order = np.argsort(-cost, axis=None)[round(density * cost.size) :]
            gone.flat[order] = True
        for j in range(start, min(start + block, n)):
            if of and j % of == 0:
                cost = np.stack([w[:, k] ** 2 / rest[k][0, 0] for k in range(j, j + of)], 1)
                for row, order in enumerate(np.argsort(-cost, axis=1)[:, keep:]):
                    gone[row, order + j - start] = True
            for row in np.flatnonzero(gone[:, j - start]):
                w[row, j:] -= w[row, j] / rest[j][0, 0] * rest[j][0]
                w[row, j] = 0
    return w


@pytest.mark.parametrize(("text", "keep", "of"), [("unstructured", 0, 0), ("2:4", 2, 4), ("4:8", 4, 8)])
def test_equals_the_slow_surgeon(text: str, keep: int, of: int) -> None:
    x, weight = inputs(24).double(), torch.randn(7, 24, dtype=torch.float64)
    gram = x.T @ x / len(x)
    h = gram + 0.01 * gram.diagonal().mean() * torch.eye(24)
    found = solve(weight, gram, 0.4, Pattern.read(text), block=8)
    torch.testing.assert_close(found, torch.from_numpy(twin(weight.numpy(), h.numpy(), 0.4, keep, of, 8)), atol=1e-7, rtol=0)
    if of:
        assert bool(((found.unflatten(1, (-1, of)) != 0).sum(2) == keep).all())


def test_the_factor_is_that_of_the_inverse() -> None:
    x = inputs(12).double()
    gram = x.T @ x
    u = inverse_factor(gram)
    h = gram + 0.01 * gram.diagonal().mean() * torch.eye(12)
    torch.testing.assert_close(u.T @ u, torch.linalg.inv(h))
    assert torch.equal(u, u.triu())


@pytest.mark.parametrize("text", ["unstructured", "2:4", "1x4", "4x1"])
def test_the_output_errs_less_than_by_leaving_the_same_weights_out(text: str) -> None:
    x, weight = inputs(32), torch.randn(8, 32)
    found = solve(weight, x.T @ x / len(x), 0.5, Pattern.read(text))
    plain = torch.where(found == 0, 0.0, weight)
    assert 0.45 <= float((found == 0).float().mean()) <= 0.55
    ours, theirs = ((x @ (w - weight).T).square().sum() for w in (found, plain))
    assert float(ours) < 0.5 * float(theirs)


def test_inputs_that_are_never_there_are_no_trouble() -> None:
    assert bool(solve(torch.randn(4, 8), torch.zeros(8, 8), 0.5, Pattern()).isfinite().all())
