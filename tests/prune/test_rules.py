"""Every operator family between layers that can be pruned: what goes together, and that what is left computes the same."""

from __future__ import annotations

import inspect

import pytest
import torch

from laconic.prune.coupling import couple
from laconic.prune.proof import equivalence, random_choice
from laconic.prune.surgery import remove
from tests.prune import families
from tests.prune.nets import BATCH, Case, built, difference, groups_of, zeroed

CASES = families.CASES
each = pytest.mark.parametrize("made", CASES.values(), ids=CASES)


@each
def test_groups_are_those_found_by_hand(made: Case) -> None:
    assert groups_of(built(made)[2]) == made.groups


@each
@pytest.mark.parametrize("share", [0.3, 0.7])
@torch.no_grad()
def test_what_is_left_computes_the_same(made: Case, share: float) -> None:
    module, _, coupling = built(made)
    inputs = made.inputs(BATCH)
    keep = random_choice(coupling, share, seed=1)
    pruned = remove(coupling, keep)
    assert equivalence(coupling, keep, inputs, pruned) < 1e-4
    if made.zeroed:
        assert difference(pruned(*inputs), zeroed(module, coupling, keep)(*inputs)) < 1e-4
    if inspect.signature(made.make).parameters and coupling.groups:
        sizes = [int(keep[group.components].sum()) for group in coupling.groups]
        small = made.make(*sizes).eval()
        small.load_state_dict(pruned.state_dict())
        assert difference(pruned(*inputs), small(*inputs)) < 1e-4
