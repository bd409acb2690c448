"""Members that build ahead: in order, each thing once, beginnings in one place, and nobody while something is timed. The members here build nothing."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import laconic as lc
from laconic.core.errors import WorkerFailed
from laconic.core.files import write_json
from laconic.run.crew import UNSENDABLE, Crew, NoCrew

PRUNED = [lc.Prune(macs=share, recovery={"epochs": 1}) for share in (0.8, 0.6, 0.4)]
PLAIN = lc.Prune(macs=0.5, recovery={"epochs": 0})
ROUNDED = lc.Quantize(mode="dynamic", target="onnxruntime")


def recipe(*steps: lc.StepConfig, runtime: str = "onnxruntime") -> lc.Recipe:
    return lc.Recipe(steps, lc.Target(runtime, threads=1))


class Hand:
    """Takes a moment for each file, and notes what it does."""

    def __init__(self, place: Path, does: Callable[[lc.Recipe], None]) -> None:
        self.place, self.does = place, does
        self.deadline: float | None = None
        self.calls: list[str] = []
        self.killed = False

    def file(self, recipe: lc.Recipe, kind: str) -> Path:
        self.does(recipe)
        return write_json(self.place / (recipe.steps_key or "base") / kind / "built.json", {})

    def pause(self) -> None:
        self.calls.append("pause")

    def resume(self) -> None:
        self.calls.append("resume")

    def kill(self) -> None:
        self.killed = True

    def close(self) -> None:
        self.calls.append("close")


class Yard:
    """A crew and what it did."""

    def __init__(self, place: Path, workers: int) -> None:
        self.begun: list[lc.Recipe] = []
        self.going: list[lc.Recipe] = []
        self.most: list[tuple[lc.Recipe, ...]] = []
        self.hands: list[Hand] = []
        self.told: list[str] = []
        self.fails: Exception | None = None
        self.free = threading.Event()
        self.free.set()
        self.place = place
        self.crew = Crew([self._hand] * workers, place, place / "turn", threading.RLock(), self.told.append)

    def _hand(self) -> Hand:
        self.hands.append(Hand(self.place, self._does))
        return self.hands[-1]

    def _does(self, one: lc.Recipe) -> None:
        self.begun.append(one)
        self.going.append(one)
        self.most.append(tuple(self.going))
        self.free.wait(10)
        time.sleep(0.02)
        self.going.remove(one)
        if self.fails is not None:
            raise self.fails


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Callable[[int], Yard]]:
    with contextlib.ExitStack() as stack:

        def made(workers: int) -> Yard:
            one = Yard(tmp_path, workers)
            stack.callback(one.crew.close)
            return one

        yield made


def wait_for(what: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not what():
        assert time.monotonic() < until
        time.sleep(0.005)


def test_things_are_built_in_their_order_each_once(yard: Callable[[int], Yard]) -> None:
    one = yard(1)
    recipes = [recipe(step) for step in PRUNED]
    one.crew.expect([*recipes, recipes[0]], None)
    assert all(one.crew.built(each, "onnx") for each in recipes)
    one.crew.expect(recipes, None)
    time.sleep(0.3)
    assert one.begun == recipes


def test_as_many_at_once_as_there_are_members(yard: Callable[[int], Yard]) -> None:
    one = yard(2)
    one.free.clear()
    one.crew.expect([recipe(step) for step in PRUNED], None)
    wait_for(lambda: len(one.going) == 2)
    one.free.set()
    wait_for(lambda: len(one.begun) == 3)
    assert max(map(len, one.most)) == 2


def test_what_would_only_wait_for_a_beginning_is_left_for_later(yard: Callable[[int], Yard]) -> None:
    """The second needs what the first begins with, and another runtime the same steps: the third is begun before them."""
    one = yard(2)
    one.free.clear()
    first, second, third = recipe(PRUNED[0]), recipe(PRUNED[0], ROUNDED), recipe(PRUNED[1])
    one.crew.expect([first, second, recipe(PRUNED[0], runtime="torch"), third], None)
    wait_for(lambda: len(one.going) == 2)
    assert one.begun == [first, third]
    one.free.set()
    wait_for(lambda: len(one.begun) == 4)


def test_whoever_asks_first_for_what_does_not_train_builds_it(yard: Callable[[int], Yard]) -> None:
    """A run does not wait behind a training for what takes a second."""
    one = yard(1)
    one.free.clear()
    one.crew.expect([recipe(PRUNED[0]), recipe(PLAIN)], None)
    wait_for(lambda: len(one.going) == 1)
    assert one.crew.built(recipe(PLAIN), "onnx") is False
    one.free.set()
    assert one.crew.built(recipe(PRUNED[0]), "onnx") is True
    time.sleep(0.3)
    assert one.begun == [recipe(PRUNED[0])]


def test_what_is_asked_for_and_trains_comes_before_what_is_expected(yard: Callable[[int], Yard]) -> None:
    one = yard(1)
    one.free.clear()
    one.crew.expect([recipe(PRUNED[0]), recipe(PRUNED[1])], None)
    wait_for(lambda: len(one.going) == 1)
    threading.Timer(0.1, one.free.set).start()
    assert one.crew.built(recipe(PRUNED[2]), "onnx") is True
    assert one.begun[1] == recipe(PRUNED[2])


def test_a_failure_is_raised_where_it_is_asked_for_and_tried_again_the_next_time(yard: Callable[[int], Yard]) -> None:
    one = yard(1)
    one.fails = WorkerFailed("no answer within 1 s", "timeout")
    one.crew.expect([recipe(PRUNED[0])], None)
    with pytest.raises(WorkerFailed, match="no answer within 1 s"):
        one.crew.built(recipe(PRUNED[0]), "onnx")
    one.fails = None
    assert one.crew.built(recipe(PRUNED[0]), "onnx") is True
    assert len(one.begun) == 2


def test_a_task_that_cannot_be_sent_is_built_by_the_run(yard: Callable[[int], Yard]) -> None:
    one = yard(2)
    one.fails = WorkerFailed("the task cannot be sent to other processes (a lock)", UNSENDABLE)
    one.crew.expect([recipe(PRUNED[0]), recipe(PRUNED[1])], None)
    assert [one.crew.built(recipe(step), "onnx") for step in PRUNED] == [False] * 3
    assert one.told == ["nothing is built ahead: the task cannot be sent to other processes (a lock)"]


def test_members_stand_still_inside_and_go_on_behind(yard: Callable[[int], Yard]) -> None:
    one = yard(2)
    wait_for(lambda: len(one.hands) == 2)
    with one.crew.paused():
        assert [hand.calls for hand in one.hands] == [["pause"]] * 2
        with one.crew.paused():
            pass
        assert [hand.calls for hand in one.hands] == [["pause"]] * 2
    assert [hand.calls for hand in one.hands] == [["pause", "resume"]] * 2
    one.crew.close()
    assert [hand.calls[-1] for hand in one.hands] == ["close"] * 2
    assert all(hand.killed for hand in one.hands)


def test_without_a_crew_nobody_has_built_anything() -> None:
    nobody = NoCrew()
    nobody.expect([recipe(PLAIN)], None)
    with nobody.paused():
        assert nobody.built(recipe(PLAIN), "onnx") is False
    nobody.close()
