"""What holds for every row of the tables, and how choices are applied."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from laconic.core.errors import BadInput
from laconic.core.plan import Scaled
from laconic.train.augment import AUGMENTATIONS, Augmenter, before_after, kind_of
from tests.train.augment.data import ROWS, augment, batch, batches, texts, twice

CARD = (Path(__file__).parents[3] / "docs" / "augmentation.md").read_text()


def tensors(inputs: Any) -> list[Tensor]:
    return list(inputs.values()) if isinstance(inputs, dict) else [inputs]


@pytest.mark.parametrize(("kind", "name"), ROWS)
def test_shape_dtype_and_the_given_batch_stay(kind: str, name: str) -> None:
    @settings(max_examples=12)
    @given(batches(kind, name), st.sampled_from([0.3, 1.0, 2.5, 10.0]), st.integers(0, 9))
    def holds(inputs: Any, strength: float, seed: int) -> None:
        before = [tensor.clone() for tensor in tensors(inputs)]
        after, mix = augment(inputs, name, strength, seed)
        assert all(torch.equal(a, b) for a, b in zip(before, tensors(inputs), strict=True))
        for old, new in zip(before, tensors(after), strict=True):
            assert (new.shape, new.dtype, new.device) == (old.shape, old.dtype, old.device)
            assert new.isfinite().all()
        assert (mix is not None) == AUGMENTATIONS[kind][name].mixes
        if mix is not None:
            assert sorted(mix.order.tolist()) == list(range(len(before[0])))
            assert 0 <= mix.share <= 1

    holds()


@pytest.mark.parametrize(("kind", "name"), ROWS)
def test_strength_0_does_nothing_and_more_does_something(kind: str, name: str) -> None:
    x = batch(kind)
    same, mix = augment(x, name, 0.0)
    assert torch.equal(same, x)
    assert mix is None
    changes = [(augment(x, name, strength)[0] != x).float().mean() for strength in (0.5, 1.0, 2.0)]
    assert min(changes) > 0


@pytest.mark.parametrize(("kind", "name"), ROWS)
def test_torchs_global_generator_alone_decides(kind: str, name: str) -> None:
    x = batch(kind)
    outside = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    first, again, other = (augment(x, name, seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert outside == (random.getstate(), np.random.get_state()[1].tolist())  # type: ignore[index]


@pytest.mark.parametrize(("kind", "name"), [("image", "mixup"), ("image", "brightness"), ("series", "mixup"), ("series", "jitter")])
def test_half_precision_is_computed_in_single(kind: str, name: str) -> None:
    x = batch(kind, dtype=torch.bfloat16)
    assert torch.equal(augment(x, name)[0], augment(x.float(), name)[0].bfloat16())


@pytest.mark.parametrize(("kind", "name"), ROWS)
def test_every_row_is_explained_and_on_the_card(kind: str, name: str) -> None:
    row = AUGMENTATIONS[kind][name]
    section = CARD.split(f"## {kind.capitalize()}")[1].split("\n## ")[0]
    assert row.function.__doc__
    assert f"| `{name}` | {row.strength} | {row.source} |" in section


def test_the_kind_is_told_by_the_tensor() -> None:
    found = [kind_of(torch.zeros(shape)) for shape in [(2, 3, 4, 5), (2, 3, 4), (2, 3)]]
    assert found == ["image", "series", None]
    assert [kind_of(x) for x in (torch.zeros(2, 3).int(), torch.zeros(2, 3).bool(), [1])] == ["text", None, None]


def test_choices_apply_in_order_and_the_mixture_comes_out() -> None:
    x = batch("image")
    torch.manual_seed(3)
    both, mix = Augmenter([Scaled("flip", 2.0), Scaled("mixup")])(x)
    torch.manual_seed(3)
    flipped, _ = Augmenter([Scaled("flip", 2.0)])(x)
    by_hand, again = Augmenter([Scaled("mixup")])(flipped)
    assert torch.equal(both, by_hand)
    assert mix is not None
    assert again is not None
    assert mix.share == again.share


def test_no_choices_give_the_batch_itself() -> None:
    x = {"anything": object()}
    assert Augmenter([])(x) == (x, None)


def test_of_a_mapping_or_tuple_the_first_that_fits_is_augmented() -> None:
    x, more = batch("series"), torch.arange(16)
    flat, _ = augment(x, "jitter")
    in_tuple, _ = augment((more, x, x), "jitter")
    in_list, _ = augment([x, more], "jitter")
    named, _ = augment({"attention_mask": torch.ones(16, 3).long(), "values": x}, "jitter")
    assert isinstance(in_tuple, tuple)
    assert isinstance(in_list, list)
    assert torch.equal(in_tuple[0], more)
    assert torch.equal(in_tuple[2], x)
    for result in (in_tuple[1], in_list[0], named["values"]):
        assert torch.equal(result, flat)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ([("jiter",)], "'jiter' is no augmentation. Did you mean 'jitter'"),
        ([("flip", -1.0)], "'flip': the strength must be from 0 to 10; it is -1.0"),
        ([("flip", float("nan"))], "strength: nan must be a number"),
        ([("mixup",), ("cutmix",)], "one mixture at most"),
        ([("insertion",)], "'insertion' needs synonyms: give EmbeddingNeighbors"),
    ],
    ids=["name", "negative", "nan", "two mixtures", "no synonyms"],
)
def test_mistakes_are_told_before_any_batch(choices: Sequence[tuple[Any, ...]], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Augmenter([Scaled(*choice) for choice in choices])


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(BadInput, match=r"(?s)'rotatoin'.*'synonym' needs.*from 0 to 10"):
        Augmenter([Scaled("rotatoin"), Scaled("synonym"), Scaled("crop", 11.0)])


@pytest.mark.parametrize(
    ("inputs", "name", "message"),
    [
        (batch("series"), "time_wrap", "no augmentation"),
        (batch("series"), "scale", "of the kind 'series'. Did you mean 'scaling'"),
        (batch("text"), "mixup", "of the kind 'text'"),
        (torch.zeros(2, 3), "jitter", r"the inputs are 0: float32 \(2, 3\)"),
        ({"x": torch.zeros(2), "y": 1}, "jitter", r"x: float32 \(2,\), y: int"),
        ((batch("image"), torch.zeros(16)), "mixup", "mix one tensor with its target; these inputs have 2: 0, 1"),
    ],
    ids=["unknown", "other kind", "text", "shape", "mapping", "several to mix"],
)
def test_what_does_not_fit_is_refused(inputs: Any, name: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        augment(inputs, name)


def test_before_and_after_are_the_first_few_examples() -> None:
    x = batch("image")
    before, after = before_after((x, torch.arange(16)), Scaled("rotation"), n=3)
    again = before_after((x, torch.arange(16)), Scaled("rotation"), n=3)[1]
    words, replaced = before_after(texts([8] * 6, 8), Scaled("synonym", 3.0), synonyms=twice)
    assert torch.equal(before[0], x[:3])
    assert before[1].tolist() == after[1].tolist() == [0, 1, 2]
    assert torch.equal(after[0], again[0])
    assert not torch.equal(after[0], before[0])
    assert len(words["input_ids"]) == len(replaced["input_ids"]) == 4


def test_before_and_after_give_the_random_state_back() -> None:
    x = batch("series")
    state = torch.get_rng_state()
    before_after(x, Scaled("jitter"), seed=5)
    assert torch.equal(torch.get_rng_state(), state)
