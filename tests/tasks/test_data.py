from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from laconic.core.errors import BadInput
from laconic.core.task import calibration_subset
from laconic.tasks.data import ArrayDataset, Vocabulary, loader, split_indices

labels = st.lists(st.integers(0, 4), min_size=3, max_size=200).map(np.array)


@given(labels, st.sampled_from([(0.8, 0.2), (0.6, 0.2, 0.2), (0.05, 0.95)]), st.integers(0, 3))
def test_a_split_deals_every_example_once(y: np.ndarray, fractions: tuple[float, ...], seed: int) -> None:
    parts = split_indices(y, fractions, seed)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(y)))
    for label, n in zip(*np.unique(y, return_counts=True), strict=True):
        for part, fraction in zip(parts, fractions, strict=True):
            found = int((y[part] == label).sum())
            assert abs(found - fraction * n) <= 1
            assert found >= 1 or n < len(fractions)


def test_a_split_is_stratified_like_scikit_learns() -> None:
    y = np.repeat([0, 1, 2], [100, 50, 10])
    ours = split_indices(y, (0.8, 0.2))
    theirs = train_test_split(np.arange(160), test_size=0.2, stratify=y, random_state=0)
    for mine, other in zip(ours, theirs, strict=True):
        assert np.array_equal(np.bincount(y[mine]), np.bincount(y[other]))


def test_the_same_seed_gives_the_same_split_and_another_another() -> None:
    y = np.arange(100) % 5
    first, again, other = (split_indices(y, (0.5, 0.5), seed)[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("fractions", [(0.5, 0.6), (1.2, -0.2), (0.5,)])
def test_fractions_must_make_a_whole(fractions: tuple[float, ...]) -> None:
    with pytest.raises(BadInput, match="sum to 1"):
        split_indices(np.arange(10), fractions)


def test_an_array_dataset_holds_one_input_or_several() -> None:
    one = ArrayDataset(np.arange(6.0).reshape(3, 2), np.arange(3))
    several = ArrayDataset({"a": np.arange(3), "b": np.ones((3, 2))}, np.arange(3))
    assert torch.equal(one[1][0], torch.tensor([2.0, 3.0], dtype=torch.float64))
    assert several[2][0]["a"] == 2
    assert several[2][0]["b"].shape == (2,)
    assert [int(t) for _, t in one.take([2, 0])] == [2, 0]  # type: ignore[attr-defined]
    assert len(list(one)) == 3  # type: ignore[call-overload]
    with pytest.raises(BadInput, match="different lengths: 2, 3"):
        ArrayDataset(np.ones(3), np.ones(2))


def test_a_loader_shuffles_by_its_seed() -> None:
    data = ArrayDataset(np.arange(32), np.arange(32))

    def order(shuffle: bool, seed: int) -> list[int]:
        return torch.cat([batch[1] for batch in loader(data, 8, shuffle=shuffle, seed=seed)]).tolist()

    assert order(False, 0) == list(range(32))
    assert order(True, 1) == order(True, 1) != order(True, 2)


def test_a_calibration_subset_is_drawn_without_replacement() -> None:
    data = ArrayDataset(np.arange(50), np.arange(50))
    found = [int(target) for _, target in calibration_subset(data, 20, seed=3)]  # type: ignore[attr-defined]
    assert len(set(found)) == 20
    assert found == [int(target) for _, target in calibration_subset(data, 20, seed=3)]  # type: ignore[attr-defined]
    assert found != [int(target) for _, target in calibration_subset(data, 20, seed=4)]  # type: ignore[attr-defined]
    assert len(calibration_subset(data, 500)) == 50


def test_a_vocabulary_keeps_the_commonest_words() -> None:
    vocabulary = Vocabulary(["a a a b b", "b a c"], size=4)
    found = vocabulary.encode(["a b c", "b"], length=2)
    assert len(vocabulary) == 4
    assert found["input_ids"].tolist() == [[2, 3], [3, 0]]
    assert found["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert Vocabulary(["a a a b b", "b a c"], size=5).encode(["c d"], 3)["input_ids"].tolist() == [[4, 1, 0]]
