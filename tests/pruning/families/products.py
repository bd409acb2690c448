"""Products beside those of matrices: outer, inner, Kronecker's, over chosen dimensions, with an ellipsis."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.pruning.families.common import AB, lines
from tests.pruning.families.layers import MEET, pairing
from tests.pruning.nets import Net, case, parameter, tokens

BOTH = "6 a.w:0 a.b:0 b.w:1 c.w:0 c.b:0"


def cosine(n: int = 6) -> Net:
    """A channel counts by the cosine of all; channels that were sigmoids of zero are no zeros."""

    def forward(m: Net, x: Tensor) -> Tensor:
        return m.b(m.a(x) * F.cosine_similarity(m.a(x).sigmoid(), m.c(x).sigmoid(), -1)[..., None])

    return Net(forward, a=nn.Linear(5, n), b=nn.Linear(n, 2), c=nn.Linear(5, n))


def one_batch(batch: int) -> tuple[Tensor, ...]:
    """(B, L, C), always of four examples."""
    return (torch.randn(4, 7, 5),)


CASES = {
    "outer product of weights": case(
        lambda n=6, k=4: lines(lambda m, x: x * torch.outer(m.p, m.q.sigmoid()).sum(1), n, p=parameter(n), q=parameter(k)),
        tokens,
        "6 a.w:0 a.b:0 b.w:1 p:0",
        "4 q:0",
        zeroed=False,
    ),
    "mv of weights": case(
        lambda n=6, k=4: lines(lambda m, x: x * (m.p @ m.q), n, p=parameter(n, k), q=parameter(k)),
        tokens,
        "6 a.w:0 a.b:0 b.w:1 p:0",
        "4 p:1 q:0",
    ),
    "vdot": case(
        lambda n=6, k=4: lines(lambda m, x: x * torch.vdot(m.p.sigmoid(), m.q.sigmoid()), n, p=parameter(k), q=parameter(k)),
        tokens,
        AB,
        "4 p:0 q:0",
        zeroed=False,
    ),
    "inner": case(pairing(lambda a, b: torch.inner(a.sigmoid(), b.sigmoid()[0])), one_batch, MEET, zeroed=False, batched=False),
    "vecdot": case(pairing(lambda a, b: torch.linalg.vecdot(a.sigmoid(), b.sigmoid())), tokens, MEET, zeroed=False),
    "tensordot": case(
        lambda n=6, k=3: Net(
            lambda m, x: m.b(torch.tensordot(m.a(x).sigmoid(), m.w, 1)), a=nn.Linear(5, n), b=nn.Linear(k, 2), w=parameter(n, k)
        ),
        tokens,
        "6 a.w:0 a.b:0 w:0",
        "3 b.w:1 w:1",
    ),
    "kron": case(
        lambda n=6: lines(lambda m, x: torch.kron(x[0].contiguous(), m.p)[None], n, 2 * n, p=torch.randn(1, 2)),
        one_batch,
        "6 a.w:0 a.b:0 b.w:1*2",
        batched=False,
    ),
    "cosine of activations": case(cosine, tokens, BOTH, zeroed=False),
    "cross": case(
        lambda n=6: Net(
            lambda m, x: m.b(torch.linalg.cross(m.a(x)[:, :3], m.c(x)[:, :3], dim=1)),
            a=nn.Linear(5, n),
            b=nn.Linear(n, 2),
            c=nn.Linear(5, n),
        ),
        tokens,
        BOTH,
    ),
    "einsum, ellipsis": case(
        pairing(lambda a, b: torch.einsum("...lc,...mc->...lm", a.sigmoid(), b.sigmoid())), tokens, MEET, zeroed=False
    ),
    "einsum, no arrow": case(pairing(lambda a, b: torch.einsum("blc,bmc", a, b)), tokens, MEET),
    "broadcast together": case(
        lambda n=6: lines(lambda m, x: torch.mul(*torch.broadcast_tensors(x, m.p)), n, p=parameter(n)), tokens, "6 a.w:0 a.b:0 b.w:1 p:0"
    ),
}
