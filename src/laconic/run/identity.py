"""What a task is made of, as digests by part: its data and its code. A run that is continued with others is not the same run.

Data is told apart by its size, by the arrays and lists that the dataset holds in memory (its targets, its file names), and by examples spread over it, as the
dataset gives them. Code is the byte code of what the task brings, and of what that calls in modules of the user's own; comments and layout are no part of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import sys
import sysconfig
import types
from collections.abc import Iterable, Iterator, Mapping, Sized
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from laconic.core.task import Task, default_logits, split_batch

Word = bytes | memoryview
_SPREAD = 32  # examples that are looked at
_BYTES = 256 << 20  # of an array that is read whole; of a larger one, as many bytes of rows spread over it
_ITEMS = 1 << 20  # of a list that is read whole
_DEPTH = 4  # of containers and of datasets in datasets
_PLAIN = (str, bytes, bool, int, float, complex, type(None), Path)
_UNREADABLE = (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)


def data_of(task: Task) -> dict[str, str]:
    """Return a digest of each dataset, by its name in the task."""
    parts = {"train": task.train, "valid": task.valid, "test": task.test}
    return {name: _data(data) for name, data in parts.items() if data is not None}


def code_of(task: Task) -> dict[str, str]:
    """Return a digest of the code of each part of a task that the user wrote; parts that come from a library are left out."""
    made = [] if not isinstance(task.model, nn.Module) else list(dict.fromkeys(type(module) for module in task.model.modules()))
    parts: dict[str, list[Any]] = {
        "model": made or [task.model],
        "loss": [task.loss],
        "metric": [task.metric],
        "split": [task.split] if task.split is not split_batch else [],
        "logits": [task.logits] if task.logits is not default_logits else [],
        "collate": [task.collate],
    }
    digests = {name: _code(found) for name, found in parts.items() if found}
    return {name: digest for name, digest in digests.items() if digest}


# Data -------------------------------------------------------------------------------------------------------------------------------


def _data(data: Dataset[Any]) -> str:
    digest = hashlib.sha256()
    size = len(data) if isinstance(data, Sized) else -1
    digest.update(str(size).encode())
    for word in _held(data, _DEPTH):
        digest.update(word)
    for index in np.unique(np.linspace(0, size - 1, _SPREAD).round().astype(int)) if size > 0 else ():
        digest.update(_example(data, int(index)))
    return digest.hexdigest()[:16]


def _example(data: Any, index: int) -> bytes:
    """Return what an example is. Where chance that no seed holds makes it, that is its shapes and types alone."""
    seen = []
    for _ in range(2):
        with seeded(index):
            try:
                seen.append(data[index])
            except Exception as error:  # noqa: BLE001 - whatever the data raises, it is told where the examples are used
                return f"{type(error).__name__}".encode()
    first, second = (b"".join(_content(value, _DEPTH)) for value in seen)
    return first if first == second else b"".join(_content(seen[0], _DEPTH, values=False))


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed Python, numpy and torch, and give their states back: looking at data changes no run."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def _held(data: Any, depth: int) -> Iterator[Word]:
    """Yield the arrays, lists and tables that a dataset holds in memory, and those of the datasets in it. Numbers and texts may be its state, not its data."""
    if isinstance(data, (list, tuple)):
        yield from _content(data, depth)
        return
    for name, value in sorted(getattr(data, "__dict__", {}).items()) if depth else ():
        inner = (
            [value]
            if isinstance(value, Dataset)
            else [item for item in value if isinstance(item, Dataset)]
            if isinstance(value, list)
            else []
        )
        if inner:
            yield name.encode()
            for item in inner:
                yield from _held(item, depth - 1)
        elif isinstance(value, (Tensor, np.ndarray, list, tuple)) or (
            isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
        ):
            yield name.encode()
            yield from _content(value, depth)


def _content(value: Any, depth: int, values: bool = True) -> Iterator[Word]:
    """Yield bytes that tell a tree of tensors, arrays, numbers and texts from another; of other objects their class."""
    yield type(value).__name__.encode()
    if isinstance(value, Tensor):
        yield from _array(_dense(value), values)
    elif isinstance(value, (np.ndarray, np.generic)):
        yield from _array(np.asarray(value), values)
    elif isinstance(value, _PLAIN):
        yield _repr(value) if values else b""
    elif isinstance(value, Mapping) and depth:
        for key, item in _spread(list(value.items())):
            yield _repr(key)
            yield from _content(item, depth - 1, values)
    elif isinstance(value, (list, tuple)) and depth:
        yield str(len(value)).encode()
        for item in _spread(value):
            yield from _content(item, depth - 1, values)
    elif callable(getattr(value, "tobytes", None)) and values:  # a picture
        with contextlib.suppress(*_UNREADABLE):
            yield value.tobytes()


def _dense(value: Tensor) -> np.ndarray:
    """Return a tensor as numpy; its shape alone where numpy knows nothing like it."""
    with contextlib.suppress(*_UNREADABLE):
        plain = value.detach().cpu().resolve_conj().resolve_neg()
        return np.asarray((plain.float() if plain.dtype == torch.bfloat16 else plain).numpy())
    return np.asarray(list(value.shape))


def _array(array: np.ndarray, values: bool) -> Iterator[Word]:
    yield f"{array.dtype}{array.shape}".encode()
    if values and array.dtype == object:
        yield from (_repr(item) for item in _spread(array.ravel()))
    elif values:
        step = array.nbytes // _BYTES + 1
        yield np.ascontiguousarray(array[::step] if array.ndim else array).reshape(-1).view(np.uint8).data


def _spread(items: Any) -> Any:
    """Return all items, or of a longer list so many that are spread over it."""
    return items[:: len(items) // _ITEMS + 1]


def _repr(value: Any) -> bytes:
    """Write a plain value; of another object its class, since how it prints may differ from process to process."""
    if isinstance(value, (tuple, list)):
        return b"(" + b",".join(map(_repr, value)) + b")"
    if isinstance(value, (set, frozenset)):
        return b"{" + b",".join(sorted(map(_repr, value))) + b"}"
    return (repr(value) if isinstance(value, _PLAIN) else type(value).__name__).encode("utf-8", "backslashreplace")


# Code -------------------------------------------------------------------------------------------------------------------------------


def _code(roots: Iterable[Any]) -> str:
    """Return a digest of the byte code of functions and classes and of what they call of the user's own; empty where nothing of it is the user's."""
    digest, seen, waiting = hashlib.sha256(), set(), list(roots)
    found = False
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if not _users_own(value):
            continue
        found = True
        for word, more in _words(value):
            digest.update(word)
            waiting += more
    return digest.hexdigest()[:16] if found else ""


def _users_own(value: Any) -> bool:
    """Return whether a function, a class or the class of an object was written by the user: it stands in no installed package."""
    if isinstance(value, types.MethodType):
        value = value.__func__
    owner = value if isinstance(value, (type, types.FunctionType)) else type(value)
    module = sys.modules.get(owner.__module__ or "")
    if module is None or owner.__module__.split(".")[0] in ("laconic", "builtins"):
        return False
    file = getattr(module, "__file__", None)
    return file is None or not any(Path(file).resolve().is_relative_to(place) for place in _installed())


def _installed() -> Iterator[Path]:
    for name in ("stdlib", "platstdlib", "purelib", "platlib"):
        yield Path(sysconfig.get_paths()[name]).resolve()


def _words(value: Any) -> Iterator[tuple[bytes, list[Any]]]:
    """Yield the digest's words of an object, and what it leads to."""
    if isinstance(value, types.MethodType):
        yield b"method", [value.__func__, value.__self__]
    elif isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if _filled(cell)]
        yield from _function(
            value.__code__, value.__globals__, [*cells, *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
        )
    elif isinstance(value, type):
        yield value.__qualname__.encode(), list(value.__bases__)
        for name, item in sorted(vars(value).items(), key=lambda entry: entry[0]):
            yield from _member(name, item)
    else:
        yield b"object", [type(value)]


def _member(name: str, item: Any) -> Iterator[tuple[bytes, list[Any]]]:
    if isinstance(item, (staticmethod, classmethod)):
        item = item.__func__
    if isinstance(item, property):
        yield name.encode(), [part for part in (item.fget, item.fset) if part is not None]
    elif isinstance(item, types.FunctionType):
        yield name.encode(), [item]
    elif not name.startswith("__") and isinstance(item, (*_PLAIN, tuple)):
        yield name.encode() + b"=" + _repr(item), []


def _filled(cell: Any) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _function(code: types.CodeType, names: Mapping[str, Any], held: list[Any]) -> Iterator[tuple[bytes, list[Any]]]:
    """Yield the words of a function's code: instructions, constants, and the values or the code of the names that it uses."""
    yield code.co_code, []
    yield _repr([constant for constant in code.co_consts[_documented(code) :] if not isinstance(constant, types.CodeType)]), []
    yield _repr(code.co_names), []
    for value in [*held, *(names[name] for name in code.co_names if name in names)]:
        if isinstance(value, (type, types.FunctionType, types.MethodType)):
            yield b"", [value]
        elif isinstance(value, (*_PLAIN, tuple, list)):
            yield _repr(value), []
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _function(inner, names, [])


_HAS_DOCSTRING = 0x4000000  # of a code's flags, from Python 3.13 on; before, the first constant is the docstring or None


def _documented(code: types.CodeType) -> int:
    """Return how many of the constants are the function's docstring."""
    known = (
        bool(code.co_flags & _HAS_DOCSTRING) if sys.version_info >= (3, 13) else isinstance(code.co_consts[:1] and code.co_consts[0], str)
    )
    return int(known)
