"""What a candidate takes when it ships as an archive: its bytes, and how long a process needs from its start to the first output, restoring included."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from laconic.core import packed
from laconic.deploy.artifact import Artifact
from laconic.run.record import Record
from laconic.run.workers import Workers

_BESIDE = " (packed)"  # after a candidate's key: its process that restores the archive


def with_packed(record: Record, artifact: Artifact, workers: Workers) -> Record:
    """Write the archive of an artifact beside its file; return the record with its bytes and its cold start.

    Raises:
        WorkerFailed: a process that restores it did not start.
    """
    archive = artifact.file.with_suffix(packed.SMALLEST)
    told = packed.TABLE[packed.SMALLEST].pack(artifact.file, archive, artifact.settings)
    key = record.key + _BESIDE
    try:
        facts = workers.start(key, replace(artifact, packed=archive))
    finally:
        workers.drop(key)
    return record.replace(packed=told).with_measured(packed_size_bytes=archive.stat().st_size, packed_cold_start_ms=facts["cold_start_ms"])


def packed_size(file: Path) -> int:
    """Return the bytes of the archive of a model file; nothing is left of it."""
    with tempfile.TemporaryDirectory(prefix="laconic-pack-") as folder:
        archive = Path(folder) / f"model{packed.SMALLEST}"
        packed.TABLE[packed.SMALLEST].pack(file, archive, {})
        return archive.stat().st_size
