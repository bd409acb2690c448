"""A run looked at from its folder while it goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import laconic as lc
from laconic.cli import app
from laconic.core.errors import BadInput
from laconic.core.progress import Silent, silent
from laconic.report.watching import PAGE, page, state, watch
from laconic.run import store as of_store
from laconic.run.live import Live
from laconic.run.store import LIVE, RESULT, SO_FAR, RunStore, in_use
from tests.report.results import named
from tests.run import tiny


class Heard(Silent):
    """Progress that keeps what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def start(self, name: str, total: int) -> None:
        self.calls.append(("start", name, total))

    def advance(self, n: int = 1, **facts: Any) -> None:
        self.calls.append(("advance", n, facts.get("candidate")))

    def finish(self, **facts: Any) -> None:
        self.calls.append(("finish",))

    def log(self, text: str) -> None:
        self.calls.append(("log", text))


def candidate(title: str, **facts: Any) -> dict[str, Any]:
    return {"candidate": title, "status": "passed", "figure": "2.00×", "best": f"{title}, 2.00×", "total": 3, "took_s": 1.0, **facts}


def acts(*steps: Callable[[], object]) -> Callable[[float], None]:
    """A clock whose waiting is what happens meanwhile."""
    left = list(steps)

    def sleep(seconds: float) -> None:
        assert seconds >= 1
        left.pop(0)()

    return sleep


def test_a_run_is_told_and_drawn_until_it_ends(tmp_path: Path) -> None:
    store, heard = RunStore(tmp_path / "run", {"task": "t"}), Heard()
    live = Live(silent, store)
    live.log("capturing the model")
    live.start("candidates", 3)
    pages: list[str] = []

    def first() -> None:
        pages.append((tmp_path / "run" / PAGE).read_text(encoding="utf-8"))
        store.write(SO_FAR, named("searched"))
        live.advance(0, now="b")
        live.advance(**candidate("a", left_s=100.0))

    def second() -> None:
        pages.append((tmp_path / "run" / PAGE).read_text(encoding="utf-8"))
        live.advance(**candidate("b"))
        live.start("training", 8)
        live.advance(3, loss=0.25)
        store.write(RESULT, named("met"))
        live.end()
        store.close()

    done = watch(tmp_path / "run", progress=heard, every_s=1, sleep=acts(first, second))
    assert done["kind"] == "finished"
    assert done["result"]["verdict"] == named("met")["verdict"]
    last = (tmp_path / "run" / PAGE).read_text(encoding="utf-8")
    assert [text.count("data-again=") for text in (*pages, last)] == [1, 1, 0]
    assert "Getting ready: no candidate is known yet." in pages[0]
    assert "1 of 3 candidates are known; the best so far: a, 2.00×." in pages[1]
    assert "prune to 30 % of MACs, quantize" in pages[1]
    assert "Time left: 1\u00a0min" in pages[1]
    assert heard.calls[:2] == [("log", "capturing the model"), ("start", "candidates", 3)]
    assert ("advance", 0, "a") in heard.calls
    assert heard.calls[-1] == ("finish",)


def test_pieces_of_work_are_told_as_they_nest(tmp_path: Path) -> None:
    with RunStore(tmp_path / "run", {"task": "t"}) as store:
        live, heard = Live(silent, store), Heard()
        live.start("candidates", 2)

        def train() -> None:
            live.start("training", 8)
            live.advance(2, loss=0.5)
            live.advance(**candidate("x"))  # written at once

        def other() -> None:
            live.finish()
            live.start("proposals", 4)
            live.advance(**candidate("y"))
            store.close()

        watch(tmp_path / "run", progress=heard, every_s=1, sleep=acts(train, other))
    names = [call[1] for call in heard.calls if call[0] == "start"]
    assert names == ["candidates", "training", "proposals"]
    assert [call[2] for call in heard.calls if call[0] == "advance" and call[2]] == ["x", "y"]
    assert len([call for call in heard.calls if call[0] == "finish"]) == len(names)


def test_a_killed_run_has_ended_without_a_result_and_its_page_stays(tmp_path: Path) -> None:
    with RunStore(tmp_path / "run", {"task": "t"}) as store:
        Live(silent, store).start("candidates", 2)
        store.write(SO_FAR, named("met"))
    done = watch(tmp_path / "run", every_s=1, sleep=acts())
    text = (tmp_path / "run" / PAGE).read_text(encoding="utf-8")
    assert done["kind"] == "ended"
    assert "Ended without a result" in text
    assert "OpenVINO · bf16" in text
    assert "data-again=" not in text


def test_a_run_that_goes_on_behind_an_earlier_result_runs(tmp_path: Path) -> None:
    with RunStore(tmp_path / "run", {"task": "t"}) as store:
        store.write(RESULT, {**named("met"), "stopped": {"told": "The time limit was reached."}})
        Live(silent, store).start("candidates", 2)
        assert state(tmp_path / "run").kind == "running"
    (tmp_path / "run" / LIVE).unlink()
    assert state(tmp_path / "run").kind == "stopped"
    assert state(tmp_path / "run").headline == "The time limit was reached."


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no run"):
        watch(tmp_path)


def test_files_that_are_not_whole_are_passed_over(tmp_path: Path) -> None:
    with RunStore(tmp_path / "run", {"task": "t"}) as store:
        for name in (LIVE, SO_FAR):
            store.path(name).write_text("{", encoding="utf-8")
        assert "Getting ready" in page(state(tmp_path / "run"))


def test_looking_at_a_lock_keeps_no_run_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one who looks has the lock for an instant: a run that begins then tries again."""
    fcntl = pytest.importorskip("fcntl")
    with RunStore(tmp_path / "run", {"task": "t"}):
        assert in_use(tmp_path / "run")
    assert in_use(tmp_path / "run") is False
    looker = (tmp_path / "run" / "lock").open("rb")
    fcntl.flock(looker, fcntl.LOCK_SH)
    monkeypatch.setattr(of_store.time, "sleep", lambda _: looker.close())
    RunStore(tmp_path / "run", {"task": "t"}).close()


def test_a_real_run_is_seen_from_its_folder_and_leaves_nothing_there(tmp_path: Path) -> None:
    seen: list[tuple[str, str, bool]] = []

    class Looking(Silent):
        def advance(self, n: int = 1, **facts: Any) -> None:
            if "status" in facts:
                now = state(tmp_path / "run")
                seen.append((now.kind, now.headline, "data-again" in page(now)))

    space = lc.SearchSpace(("onnxruntime", "torchscript"), ("fp32",), threads=1, quantize=(), prune=())
    lc.optimize(tiny.task(), out=tmp_path / "run", space=space, options=tiny.QUICK, progress=Looking())
    assert [kind for kind, _, _ in seen] == ["running"] * len(seen)
    assert seen[0][1].startswith("Getting ready")
    assert "1 of 2 candidates are known" in seen[1][1]
    assert all(again for _, _, again in seen)
    assert state(tmp_path / "run").kind == "finished"
    assert not (tmp_path / "run" / LIVE).exists()
    assert not (tmp_path / "run" / SO_FAR).exists()


def test_what_is_told_may_hold_anything(tmp_path: Path) -> None:
    with RunStore(tmp_path / "run", {"task": "t"}) as store:
        live = Live(silent, store)
        live.start("candidates", 1)
        live.advance(**candidate("<b>mine</b>", why=object(), drop=float("nan")))
        assert json.loads(store.path(LIVE).read_text(encoding="utf-8"))["rows"][0]["candidate"] == "<b>mine</b>"
        assert "<b>mine" not in page(state(tmp_path / "run"))


@pytest.mark.parametrize(("result", "code", "words"), [("met", 0, "The run is finished"), (None, 1, "The run is ended")])
def test_the_command_draws_a_run_that_has_ended_once(tmp_path: Path, result: str | None, code: int, words: str) -> None:
    with RunStore(tmp_path / "run", {"task": "t"}) as store:
        if result is not None:
            store.write(RESULT, named(result))
    done = CliRunner().invoke(app, ["watch", str(tmp_path / "run"), "--to", str(tmp_path / "page.html")])
    assert done.exit_code == code
    assert words in done.output
    assert ("6.9× faster" in done.output) == (result is not None)
    assert (tmp_path / "page.html").exists()
