"""Batches put together: targets of any nesting, outputs of any length, and the rows of a few examples taken out again.

A target is a tensor, or a list, tuple or mapping. Joined, a *list* has one entry for each example (strings, dicts of boxes, …) and a *tuple* or *mapping* has
parts, each with one entry for each example.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from laconic.core.errors import BadInput

_NUMBERS = (bool, int, float, np.generic)
_WANTED = "a target must be a tensor, or a list with an entry for each example, or a tuple or mapping of such parts"


def sizes_of(n: int, batch: int) -> list[int]:
    """Return how many of `n` examples each batch holds.

    >>> sizes_of(7, 3)
    [3, 3, 1]
    """
    return [min(batch, n - start) for start in range(0, n, batch)]


def plain_target(value: Any, size: int, like: Any = None) -> Any:
    """Bring a batch's target into the form that joined targets have: tensors, lists by example, tuples and mappings of parts.

    Args:
        value: as the user's data gives it; arrays and lists of numbers become tensors.
        size: examples in the batch; it tells a list of examples from a list of parts.
        like: another batch's in this form, which is followed where a batch is too small to tell.

    Raises:
        BadInput: an object that is none of these.
    """
    if isinstance(value, Tensor):
        return value.reshape(1) if value.dim() == 0 and size == 1 else value
    if isinstance(value, np.ndarray):
        return value.tolist() if value.dtype == object else torch.as_tensor(value)
    if isinstance(value, _NUMBERS) and size == 1:
        return torch.as_tensor(value).reshape(1)
    if isinstance(value, Mapping):
        known = like if isinstance(like, Mapping) else {}
        return {key: plain_target(item, size, known.get(key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        if _by_example(value, size) if like is None else not isinstance(like, tuple):
            return torch.as_tensor(value) if all(isinstance(item, _NUMBERS) for item in value) else list(value)
        others = like if isinstance(like, tuple) and len(like) == len(value) else (None,) * len(value)
        return tuple(plain_target(item, size, other) for item, other in zip(value, others, strict=True))
    raise BadInput(f"{_WANTED}; this one is {type(value).__name__}. Give Task(split=…) or Task(collate=…) that makes one.")


def _by_example(value: Sequence[Any], size: int) -> bool:
    return len(value) == size and (size == 1 or not all(_is_part(item, size) for item in value))


def _is_part(value: Any, size: int) -> bool:
    """Return whether an entry of a list holds all examples of the batch, and not one of them."""
    return isinstance(value, (Tensor, np.ndarray)) and value.ndim > 0 and value.shape[0] == size


def rows(value: Any, index: Any) -> Any:
    """Take the examples at these positions out of a joined target or of outputs.

    Args:
        value: as `join_targets` returns it.
        index: positions, shape (k,).
    """
    if isinstance(value, Tensor):
        return value[torch.as_tensor(index)]
    if isinstance(value, Mapping):
        return {key: rows(item, index) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(rows(item, index) for item in value)
    return [value[int(i)] for i in index]


def count(value: Any) -> int:
    """Return the number of examples in a joined target; -1 where its parts have different numbers."""
    if isinstance(value, (Tensor, list)):
        return len(value) if isinstance(value, list) or value.dim() else -1
    sizes = {count(item) for item in (value.values() if isinstance(value, Mapping) else value)}
    return sizes.pop() if len(sizes) == 1 else -1


def join_targets(targets: Sequence[Any], sizes: Sequence[int], again: Callable[[], Any]) -> Any:
    """Join the targets of batches.

    Batches of different length are padded as the user pads them: `again` collates all examples at once.

    Args:
        targets: of batches, in order, as the data gives them.
        sizes: examples in each.
        again: returns the target of all examples as one batch.

    Raises:
        BadInput: what no target can be, or lengths that differ and cannot be padded alike.
    """
    first = plain_target(targets[0], sizes[0])
    parts = [first, *(plain_target(target, size, first) for target, size in zip(targets[1:], sizes[1:], strict=True))]
    if not any(_ragged(leaves) for leaves in _leaves(parts)):
        return _joined(parts)
    whole = _collated(again, sum(sizes), first)
    start = 0
    for part, size in zip(parts, sizes, strict=True):
        for own, wide in zip(_tensors(part), _tensors(rows(whole, range(start, start + size))), strict=True):
            if own.dim() != wide.dim() or not torch.equal(own, wide[tuple(slice(length) for length in own.shape)]):
                raise BadInput(
                    f"the targets of batches have different shapes, one is {tuple(own.shape)}, and collated with all examples it is not the beginning of "
                    f"{tuple(wide.shape)}. Pad at the end in Task(collate=…)."
                )
        start += size
    return whole


def _collated(again: Callable[[], Any], n: int, like: Any) -> Any:
    try:
        return plain_target(again(), n, like)
    except (RuntimeError, TypeError, ValueError, LookupError) as error:
        raise BadInput(
            f"the targets of batches have different shapes, and all examples cannot be collated at once ({type(error).__name__}: "
            f"{str(error).splitlines()[0][:200] if str(error) else ''}). Give Task(collate=…) that pads any examples to the longest of them."
        ) from error


def padding(targets: Sequence[Any], sizes: Sequence[int], whole: Any) -> Tensor:
    """Return the values with which tensors of batches, shape (b, …), were filled up to the longest when they were joined; shape (k,)."""
    fillings, start = [], 0
    for target, size in zip(targets, sizes, strict=True):
        own, wide = plain_target(target, size), rows(whole, range(start, start + size))
        filled = torch.ones(wide.shape, dtype=torch.bool)
        filled[tuple(slice(length) for length in own.shape)] = False
        fillings.append(wide[filled])
        start += size
    return torch.cat(fillings)


def _ragged(parts: Sequence[Tensor]) -> bool:
    return len({tuple(part.shape[1:]) for part in parts}) > 1


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of a target that have an entry for each example."""
    if isinstance(value, Tensor):
        yield value
    elif not isinstance(value, list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(item)


def _leaves(parts: Sequence[Any]) -> Iterator[tuple[Tensor, ...]]:
    yield from zip(*(list(_tensors(part)) for part in parts), strict=True)


def _joined(parts: Sequence[Any]) -> Any:
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(list(parts))
    if isinstance(first, Mapping):
        return {key: _joined([part[key] for part in parts]) for key in first}
    if isinstance(first, tuple):
        return tuple(_joined([part[i] for part in parts]) for i in range(len(first)))
    return [item for part in parts for item in part]


def join_tensors(parts: Sequence[Tensor]) -> Tensor:
    """Join tensors (b, …) along the batch; shorter ones are filled up at the end with zeros, False for truth values."""
    if not parts[0].dim():
        return torch.stack(list(parts))
    if not _ragged(parts):
        return torch.cat(list(parts))
    shape = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
    whole = parts[0].new_zeros((sum(map(len, parts)), *shape))
    start = 0
    for part in parts:
        whole[(slice(start, start + len(part)), *(slice(length) for length in part.shape[1:]))] = part
        start += len(part)
    return whole
