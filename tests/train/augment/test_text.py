from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from laconic.core.errors import BadInput
from laconic.core.plan import Scaled
from laconic.train.augment import Augmenter
from laconic.train.augment.text import TEXT
from tests.reference import augment as twin
from tests.train.augment.data import CLS, SEP, augment, batches, texts

Rows = Iterator[tuple[list[int], list[int]]]


def rows(before: dict[str, Tensor], after: dict[str, Tensor]) -> Rows:
    """Tokens of each text, before and after, without padding."""
    for one, mask_one, two, mask_two in zip(
        before["input_ids"], before["attention_mask"], after["input_ids"], after["attention_mask"], strict=True
    ):
        yield one[mask_one.bool()].tolist(), two[mask_two.bool()].tolist()


@pytest.mark.parametrize("name", TEXT)
def test_masks_fit_and_specials_stay(name: str) -> None:
    @settings(max_examples=25)
    @given(batches("text", name), st.sampled_from([1.0, 4.0, 10.0]), st.integers(0, 9))
    def holds(inputs: dict[str, Tensor], strength: float, seed: int) -> None:
        after, _ = augment(inputs, name, strength, seed)
        assert torch.equal(after["attention_mask"], (after["input_ids"] != 0).long())
        assert (after["attention_mask"].diff(dim=1) <= 0).all()
        assert (after["token_type_ids"] <= after["attention_mask"]).all()
        for old, new in rows(inputs, after):
            assert [token for token in new if token in (CLS, SEP)] == [CLS, SEP]
            assert (new[0], new[-1]) == (CLS, SEP)
            assert len(new) > 2 or len(old) == 2

    holds()


@settings(max_examples=25)
@given(batches("text", "synonym"), st.sampled_from([1.0, 5.0]))
def test_a_synonym_stands_where_its_word_stood(inputs: dict[str, Tensor], strength: float) -> None:
    after, _ = augment(inputs, "synonym", strength)
    for old, new in rows(inputs, after):
        changed = [(a, b) for a, b in zip(old, new, strict=True) if a != b]
        assert all(b - a in (1000, 2000) for a, b in changed)
        assert len(changed) <= 0.1 * strength * (len(old) - 2) + 1
    assert torch.equal(after["token_type_ids"], inputs["token_type_ids"])


@settings(max_examples=25)
@given(batches("text", "insertion"), st.sampled_from([1.0, 10.0]))
def test_an_insertion_adds_synonyms_of_the_texts_words(inputs: dict[str, Tensor], strength: float) -> None:
    after, _ = augment(inputs, "insertion", strength)
    room = inputs["input_ids"].shape[1]
    for old, new in rows(inputs, after):
        added = [token for token in new if token >= 1000]
        assert [token for token in new if token < 1000] == old
        assert {token % 1000 for token in added} <= set(old)
        assert len(added) == min(len(old) - 2, room - len(old)) if strength == 10 else len(added) <= 0.1 * (len(old) - 2) + 1


@settings(max_examples=25)
@given(batches("text", "deletion"), st.sampled_from([1.0, 5.0, 10.0]))
def test_a_deletion_leaves_a_subsequence(inputs: dict[str, Tensor], strength: float) -> None:
    for old, new in rows(inputs, augment(inputs, "deletion", strength)[0]):
        assert twin.is_subsequence(new, old)
        assert strength < 10 or len(new) == min(len(old), 3)


@settings(max_examples=25)
@given(batches("text", "swap"), st.sampled_from([1.0, 10.0]))
def test_a_swap_keeps_the_words_and_changes_their_order(inputs: dict[str, Tensor], strength: float) -> None:
    after, _ = augment(inputs, "swap", strength)
    for old, new in rows(inputs, after):
        assert sorted(new) == sorted(old)
        assert strength > 1 or sum(a != b for a, b in zip(old, new, strict=True)) in (0, 2, 3, 4)
    assert torch.equal(after["token_type_ids"], inputs["token_type_ids"])


def test_two_words_swap() -> None:
    inputs = texts([4], 5)
    assert augment(inputs, "swap", 5.0)[0]["input_ids"].tolist() == [[CLS, 11, 10, SEP, 0]]


@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("name", TEXT)
def test_a_tenth_of_the_words_times_strength_change(name: str, strength: float) -> None:
    inputs = texts([9] * 1000, 20)  # 7 words: less than one of them at a tenth
    changed = [
        abs(len(new) - len(old)) or sum(a != b for a, b in zip(old, new, strict=True))
        for old, new in rows(inputs, augment(inputs, name, strength)[0])
    ]
    places = 2 if name == "swap" else 1
    assert sum(changed) / 7000 == pytest.approx(0.1 * strength * places, rel=0.15)


@pytest.mark.parametrize("name", ["insertion", "deletion"])
def test_segments_follow_their_words(name: str) -> None:
    inputs = texts([12] * 20, 20)
    inputs["token_type_ids"] = (torch.arange(20) >= 6) * inputs["attention_mask"]
    after, _ = augment(inputs, name, 4.0)
    for (_, tokens), segments in zip(rows(inputs, after), after["token_type_ids"].tolist(), strict=True):
        known = [(token, segment) for token, segment in zip(tokens, segments, strict=False) if 10 <= token < 1000]
        assert all(segment == (token >= 15) for token, segment in known)  # word 10 stands at position 1
        assert segments[: len(tokens)] == sorted(segments[: len(tokens)])  # newcomers are of the segment that they stand in
        assert not any(segments[len(tokens) :])


def test_without_a_mask_the_padding_is_what_follows_the_last_word() -> None:
    ids = torch.tensor([[5, 0, 6, 7, 0, 0]])
    after, _ = Augmenter([Scaled("deletion", 10.0)], special=[5, 6])(ids)
    assert after[0, :2].tolist() == [5, 0] or after[0, :2].tolist() == [5, 6]
    both, mask = Augmenter([Scaled("deletion", 10.0)])((texts([6], 8)["input_ids"], texts([6], 8)["attention_mask"]))[0]
    assert torch.equal(mask, (both != 0).long())


def test_positions_are_left_alone_and_another_padding_is_put_in() -> None:
    inputs = {"input_ids": torch.tensor([[5, 6, 7, 8, 9, 9]]), "position_ids": torch.arange(6)[None]}
    after, _ = Augmenter([Scaled("deletion", 10.0)], pad=9)(inputs)
    assert (after["input_ids"] == 9).sum() == 5
    assert torch.equal(after["position_ids"], inputs["position_ids"])


def test_a_special_or_padding_synonym_is_never_put_in() -> None:
    ids = torch.arange(4, 12).repeat(6, 1)
    augmenter = Augmenter([Scaled("synonym", 10.0)], synonyms=lambda x: torch.stack([x * 0, x * 0 + SEP, x, x + 50], 1), special=(SEP,))
    assert torch.equal(augmenter(ids)[0], ids + 50)


def test_words_without_synonyms_stay() -> None:
    ids = torch.arange(4, 12).repeat(6, 1)
    for name in ("synonym", "insertion"):
        assert torch.equal(Augmenter([Scaled(name, 10.0)], synonyms=lambda x: x[:, None])(ids)[0], ids)


def test_padding_on_the_left_is_refused() -> None:
    inputs = {"input_ids": torch.tensor([[0, 0, 5, 6]]), "attention_mask": torch.tensor([[0, 0, 1, 1]])}
    with pytest.raises(BadInput, match="padded on the right"):
        augment(inputs, "swap")
