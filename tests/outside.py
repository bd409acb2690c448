"""Packages that another project would install: a module and its entry points, also found by the processes that Laconic starts."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from laconic.deploy import runtime
from laconic.run import runner
from laconic.search import levers


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, source: str, entry_points: str) -> Iterator[None]:
    """Put a package `name` with one module of that name on the path for as long as the iterator lives; `entry_points` is its entry_points.txt."""
    (folder / f"{name}.py").write_text(source, encoding="utf-8")
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(entry_points, encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
    importlib.invalidate_caches()
    _forget_tables()
    yield
    _forget_tables()


def _forget_tables() -> None:
    for table in (runtime._table, runner._table, levers.levers):
        table.cache_clear()
