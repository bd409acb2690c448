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


def test_it_is_kept_not_so_often_that_it_takes_long_but_at_once_where_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RunStore(tmp_path / "run", {"task": "t"}) as store:
        written = list[str]()
        monkeypatch.setattr(store, "write", lambda name, value: (written.append(name), time.sleep(0.02)))
        ledger = Ledger()
        for _ in range(5):
            ledger.keep(store)
        assert written == ["spent.json"]
        ledger.keep(store, at_once=True)
        assert written == ["spent.json"] * 2


def test_spans_say_when_what_was_spent_on_whom_and_go_on_with_the_run(tmp_path: Path) -> None:
    with RunStore(tmp_path / "run", {"task": "t"}) as store:
        first = Ledger()
        with first.part("export", "a") as part:
            time.sleep(0.03)
            part.also("recover", 0.02)
        with first.part("check", "a"):
            pass  # too brief to be one
        first.keep(store)
        recover, export = first.spans()
        assert (recover.part, recover.of, recover.seconds) == ("recover", "a", 0.02)
        assert (export.part, export.start_s) == ("export", pytest.approx(recover.start_s + 0.02, abs=0.002))
        assert first.spent()["recover"] == pytest.approx(0.02)
        assert first.spent()["export"] == pytest.approx(export.seconds, abs=0.002)
        total = store.read("spent.json")["total"]
        second = Ledger()
        second.resume(store)
        with second.part("time", "b"):
            time.sleep(0.01)
        assert second.spans()[:2] == [recover, export]
        assert second.spans()[2].start_s >= total - 0.001


def test_what_is_counted_as_another_part_is_never_more_than_there_was() -> None:
    ledger = Ledger()
    with ledger.part("export") as part:
        part.also("recover", 100.0)
    assert ledger.spent()["recover"] < 1
    assert ledger.spent()["export"] == 0
