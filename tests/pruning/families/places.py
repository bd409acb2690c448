"""Numbers put in order, read and written at computed places: the dimension along which that is done is whole, others pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.pruning.families.common import AB, BETWEEN, Middle, lines
from tests.pruning.nets import Net, case, tokens

BOTH = f"6 {BETWEEN} c.w:0 c.b:0"
READ = torch.tensor([3, 1])


def along(middle: Middle) -> Callable[..., Net]:
    """Tokens; channels are the last dimension, tokens dimension 1."""
    return lambda n=6: lines(middle, n)


def two(middle: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Net]:
    """Two layers that make the same channels."""
    return lambda n=6: Net(lambda m, x: m.b(middle(m.a(x), m.c(x))), a=nn.Linear(5, n), c=nn.Linear(5, n), b=nn.Linear(n, 2))


def masked(n: int = 6) -> Net:
    """Tokens under a mask over batch and length become one dimension; channels pass."""
    return Net(lambda m, x: m.b(m.a(x)[x[..., 0] > 0]).mean(0), a=nn.Linear(5, n), b=nn.Linear(n, 2))


def written(n: int = 6) -> Net:
    """One row is written under a mask over batch and length."""

    def forward(m: Net, x: Tensor) -> Tensor:
        y = m.a(x).clone()
        y[x[..., 0] > 0] = m.row
        return m.b(y)

    return Net(forward, a=nn.Linear(5, n), b=nn.Linear(n, 2), row=nn.Parameter(torch.randn(n)))


def at(n: int = 6) -> Net:
    """Two tokens are written."""

    def forward(m: Net, x: Tensor) -> Tensor:
        y = m.a(x).clone()
        y[:, READ] = m.c(x)[:, :2]
        return m.b(y)

    return Net(forward, a=nn.Linear(5, n), b=nn.Linear(n, 2), c=nn.Linear(5, n))


def crossed(n: int = 6) -> Net:
    """The diagonal of a product of tokens."""
    return Net(
        lambda m, x: m.b(torch.diagonal(m.a(x)[:, :, None] * m.c(x)[:, None], dim1=1, dim2=2).mT),
        a=nn.Linear(5, n),
        c=nn.Linear(5, n),
        b=nn.Linear(n, 2),
    )


CASES = {
    "topk": case(along(lambda m, x: x.topk(3, 1)[0]), tokens, AB),
    "sort": case(along(lambda m, x: x.sort(1, descending=True)[0]), tokens, AB),
    "median": case(along(lambda m, x: x - x.median(1, keepdim=True)[0]), tokens, AB),
    "kthvalue": case(along(lambda m, x: x.kthvalue(2, 1)[0]), tokens, AB),
    "cummax": case(along(lambda m, x: x.cummax(1)[0]), tokens, AB),
    "difference of neighbors": case(along(lambda m, x: x.diff(dim=1)), tokens, AB),
    "gather, in order": case(two(lambda a, c: a.gather(1, c.argsort(1))), tokens, BOTH),
    "take along": case(two(lambda a, c: a.take_along_dim(c.argsort(1), 1)), lambda batch: tokens(4), BOTH, batched=False),
    "scatter": case(two(lambda a, c: torch.zeros_like(a).scatter(1, a.argsort(1), c)), tokens, BOTH),
    "scatter, fewer": case(two(lambda a, c: a.scatter_add(1, c[:, :3].argsort(1), c[:, :3])), tokens, BOTH),
    "scatter, reduced": case(two(lambda a, c: a.scatter_reduce(1, a.argsort(1), c, "amax")), tokens, BOTH),
    "index_add": case(two(lambda a, c: a.index_add(1, READ, c[:, :2])), tokens, BOTH),
    "index_copy": case(two(lambda a, c: a.index_copy(1, READ, c[:, :2])), tokens, BOTH),
    "index_fill": case(along(lambda m, x: x.index_fill(1, READ, 0.5)), tokens, AB, zeroed=False),
    "index, a mask": case(masked, tokens, AB),
    "write a row under a mask": case(written, tokens, "6 a.w:0 a.b:0 b.w:1 row:0"),
    "write tokens": case(at, tokens, BOTH),
    "diagonal": case(crossed, tokens, BOTH),
    "diagonal of a weight": case(lambda n=6: lines(lambda m, x: torch.diag_embed(m.d) @ x, n, d=nn.Parameter(torch.randn(7))), tokens, AB),
    "one_hot": case(
        lambda n=6: lines(lambda m, x: x + m.c(F.one_hot(m.ids, 4).float()), n, c=nn.Linear(4, n), ids=torch.arange(7) % 4), tokens, BOTH
    ),
    "buckets": case(along(lambda m, x: x * torch.bucketize(x, torch.tensor([-0.5, 0.0, 0.5]))), tokens, AB),
}
