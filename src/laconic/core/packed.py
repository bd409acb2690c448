"""Archives that hold model files: which endings there are, and what packs and restores them, by name, so that each room may ask and none imports another."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laconic.core.records import to_json


@dataclass(frozen=True)
class Packing:
    """A kind of archive.

    Attributes:
        module: that knows it. Its `pack(file, archive, settings=…)` writes one; its `restore(archive, folder)` returns the model file and the settings.
    """

    module: str

    def pack(self, file: Path, archive: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Write a model file and plain settings into an archive; returns in plain values what it holds, without paths."""
        told = to_json(importlib.import_module(self.module).pack(file, archive, settings=settings))
        return {name: value for name, value in told.items() if name != "file"}

    def restore(self, archive: Path, folder: Path) -> tuple[Path, Mapping[str, Any]]:
        """Return the model file, restored into a folder, and the settings.

        Raises:
            CorruptFile: the archive is not whole.
        """
        file, settings = importlib.import_module(self.module).restore(archive, folder)
        return file, settings


# Ending -> what knows it.
TABLE = {".lac": Packing("laconic.storage.pack")}
SMALLEST = ".lac"
