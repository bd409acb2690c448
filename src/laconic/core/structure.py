"""Nested inputs and outputs as a flat list of tensors and a plain description of the nesting.

A description is JSON: `{"kind": "tensor"}`, `{"kind": "const", "value": …}`, `{"kind": "tuple" | "list", "items": […]}`, `{"kind": "dict" | "fields",
"keys": […], "items": […]}`. Dataclasses, named tuples and `transformers` outputs become `fields`: read by key, by attribute or by position, they come
back as `Fields`, so that a program that was saved and loaded answers exactly as the one just captured, without importing anybody's classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from laconic.core.errors import BadInput
from laconic.core.wording import shorten

Spec = dict[str, Any]
_CONSTANTS = (bool, int, float, str, type(None))
_DEEPEST = 100  # nestings of a file


class Fields(dict[str, Any]):
    """A mapping whose entries are also attributes and positions.

    >>> out = Fields(logits=1, hidden=2)
    >>> out.logits, out["hidden"], out[0]
    (1, 2, 1)
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getitem__(name)
        except KeyError:
            raise AttributeError(f"no field '{name}'; there are {', '.join(self)}") from None

    def __getitem__(self, key: Any) -> Any:
        return list(self.values())[key] if isinstance(key, (int, slice)) else super().__getitem__(key)


def checked(spec: Any, depth: int = 0) -> Spec:
    """Return a description that was read from a file, as it is.

    Raises:
        ValueError: it is none.
    """
    kind = spec.get("kind") if isinstance(spec, dict) and depth < _DEEPEST else None
    if kind == "tensor" or (kind == "const" and isinstance(spec.get("value"), _CONSTANTS)):
        return dict(spec)
    items, keys = (spec.get("items"), spec.get("keys")) if kind in ("tuple", "list", "dict", "fields") else (None, None)
    named = isinstance(items, list) and isinstance(keys, list) and len(keys) == len(items) and all(isinstance(key, str) for key in keys)
    if not isinstance(items, list) or (kind in ("dict", "fields") and not named):
        raise ValueError(f"{shorten(spec)} describes no nesting of tensors")
    for item in items:
        checked(item, depth + 1)
    return dict(spec)


def describe(value: Any, leaves: list[Tensor], place: str = "") -> Spec:
    """Describe the nesting of `value` and append its tensors to `leaves`, in order.

    Raises:
        BadInput: an object that is neither tensor, container nor constant; names its place.
    """
    if isinstance(value, Tensor):
        leaves.append(value)
        return {"kind": "tensor"}
    if isinstance(value, np.ndarray):
        leaves.append(torch.as_tensor(value))
        return {"kind": "tensor"}
    if isinstance(value, _CONSTANTS):
        return {"kind": "const", "value": value}
    kind, keys, items = _open(value, place)
    spec: Spec = {
        "kind": kind,
        "items": [describe(item, leaves, f"{place}.{key}".lstrip(".")) for key, item in zip(keys, items, strict=True)],
    }
    return {**spec, "keys": keys} if kind in ("dict", "fields") else spec


def _open(value: Any, place: str) -> tuple[str, list[Any], list[Any]]:
    if isinstance(value, Mapping):
        return "dict" if type(value) is dict else "fields", list(map(str, value)), list(value.values())
    names = getattr(type(value), "_fields", None)
    if isinstance(value, tuple) and names is not None:
        return "fields", list(names), list(value)
    if isinstance(value, (tuple, list)):
        return "tuple" if isinstance(value, tuple) else "list", list(map(str, range(len(value)))), list(value)
    if dataclasses.is_dataclass(value):
        names = [f.name for f in dataclasses.fields(value)]
        return "fields", names, [getattr(value, name) for name in names]
    items, _ = pytree.tree_flatten(value)
    if len(items) == 1 and items[0] is value:
        raise BadInput(
            f"{place or 'the value'} is a {type(value).__name__}, which is neither a tensor, a container nor a constant. "
            "Pass or return tensors in tuples, lists, mappings or dataclasses."
        )
    return "list", list(map(str, range(len(items)))), items


def flatten(spec: Spec, value: Any, place: str) -> Iterator[Tensor]:
    """Yield the tensors of `value`, nested as `spec` says.

    Raises:
        BadInput: another nesting or another constant than at capture; names the place.
    """
    kind = spec["kind"]
    if kind == "tensor":
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (np.ndarray, np.generic)):
            yield torch.as_tensor(value)
        else:
            raise BadInput(f"input '{place}' must be a tensor; it is {type(value).__name__}")
    elif kind == "const":
        if value != spec["value"]:
            raise BadInput(
                f"input '{place}' was {spec['value']!r} when the model was captured and is part of the graph; now it is {value!r}. Capture again."
            )
    else:
        keys = spec.get("keys") or range(len(spec["items"]))
        for key, item in zip(keys, spec["items"], strict=True):
            yield from flatten(item, _pick(value, key, place, len(spec["items"])), f"{place}.{key}")


def _pick(value: Any, key: Any, place: str, length: int) -> Any:
    if isinstance(value, Mapping):
        if key in value:
            return value[key]
        raise BadInput(f"input '{place}' lacks the entry '{key}'; it has {', '.join(map(str, value))}")
    if isinstance(key, int):
        if isinstance(value, (tuple, list)) and len(value) == length:
            return value[key]
        raise BadInput(f"input '{place}' must be a sequence of {length}; it is {type(value).__name__}")
    if dataclasses.is_dataclass(value) or isinstance(value, tuple):
        return getattr(value, key)
    raise BadInput(f"input '{place}' must have the entry '{key}'; it is {type(value).__name__}")


def build(spec: Spec, leaves: Iterator[Any]) -> Any:
    """Nest `leaves` again as `spec` says; the reverse of `describe`."""
    kind = spec["kind"]
    if kind == "tensor":
        return next(leaves)
    if kind == "const":
        return spec["value"]
    items = [build(item, leaves) for item in spec["items"]]
    if kind == "tuple":
        return tuple(items)
    if kind == "list":
        return items
    pairs = zip(spec["keys"], items, strict=True)
    return dict(pairs) if kind == "dict" else Fields(pairs)


def places(spec: Spec, place: str) -> Iterator[str]:
    """Yield the dotted name of each tensor."""
    if spec["kind"] == "tensor":
        yield place
    elif spec["kind"] != "const":
        keys: Sequence[Any] = spec.get("keys") or range(len(spec["items"]))
        for key, item in zip(keys, spec["items"], strict=True):
            yield from places(item, f"{place}.{key}".lstrip("."))
