"""Altered files of every kind are read or refused by a named error: a few hundred here, `python -m benchmarks.campaign fuzz` has more."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from benchmarks import fuzz
from benchmarks.fuzz_kinds import KINDS, Kind, written

from laconic.core.errors import BadInput

SLOW = {"result.json": 10}  # of each a page is drawn


@pytest.mark.parametrize("name", KINDS)
def test_no_altered_file_ends_in_a_raw_exception(name: str, tmp_path: Path) -> None:
    counts = fuzz.fuzz(KINDS[name], SLOW.get(name, 30), tmp_path / "fuzz", seed=1)
    assert counts.wrong == {}
    assert counts.outcomes["named"] > 0


def _named(path: Path) -> object:
    raise BadInput("no")


def _raw(path: Path) -> object:
    return {}["x"]


def _crash(path: Path) -> object:
    os.kill(os.getpid(), 11)
    return None


def _hang(path: Path) -> object:
    time.sleep(60)
    return None


@pytest.mark.parametrize(
    ("read", "outcome"),
    [(bytes, "ok"), (_named, "named"), (_raw, "raw"), (_crash, "crash"), (_hang, "hang")],
    ids=["ok", "named", "raw", "crash", "hang"],
)
def test_each_outcome_is_told(read: object, outcome: str, tmp_path: Path) -> None:
    """The reader that goes wrong spares the sound file, which is read first."""
    own = os.getpid()

    def altered(path: Path) -> object:
        return None if os.getpid() == own else read(path.name.encode() if read is bytes else path)  # type: ignore[operator]

    counts = fuzz.fuzz(Kind(lambda folder: written("a.json", "{}")(folder), altered), 3, tmp_path / "fuzz", hang_s=0.2)
    assert counts.outcomes == {outcome: 3}
    assert len(counts.wrong) == (outcome not in ("ok", "named"))
    assert len(list((tmp_path / "fuzz").glob("wrong-*"))) == len(counts.wrong)


def test_mutants_are_the_same_for_a_seed_and_differ_from_the_sound_file() -> None:
    import random

    data = b'{"a": [1, 2, {"b": null}]}'
    one, other = (list(fuzz.mutants(data, 40, random.Random(seed))) for seed in (5, 5))
    assert one == other
    assert len(set(one)) > 20
