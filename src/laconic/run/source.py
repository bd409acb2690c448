"""The captured model as the process that builds reads it: a small one once, however many candidates are made of it."""

from __future__ import annotations

import copy
from functools import lru_cache
from pathlib import Path

from laconic.core.program import Program

# Reading a small file is all overhead of PyTorch's reader, a tenth of building a candidate; a large one is not worth its memory.
KEPT_BYTES = 16 << 20


def read_source(path: Path) -> Program:
    """Return a program that is the caller's to change.

    Args:
        path: of a `.pt2` that is not changed; one that is written anew is read anew.
    """
    facts = path.stat()
    if facts.st_size > KEPT_BYTES:
        return Program.load(path)
    return copy.deepcopy(_kept(path, facts.st_mtime_ns, facts.st_ino))


@lru_cache(maxsize=1)
def _kept(path: Path, written_ns: int, number: int) -> Program:
    return Program.load(path)
