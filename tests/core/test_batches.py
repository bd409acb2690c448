"""Targets and outputs of batches, joined."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from laconic.core.batches import count, join_targets, join_tensors, padding, plain_target, rows, sizes_of
from laconic.core.errors import BadInput


def never() -> Any:
    raise AssertionError("nothing has to be collated again")


def test_sizes_of_batches() -> None:
    assert sizes_of(6, 3) == [3, 3]
    assert sizes_of(2, 5) == [2]


@pytest.mark.parametrize(
    ("batches", "joined"),
    [
        ([torch.tensor([1, 2]), torch.tensor([3])], torch.tensor([1, 2, 3])),
        ([np.array([1.0, 2.0]), np.array([3.0])], torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)),
        ([[1, 2], [3]], torch.tensor([1, 2, 3])),
        ([torch.tensor([1, 2]), torch.tensor(3)], torch.tensor([1, 2, 3])),
        ([["a", "b"], ["c"]], ["a", "b", "c"]),
        ([("a", "b"), ("c",)], ["a", "b", "c"]),
        ([[{"k": 1}, {"k": 2}], [{"k": 3}]], [{"k": 1}, {"k": 2}, {"k": 3}]),
        (
            [{"c": torch.zeros(2), "s": ["a", "b"]}, {"c": torch.ones(1), "s": ["c"]}],
            {"c": torch.tensor([0.0, 0, 1]), "s": ["a", "b", "c"]},
        ),
        ([[torch.zeros(2), torch.zeros(2, 4)], [torch.ones(1), torch.zeros(1, 4)]], (torch.tensor([0.0, 0, 1]), torch.zeros(3, 4))),
    ],
)
def test_targets_of_any_nesting_are_joined(batches: list[Any], joined: Any) -> None:
    found = join_targets(batches, [2, 1], never)
    assert type(found) is type(joined)
    assert str(found) == str(joined)
    assert count(found) == 3
    assert str(rows(found, [2, 0])) == str(rows(joined, torch.tensor([2, 0])))


def test_boxes_of_each_example_stay_a_list() -> None:
    boxes = [torch.zeros(k, 4) for k in (3, 1, 5)]
    found = join_targets([boxes[:2], boxes[2:]], [2, 1], never)
    assert isinstance(found, list)
    assert [len(box) for box in rows(found, [2, 0, 1])] == [5, 3, 1]
    assert len(join_targets([boxes[:2], [torch.zeros(1, 4)]], [2, 1], never)) == 3  # one box of one example looks like a part
    assert len(join_targets([[torch.zeros(1, 4)], [torch.zeros(3, 4)]], [1, 1], never)) == 2


def test_parts_with_other_numbers_of_examples_are_seen() -> None:
    assert count(plain_target({"a": torch.zeros(4), "b": torch.zeros(9, 2)}, 4)) == -1


def test_what_is_no_target_is_refused() -> None:
    with pytest.raises(BadInput, match="a target must be a tensor, or a list .* this one is object"):
        plain_target(object(), 2)


def sequences(*lengths: int) -> list[Tensor]:
    return [torch.arange(1, n + 1) for n in lengths]


@pytest.mark.parametrize("value", [-100, 0, 9])
def test_batches_of_other_length_are_padded_as_the_user_pads_them(value: int) -> None:
    every = sequences(2, 3, 5, 4)

    def pad(chosen: list[Tensor]) -> Tensor:
        return pad_sequence(chosen, batch_first=True, padding_value=value)

    batches = [pad(every[:2]), pad(every[2:])]
    whole = join_targets(batches, [2, 2], lambda: pad(every))
    assert torch.equal(whole, pad(every))
    assert padding(batches, [2, 2], whole).tolist() == [value] * 4


def test_padding_at_the_beginning_is_refused() -> None:
    def pad(chosen: list[Tensor]) -> Tensor:
        return pad_sequence([row.flip(0) for row in chosen], batch_first=True).flip(1)

    every = sequences(2, 3, 5, 4)
    with pytest.raises(BadInput, match="Pad at the end"):
        join_targets([pad(every[:2]), pad(every[2:])], [2, 2], lambda: pad(every))


def test_lengths_that_nobody_pads_are_told() -> None:
    with pytest.raises(BadInput, match="all examples cannot be collated at once"):
        join_targets([torch.zeros(2, 3), torch.zeros(1, 4)], [2, 1], lambda: torch.stack([torch.zeros(3), torch.zeros(4)]))


def test_shorter_outputs_are_filled_up_with_zeros() -> None:
    parts = [torch.ones(2, 3, 5), torch.ones(1, 4, 2)]
    found = join_tensors(parts)
    assert found.shape == (3, 4, 5)
    assert found.sum() == 38
    assert torch.equal(found[2, :, :2], torch.ones(4, 2))
    assert torch.equal(join_tensors([torch.zeros(2, 3), torch.ones(1, 3)]), torch.tensor([[0.0] * 3, [0.0] * 3, [1.0] * 3]))
