"""Where the built-in tasks' data comes from: a local folder, scikit-learn, or the hub."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from laconic.core.errors import BadInput, need
from laconic.core.reading import reading


@dataclass(frozen=True)
class Raw:
    """Train and test data as they are stored: inputs (arrays, or sentences), whole-number targets; and valid data where the set has its own."""

    train: tuple[Any, np.ndarray]
    test: tuple[Any, np.ndarray] | None
    valid: tuple[Any, np.ndarray] | None = None


@dataclass(frozen=True)
class Source:
    """Where one set lies and how it is read.

    Attributes:
        files: that must lie in the data folder; none for a set that is bundled with a library.
        read: from the data folder to the data.
        hub: name of the set on the Hugging Face hub with the columns of its inputs and targets, or None.
    """

    files: tuple[str, ...]
    read: Callable[[Path], Raw]
    hub: tuple[str, str, str] | None = None


def folder_of(data: str | Path | None) -> Path | None:
    """Return the data folder: the one given, or `LACONIC_DATA`."""
    given = data if data is not None else os.environ.get("LACONIC_DATA") or None
    return None if given is None else Path(given)


def missing(source: Source, folder: Path | None) -> str | None:
    """Return why a set cannot be read locally, or None if it can."""
    if not source.files:
        return None
    if folder is None:
        return "no data folder was named (--data DIR or LACONIC_DATA)"
    absent = [name for name in source.files if not (folder / name).exists()]
    return f"{folder} has no {absent[0]}" if absent else None


def read(name: str, source: Source, data: str | Path | None) -> Raw:
    """Read a set from the local folder or, where it is not there, from the hub.

    Raises:
        BadInput: it is in neither place; says how to get it.
        CorruptFile: a file is not whole.
    """
    folder = folder_of(data)
    why = missing(source, folder)
    if why is None:
        with reading(f"the data of '{name}' in {folder}", "data", "Fetch it again."):
            return source.read(folder or Path())
    if source.hub is None:
        raise BadInput(
            f"the data of '{name}' is not here: {why}. It lies on no hub; put {', '.join(source.files)} into a folder and name that."
        )
    try:
        return _from_hub(*source.hub)
    except ImportError as error:
        raise BadInput(f"the data of '{name}' is not here: {why}. Or fetch it from the hub: pip install 'laconic[hf]'") from error


def _from_hub(repository: str, inputs: str, target: str) -> Raw:
    loaded = need("datasets", "hf").load_dataset(repository)

    def part(name: str) -> tuple[Any, np.ndarray]:
        column = loaded[name][inputs]
        values = list(column) if isinstance(column[0], str) else np.stack([np.asarray(item) for item in column])
        return values, np.asarray(loaded[name][target], np.int64)

    return Raw(part("train"), part("test"), part("validation") if "validation" in loaded else None)


def digits(folder: Path) -> Raw:
    """Read scikit-learn's bundled handwritten digits (Alpaydin & Kaynak 1998): 1,797 images of 8×8; a fifth is set aside as test data."""
    from laconic.tasks.data import split_indices

    bundled = need("sklearn.datasets").load_digits()
    images, target = (bundled.images / 16 * 255).astype(np.uint8), bundled.target.astype(np.int64)
    train, test = split_indices(target, (0.8, 0.2), seed=1998)
    return Raw((images[train], target[train]), (images[test], target[test]))


def arrays(file: str) -> Callable[[Path], Raw]:
    """Return a reader of one npz file with x_train, y_train, x_test, y_test."""

    def read_file(folder: Path) -> Raw:
        with (folder / file).open("rb") as handle, np.load(handle, allow_pickle=False) as archive:
            x_train, y_train, x_test, y_test = (archive[key] for key in ("x_train", "y_train", "x_test", "y_test"))
        names = np.unique(np.concatenate([y_train, y_test]))
        return Raw((x_train, np.searchsorted(names, y_train).astype(np.int64)), (x_test, np.searchsorted(names, y_test).astype(np.int64)))

    return read_file


def sst2(folder: Path) -> Raw:
    """Read sentences and labels separated by tabs."""

    def part(name: str) -> tuple[list[str], np.ndarray]:
        rows = [line.rsplit("\t", 1) for line in (folder / "sst2" / f"{name}.tsv").read_text(encoding="utf-8").splitlines()]
        rows = [row for row in rows if len(row) == 2 and row[1].strip().isdigit()]
        return [text for text, _ in rows], np.array([int(label) for _, label in rows], np.int64)

    return Raw(part("train"), part("test"), part("dev"))


def trec(folder: Path) -> Raw:
    """Read questions behind their label, `COARSE:fine` or `COARSE`; the coarse label counts."""
    parts: Mapping[str, list[tuple[str, str]]] = {
        name: [
            (line.split(" ", 1)[1], line.split(" ", 1)[0].split(":")[0])
            for line in (folder / "trec" / f"{name}.txt").read_text(encoding="latin-1").splitlines()
            if " " in line
        ]
        for name in ("train", "test")
    }
    names = sorted({label for rows in parts.values() for _, label in rows})
    train, test = (([text for text, _ in rows], np.array([names.index(label) for _, label in rows], np.int64)) for rows in parts.values())
    return Raw(train, test)
