"""Candidates that have one title are told apart by what differs in their recipes: another number of epochs, another seed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_SOME = 3  # differences that are told


def told_apart(records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the records, each of those that share a title with what only it has: ``prune to 50 % of MACs · ONNX Runtime · fp32 (epochs 5)``."""
    alike: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for record in records:
        alike[str(record.get("title") or "")].append(record)
    titles = {id(one): title for same in alike.values() if len(same) > 1 for one, title in zip(same, _titles(same), strict=True)}
    return [{**record, "title": titles[id(record)]} if id(record) in titles else record for record in records]


def _titles(same: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    options = [dict(_flat((one.get("recipe") or {}).get("steps"))) for one in same]
    names = [
        name for name in dict.fromkeys(name for each in options for name in each) if len({repr(each.get(name)) for each in options}) > 1
    ]
    for one, each in zip(same, options, strict=True):
        told = [str(each[name]) if name[-1].isdigit() else f"{name[-1]} {each[name]}" for name in names if each.get(name) is not None][
            :_SOME
        ]
        yield f"{one.get('title')} ({', '.join(told)})" if told else str(one.get("title"))


def _flat(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the plain values in nested mappings and lists, with their paths."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _flat(item, (*path, str(name)))
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from _flat(item, (*path, str(place)))
    elif path:
        yield path, value
