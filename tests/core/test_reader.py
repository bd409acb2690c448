"""What a user's dataset, collate or split raises is told with the data's name and the example's number."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, Subset

import laconic as lc
from laconic.core.errors import BadInput
from laconic.core.reader import Reader, reader_of
from laconic.run.examples import batches


class Rows(Dataset[Any]):
    """Sound but for one example: reading it raises, or its shape is another."""

    def __init__(self, bad: int = 170, how: str = "raise") -> None:
        self.bad, self.how = bad, how

    def __len__(self) -> int:
        return 200

    def __getitem__(self, index: int) -> Any:
        if index == self.bad and self.how == "raise":
            raise OSError("truncated file")
        if index == self.bad and self.how == "memory":
            raise MemoryError
        return torch.zeros(3 if index == self.bad and self.how == "shape" else 2), int(index == self.bad)


class Whole(Rows):
    """Reads a batch at once."""

    calls = 0

    def __getitems__(self, indices: list[int]) -> list[Any]:
        self.calls += 1
        return [self[index] for index in indices]


def task(data: Any, **changes: Any) -> lc.Task:
    return lc.Task(nn.Linear(2, 2), None, data, batch_size=64, **changes)


@pytest.mark.parametrize("kind", [Rows, Whole])
def test_an_example_that_cannot_be_read_is_named(kind: type[Rows]) -> None:
    data = kind()
    with pytest.raises(BadInput, match=r"^the valid data: example 170 cannot be read: OSError: truncated file, test_reader.py line \d+$"):
        list(batches(task(data), data))


@pytest.mark.parametrize("order", ["sequential", "shuffled"])
def test_of_a_part_of_the_data_the_number_in_the_whole_is_told(order: str) -> None:
    data = Rows()
    part = Subset(Subset(data, list(range(100, 200))), [5, 70, 80])
    loader = reader_of(task(data), part).loader(3, None, shuffle=order == "shuffled")
    with pytest.raises(BadInput, match="the valid data: example 170 cannot be read"):
        list(loader)


def test_batches_that_cannot_be_made_or_split_name_their_examples() -> None:
    with pytest.raises(
        BadInput, match="the valid data: no batch can be made of the examples 128 to 191: RuntimeError: stack expects each tensor"
    ):
        list(batches(task(data := Rows(how="shape")), data))

    def split(batch: Any) -> Any:
        return batch[0], {0: batch[1]}[int(batch[1].sum())]

    with pytest.raises(BadInput, match=r"the valid data: Task\(split=…\) cannot split the batch of the examples 128 to 191: KeyError: 1"):
        list(batches(task(data := Rows(how="none"), split=split), data))


def test_named_errors_and_want_of_memory_pass() -> None:
    with pytest.raises(MemoryError):
        list(batches(task(data := Rows(how="memory")), data))


def test_data_that_reads_batches_at_once_goes_on_doing_so() -> None:
    data = Whole(bad=-1)
    assert len(list(Reader(data, "the data").loader(50, None))) == data.calls == 4


def test_training_names_the_example_too() -> None:
    plan = lc.FitPlan(epochs=1, batch_size=16)
    with pytest.raises(BadInput, match="the train data: example 170 cannot be read"):
        lc.fit(nn.Linear(2, 2), plan, train=Rows(), loss=nn.functional.cross_entropy)
