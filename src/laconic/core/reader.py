"""Datasets that tell which example could not be read: what a user's dataset raises comes with the name of the data and the example's number."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch.utils.data import DataLoader, Dataset, Subset, default_collate

from laconic.core.errors import BadInput, LaconicError
from laconic.core.reading import told
from laconic.core.task import Task

Collate = Callable[[list[Any]], Any]


class Reader(Dataset[Any]):
    """A dataset as it is, but that its errors name the example.

    Args:
        data: map-style.
        name: what it is called in messages, e.g. ``the valid data``.
    """

    def __init__(self, data: Any, name: str) -> None:
        self._data, self._name = data, name
        self._last: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> Any:
        self._last = (index,)
        return self._read(index)

    def __getitems__(self, indices: list[int]) -> list[Any]:
        """Read a batch, as a loader asks for it: at once where the dataset can do that itself."""
        self._last = indices
        whole = getattr(self._data, "__getitems__", None)
        if callable(whole):
            try:
                return list(whole(indices))
            except Exception:  # noqa: BLE001 - read again one by one, so that the example is found
                return [self._read(index) for index in indices]
        return [self._read(index) for index in indices]

    def _read(self, index: int) -> Any:
        try:
            return self._data[index]
        except (LaconicError, MemoryError):
            raise
        except Exception as error:
            raise BadInput(f"{self._name}: example {_place(self._data, index)} cannot be read: {told(error)}") from error

    def loader(self, batch_size: int, collate: Collate | None, **options: Any) -> DataLoader[Any]:
        """Load it in batches; further options are those of `DataLoader`."""
        return DataLoader(self, batch_size, collate_fn=self.collated(collate), **options)

    def collated(self, collate: Collate | None) -> Collate:
        """Return a function that makes a batch of the examples read last, and names them where it cannot."""

        def make(examples: list[Any]) -> Any:
            with self.naming("no batch can be made"):
                return (collate or default_collate)(examples)

        return make

    @contextlib.contextmanager
    def naming(self, what: str) -> Iterator[None]:
        """Name the examples that were read last where the user's code fails on them; `what` says at what."""
        try:
            yield
        except (LaconicError, MemoryError):
            raise
        except Exception as error:
            places = [_place(self._data, index) for index in self._last]
            row = len(places) > 1 and places == list(range(places[0], places[-1] + 1))
            some = f"{places[0]} to {places[-1]}" if row else ", ".join(map(str, places[:8])) + ", …" * (len(places) > 8)
            raise BadInput(f"{self._name}: {what} of the examples {some}: {told(error)}") from error


def reader_of(task: Task, data: Any) -> Reader:
    """Return a reader of data of a task, or of a part of them, under the name that the task has for them."""
    inner = data
    while isinstance(inner, Subset):
        inner = inner.dataset
    name = next((name for name in ("train", "valid", "test") if getattr(task, name) is inner), "")
    return Reader(data, f"the {name} data".replace("  ", " "))


def _place(data: Any, index: int) -> int:
    """Return an example's number in the data of which these may be a part."""
    while isinstance(data, Subset):
        data, index = data.dataset, int(data.indices[index])
    return int(index)
