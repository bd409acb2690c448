"""Splits, loaders and the calibration subset. The same seed gives the same split, on any machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from laconic.core.errors import BadInput


class ArrayDataset(Dataset[tuple[Any, Tensor]]):
    """Arrays in memory as a map-style dataset of `(inputs, target)`.

    Args:
        inputs: one array, shape (n, …), or several by the name of the model's argument.
        target: shape (n, …).
    """

    def __init__(self, inputs: np.ndarray | Mapping[str, np.ndarray], target: np.ndarray) -> None:
        self._named = isinstance(inputs, Mapping)
        arrays = dict(inputs) if isinstance(inputs, Mapping) else {"": inputs}
        self._inputs = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
        self.target = torch.from_numpy(np.ascontiguousarray(target))
        lengths = {len(tensor) for tensor in (*self._inputs.values(), self.target)}
        if len(lengths) != 1:
            raise BadInput(f"inputs and target have different lengths: {', '.join(map(str, sorted(lengths)))}")

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, index: int) -> tuple[Any, Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        row = {name: tensor[index] for name, tensor in self._inputs.items()}
        return (row if self._named else row[""]), self.target[index]

    def take(self, index: Sequence[int] | np.ndarray) -> ArrayDataset:
        """Copy the examples at these positions."""
        rows = {name: tensor[index].numpy() for name, tensor in self._inputs.items()}
        return ArrayDataset(rows if self._named else rows[""], self.target[index].numpy())


def split_indices(labels: np.ndarray, fractions: Sequence[float], seed: int = 0) -> list[np.ndarray]:
    """Shuffle examples and deal them into parts, each class in the same proportions.

    Args:
        labels: shape (n,), whole numbers.
        fractions: of the parts; they sum to 1. Every part gets at least one example of each class that has as many examples as there are parts.
        seed: of the shuffle.

    Returns:
        Sorted positions, one array for each part.
    """
    if abs(sum(fractions) - 1) > 1e-9 or min(fractions) <= 0:
        raise BadInput(f"the fractions of a split must be positive and sum to 1; they are {list(fractions)}")
    rng = np.random.default_rng(seed)
    parts: list[list[np.ndarray]] = [[] for _ in fractions]
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        cuts = np.round(np.cumsum(fractions)[:-1] * len(rows)).astype(int)
        if len(rows) >= len(fractions):
            floor = np.arange(1, len(fractions))
            cuts = np.clip(cuts, floor, len(rows) - floor[::-1])
        for part, chosen in zip(parts, np.split(rows, cuts), strict=True):
            part.append(chosen)
    return [np.sort(np.concatenate(part)) for part in parts]


def no_dataset(data: Any) -> str | None:
    """Return why something is no dataset of examples, and what to give in its place; None where it may be one.

    >>> no_dataset(iter(())), no_dataset([])
    ('tuple_iterator has no length; give a map-style dataset, such as list(data) where it fits into memory', 'the dataset is empty')
    """
    kind = type(data).__name__
    if isinstance(data, DataLoader):
        return "a DataLoader makes batches itself; give its dataset, loader.dataset, and Task(batch_size=…, collate=…) for how batches are made"
    if isinstance(data, Mapping):
        return f"{kind} is a mapping, no dataset of examples; torch.utils.data.TensorDataset(inputs, targets) makes one of tensors"
    if isinstance(data, (Tensor, np.ndarray)):
        return f"{kind} is one array without targets; torch.utils.data.TensorDataset(inputs, targets) makes a dataset of two tensors"
    if (
        isinstance(data, (tuple, list))
        and len(data) == 2
        and all(isinstance(part, (Tensor, np.ndarray)) and len(part) != 2 for part in data)
    ):
        return "two arrays are no dataset of examples; torch.utils.data.TensorDataset(inputs, targets) makes one of two tensors (torch.from_numpy(array))"
    if not isinstance(data, Sized):
        return f"{kind} has no length; give a map-style dataset, such as list(data) where it fits into memory"
    return "the dataset is empty" if len(data) == 0 else None


def loader(
    data: Dataset[Any], batch_size: int, *, shuffle: bool, seed: int, collate: Callable[[list[Any]], Any] | None = None
) -> DataLoader[Any]:
    """Load a dataset in batches, shuffled by a generator of their own."""
    return DataLoader(data, batch_size, shuffle=shuffle, collate_fn=collate, generator=torch.Generator().manual_seed(seed))


def words(text: str) -> Iterator[str]:
    """Yield lower-case words and single punctuation marks.

    >>> list(words("It's fine, isn't it?"))
    ['it', "'", 's', 'fine', ',', 'isn', "'", 't', 'it', '?']
    """
    import re

    yield from re.findall(r"\w+|[^\w\s]", text.lower())


class Vocabulary:
    """The commonest words of a corpus. Entry 0 is padding, entry 1 stands for every other word."""

    def __init__(self, texts: Sequence[str], size: int) -> None:
        from collections import Counter

        counts = Counter(word for text in texts for word in words(text))
        ranked = sorted(counts, key=lambda word: (-counts[word], word))[: size - 2]
        self._index = {word: position for position, word in enumerate(ranked, start=2)}

    def __len__(self) -> int:
        return len(self._index) + 2

    @property
    def words(self) -> tuple[str, ...]:
        """The word of each id; padding is empty."""
        return ("", "<unknown>", *self._index)

    def encode(self, texts: Sequence[str], length: int) -> dict[str, np.ndarray]:
        """Encode texts as token ids and attention mask, both int64 of shape (texts, length); longer texts are cut."""
        ids = np.zeros((len(texts), length), np.int64)
        for row, text in enumerate(texts):
            tokens = [self._index.get(word, 1) for word in words(text)][:length]
            ids[row, : len(tokens)] = tokens
        return {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64)}
