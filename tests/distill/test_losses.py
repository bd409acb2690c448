from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from laconic.core.errors import BadInput
from laconic.distill.losses import HINTS, SOFT, channel_axis, dkd, value_relations
from tests.reference.distill import SOFT_TWINS, TWINS

CARD = Path(__file__).parents[2] / "docs" / "distillation.md"
SHAPES = {
    "features": [(4, 3, 5, 5), (4, 6, 5), (4, 7)],
    "cosine": [(4, 3, 5, 5), (4, 6, 5), (4, 7)],
    "attention_transfer": [(4, 3, 5, 5), (4, 6, 5)],
    "similarity": [(4, 3, 2, 2), (5, 7)],
    "rkd_distance": [(4, 3, 2, 2), (5, 7)],
    "rkd_angle": [(4, 3, 2, 2), (5, 7)],
    "hidden": [(4, 6, 5)],
    "attention_maps": [(4, 2, 6, 6)],
    "value_relations": [(4, 2, 6, 3), (4, 6, 5)],
}
seeds = st.integers(0, 2**31)


def doubles(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def number(value: Tensor) -> float:
    assert value.shape == ()
    return float(value)


@pytest.mark.parametrize("name", SOFT)
@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("classes", [2, 5])
def test_an_answers_loss_equals_its_twin(name: str, temperature: float, classes: int) -> None:
    ours, theirs, target = doubles(6, classes), doubles(6, classes, seed=1), torch.arange(6) % classes
    wanted = SOFT_TWINS[name](ours.numpy(), theirs.numpy(), target.tolist(), temperature)
    assert number(SOFT[name].loss(ours, theirs, target, temperature)) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(("name", "shape"), [(name, shape) for name, shapes in SHAPES.items() for shape in shapes])
def test_a_hints_loss_equals_its_twin(name: str, shape: tuple[int, ...]) -> None:
    ours, theirs = doubles(*shape), doubles(*shape, seed=1)
    assert number(HINTS[name].loss(ours, theirs)) == pytest.approx(TWINS[name](ours.numpy(), theirs.numpy()), rel=1e-9)
    assert not HINTS[name].dims or len(shape) in HINTS[name].dims


def test_every_row_is_tested_and_named_in_the_card() -> None:
    assert set(SHAPES) == set(HINTS) == set(TWINS)
    assert set(SOFT) == set(SOFT_TWINS)
    text = CARD.read_text()
    assert [name for name in [*SOFT, *HINTS] if f"`{name}`" not in text] == []


@pytest.mark.parametrize("name", HINTS)
def test_a_loss_is_zero_of_equals_and_has_a_finite_gradient_there(name: str) -> None:
    value = doubles(*SHAPES[name][0])
    ours = value.clone().requires_grad_()
    loss = HINTS[name].loss(ours, value)
    loss.backward()
    assert number(loss.detach()) == pytest.approx(0, abs=1e-9)
    assert ours.grad is not None
    assert bool(ours.grad.isfinite().all())


def test_the_divergence_of_two_coins_by_hand() -> None:
    # softmax of (ln 3, 0) is (3/4, 1/4), of (0, 0) (1/2, 1/2); at T = 2 the first is (√3, 1)/(1 + √3)
    ours, theirs = torch.zeros(1, 2), torch.tensor([[math.log(3), 0.0]])
    p = math.sqrt(3) / (1 + math.sqrt(3))
    at_two = 4 * (p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p)))
    assert number(SOFT["soft_targets"].loss(ours, theirs, None, 1.0)) == pytest.approx(
        0.75 * math.log(1.5) + 0.25 * math.log(0.5), rel=1e-5
    )
    assert number(SOFT["soft_targets"].loss(ours, theirs, None, 2.0)) == pytest.approx(at_two, rel=1e-5)


@given(seeds, st.sampled_from([1.0, 2.0, 4.0]), st.integers(2, 7))
def test_decoupled_is_soft_targets_when_beta_is_what_the_teacher_leaves(seed: int, temperature: float, classes: int) -> None:
    ours, theirs, target = doubles(1, classes, seed=seed), doubles(1, classes, seed=seed + 1), torch.tensor([seed % classes])
    left = 1 - float(F.softmax(theirs / temperature, -1)[0, target[0]])
    whole = SOFT["soft_targets"].loss(ours, theirs, None, temperature)
    torch.testing.assert_close(dkd(ours, theirs, target, temperature, alpha=1.0, beta=left), whole, rtol=1e-8, atol=1e-12)


def test_decoupled_stays_finite_where_a_class_is_certain() -> None:
    ours = torch.tensor([[200.0, -200.0, 0.0]], requires_grad=True)
    loss = dkd(ours, torch.tensor([[300.0, 0.0, 0.0]]), torch.tensor([0]), 1.0)
    loss.backward()
    assert math.isfinite(number(loss.detach()))
    assert ours.grad is not None
    assert bool(ours.grad.isfinite().all())


@pytest.mark.parametrize("target", [None, torch.rand(4, 3), torch.zeros(3, dtype=torch.long)], ids=["none", "soft", "short"])
def test_decoupled_says_what_target_it_needs(target: Tensor | None) -> None:
    with pytest.raises(BadInput, match="dkd needs the right class"):
        dkd(torch.zeros(4, 3), torch.zeros(4, 3), target, 1.0)


@given(seeds, st.floats(0.1, 10))
def test_relations_do_not_see_scale_rotation_or_shift(seed: int, scale: float) -> None:
    value = doubles(5, 4, seed=seed)
    turn, _ = torch.linalg.qr(doubles(4, 4, seed=seed + 1))
    moved = scale * value @ turn + doubles(1, 4, seed=seed + 2)
    for name in ("rkd_distance", "rkd_angle"):
        assert number(HINTS[name].loss(moved, value)) == pytest.approx(0, abs=1e-9), name


@given(seeds, st.floats(0.1, 10))
def test_attention_and_similarity_do_not_see_scale(seed: int, scale: float) -> None:
    value, other = doubles(4, 3, 2, 2, seed=seed), doubles(4, 3, 2, 2, seed=seed + 1)
    for name in ("attention_transfer", "similarity", "cosine"):
        torch.testing.assert_close(HINTS[name].loss(scale * value, other), HINTS[name].loss(value, other))


def test_attention_transfer_by_hand() -> None:
    # maps (1, 0) and (0, 1) lie √2 apart; half of it
    ours, theirs = torch.tensor([[[[3.0, 0.0]], [[4.0, 0.0]]]]), torch.tensor([[[[0.0, 2.0]]]])
    assert number(HINTS["attention_transfer"].loss(ours, theirs)) == pytest.approx(math.sqrt(2) / 2)


def test_three_points_by_hand() -> None:
    # a right angle with legs 1 and 1 (distances 1, 1, √2) and three points of a line, 1 apart (1, 1, 2)
    ours, theirs = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0], [1.0], [-1.0]])
    scaled = [[d / (sum(row) / 3) for d in row] for row in ([1, 1, math.sqrt(2)], [1, 1, 2])]
    distance = sum((a - b) ** 2 / 2 for a, b in zip(*scaled, strict=True)) / 3
    # at the corner cos 90° = 0 against cos 180° = −1; at the two ends cos 45° against cos 0° = 1
    angle = (0.5 * 1 + 2 * 0.5 * (1 - math.sqrt(0.5)) ** 2) / 3
    assert number(HINTS["rkd_distance"].loss(ours, theirs)) == pytest.approx(distance, rel=1e-5)
    assert number(HINTS["rkd_angle"].loss(ours, theirs)) == pytest.approx(angle, rel=1e-4)


@pytest.mark.parametrize(("name", "n"), [("rkd_distance", 1), ("rkd_angle", 2)])
def test_too_few_examples_have_no_relation(name: str, n: int) -> None:
    ours = doubles(n, 4).requires_grad_()
    loss = HINTS[name].loss(ours, doubles(n, 4, seed=1))
    loss.backward()
    assert number(loss.detach()) == 0


def test_attention_of_other_numbers_of_heads_is_compared_in_the_mean() -> None:
    ours, theirs = doubles(2, 4, 5, 5), doubles(2, 6, 5, 5, seed=1)
    assert number(HINTS["attention_maps"].loss(ours, theirs)) == pytest.approx(TWINS["attention_maps"](ours.numpy(), theirs.numpy()))


def test_value_relations_split_features_into_heads_and_other_numbers_of_heads_into_common_ones() -> None:
    flat, wide = doubles(2, 5, 12), doubles(2, 5, 24, seed=1)
    split = [value.unflatten(2, (3, -1)).transpose(1, 2) for value in (flat, wide)]
    wanted = TWINS["value_relations"](*(value.numpy() for value in split))
    assert number(value_relations(flat, wide, heads=3)) == pytest.approx(wanted)
    assert number(value_relations(*split)) == pytest.approx(wanted)
    assert number(value_relations(flat, split[1])) == pytest.approx(wanted)
    six = wide.unflatten(2, (6, -1)).transpose(1, 2)
    assert number(value_relations(split[0], six)) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("ours", "theirs", "axis"),
    [
        ((4, 8), (4, 16), 1),
        ((4, 7, 8), (4, 7, 16), 2),
        ((4, 7, 8), (4, 7, 8), 2),
        ((4, 8, 7), (4, 16, 7), 1),
        ((4, 8, 5, 5), (4, 16, 5, 5), 1),
        ((4, 8, 5, 5), (4, 16, 10, 10), 1),
        ((4, 5, 5, 8), (4, 5, 5, 16), 3),
        ((4, 8, 5, 5), (4, 8, 5, 5), 1),
    ],
)
def test_the_dimension_of_channels(ours: tuple[int, ...], theirs: tuple[int, ...], axis: int) -> None:
    assert channel_axis(ours, theirs) == axis
