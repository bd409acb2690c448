"""Places that no answer depends on are told by gradients, and do not weigh in the second moments."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import laconic as lc
from laconic.core.context import Context
from laconic.factorize.reached import reached
from laconic.factorize.replacing import moments_of
from laconic.factorize.sites import find
from laconic.tasks.data import ArrayDataset

B, L, C = 4, 6, 8
LENGTHS = torch.tensor([6, 3, 1, 4])
MASK = (torch.arange(L) < LENGTHS[:, None]).long()


class Encoder(nn.Module):
    """Attention behind a mask, a feed-forward layer, and either the mean over the words or the first word."""

    def __init__(self, first: bool = False) -> None:
        super().__init__()
        self.first = first
        self.read, self.mix, self.wide, self.head = nn.Linear(C, C), nn.Linear(C, 3 * C), nn.Linear(C, 2 * C), nn.Linear(2 * C, 3)

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        """Words (B, L, C) and mask (B, L) to probabilities (B, 3)."""
        q, k, v = self.mix(self.read(words)).chunk(3, -1)
        keep = torch.where(mask[:, None] > 0, 0.0, torch.finfo(words.dtype).min)
        x = self.wide(words + torch.softmax(q @ k.mT + keep, -1) @ v).relu_()
        pooled = x[:, 0] if self.first else (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return torch.softmax(self.head(pooled), -1)


def captured(first: bool = False) -> tuple[lc.Program, Tensor]:
    torch.manual_seed(0)
    words = torch.randn(B, L, C)
    return lc.capture(Encoder(first).eval(), (words, MASK)), words


def test_places_behind_a_mask_and_those_that_pooling_drops_do_not_count() -> None:
    for first in (False, True):
        program, words = captured(first)
        learning = [parameter.requires_grad for parameter in program.parameters()]
        layers = {site.path: site.node for site in find(program)[0]}
        found = {
            path: rows[0].reshape(B, L) for path, node in layers.items() if (rows := reached(program, [node], [(words, MASK)]).get(node))
        }
        assert set(found) == {"read", "mix", "wide"}  # the head has one place
        assert torch.equal(found["mix"], MASK > 0)
        assert torch.equal(found["read"], MASK > 0)
        assert torch.equal(found["wide"], torch.arange(L).expand(B, L) == 0 if first else MASK > 0)
        assert [parameter.requires_grad for parameter in program.parameters()] == learning


def test_the_moments_are_those_of_the_words_and_padding_changes_nothing() -> None:
    program, words = captured()
    sites = [site for site in find(program)[0] if site.path in ("read", "wide")]
    batches = [(words, MASK), (words.flip(0), MASK.flip(0))]
    counting = reached(program, [site.node for site in sites], batches)
    moment = moments_of(program, sites, batches, counting, 1e-12, Context().progress)[0]
    real = words[MASK > 0].double().numpy()
    assert moment.matrix is not None
    np.testing.assert_allclose(moment.matrix[0].numpy(), real.T @ real / len(real), rtol=1e-5, atol=1e-7)


def test_a_chain_is_the_same_whatever_stands_behind_the_mask() -> None:
    """Both what is weighed and what later layers follow."""
    program, words = captured()
    answers = []
    for padding in (0.0, 50.0):
        filled = torch.where(MASK[..., None] > 0, words, padding).repeat(4, 1, 1)
        data = ArrayDataset({"words": filled.numpy(), "mask": MASK.repeat(4, 1).numpy()}, np.zeros(4 * B, np.int64))
        task = lc.Task(Encoder(), data, data, loss=F.cross_entropy)
        made, _ = lc.low_rank(program, lc.LowRank(rank=0.5, multiple=1, only=("read", "mix", "wide")), task)
        with torch.no_grad():
            answers.append(made(words, MASK))
    torch.testing.assert_close(*answers, rtol=1e-4, atol=1e-5)
