from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest

from laconic.run.ledger import PARTS, Ledger
from laconic.run.store import RunStore


def test_what_no_part_claims_is_own() -> None:
    ledger = Ledger()
    with ledger.part("export"):
        time.sleep(0.03)
    time.sleep(0.02)
    spent = ledger.spent()
    assert spent["export"] >= 0.03
    assert spent["own"] >= 0.02
    assert spent["total"] == pytest.approx(spent["own"] + sum(spent[part] for part in PARTS))


def test_a_part_that_raises_is_counted_too() -> None:
    ledger = Ledger()
    with contextlib.suppress(ValueError), ledger.part("check"):
        time.sleep(0.01)
        raise ValueError("x")
    assert ledger.spent()["check"] >= 0.01


def test_a_continued_run_adds_to_what_was_spent_before(tmp_path: Path) -> None:
    with RunStore(tmp_path / "run", {"task": "t"}) as store:
        store.write("spent.json", {"train": 100.0, "own": 1.0, "total": 101.0})
        ledger = Ledger()
        ledger.resume(store)
        with ledger.part("train"):
            pass
        spent = ledger.spent()
        assert spent["train"] == pytest.approx(100, abs=1)
        assert spent["total"] == pytest.approx(101, abs=1)
        ledger.keep(store)
        assert store.read("spent.json")["train"] == pytest.approx(spent["train"])
