from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from laconic.core.records import to_json
from laconic.core.turn import Turn
from laconic.measure import ticks
from laconic.measure.busy import preempted, summarize
from laconic.measure.ticks import Ticks, stolen_share

MS = 1_000_000


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        (Turn([MS], wall_ns=150 * MS, wait_ns=1 * MS, involuntary=3), False),
        (Turn([MS], wall_ns=150 * MS, wait_ns=100 * MS, involuntary=16), True),
        (Turn([MS], wall_ns=150 * MS, wait_ns=280 * MS, involuntary=30), True),
        # one event of 3 ms in a short turn hits one run of many
        (Turn([MS], wall_ns=50 * MS, wait_ns=3 * MS, involuntary=1), False),
        (Turn([MS], wall_ns=50 * MS, wait_ns=5 * MS, involuntary=2), True),
        # switches to tasks that are done at once are no waiting
        (Turn([MS], wall_ns=150 * MS, wait_ns=1 * MS, involuntary=2000), False),
        (Turn([MS], wall_ns=150 * MS, wait_ns=0, throttled_ns=60 * MS), True),
        # eight threads on two cores wait for each other
        (Turn([MS], wall_ns=150 * MS, wait_ns=400 * MS, involuntary=90, crowded=True), False),
        # without schedstat
        (Turn([MS], wall_ns=150 * MS, involuntary=2), False),
        (Turn([MS], wall_ns=150 * MS, involuntary=16), True),
        (Turn([MS], wall_ns=3000 * MS, involuntary=16), False),
        # a system that tells nothing
        (Turn([MS], wall_ns=150 * MS), False),
        (Turn([MS]), False),
    ],
    ids=[
        "quiet", "one thread waits", "two threads wait", "one event", "more than one event", "switched, not waiting", "throttled", "its own threads",
        "few switches", "many switches", "few a second", "unknown", "times alone",
    ],
)  # fmt: skip
def test_a_preempted_turn_is_told_from_a_quiet_one(turn: Turn, expected: bool) -> None:
    assert preempted(turn) is expected


def turns(disturbed: int, of: int) -> list[Turn]:
    return [Turn([MS], wall_ns=100 * MS, wait_ns=(50 if i < disturbed else 0) * MS) for i in range(of)]


@pytest.mark.parametrize(("disturbed", "busy"), [(0, False), (3, False), (4, True), (15, True)])
def test_too_many_preempted_turns_of_one_candidate_mark_all(disturbed: int, busy: bool) -> None:
    found = summarize({"long": turns(disturbed, 15), "short": turns(0, 15)}, repeated=2)
    assert bool(found["busy"]) is busy
    assert found["preempted"] == {"long": disturbed / 15, "short": 0.0}
    assert (found["turns"], found["repeated"]) == (30, 2)
    if busy:
        assert f"in {disturbed} of 30 turns other work had the processor" in found["busy"]
    assert json.loads(json.dumps(to_json(found))) == found


def test_a_limit_of_the_control_group_is_called_by_its_name() -> None:
    throttled = [Turn([MS], wall_ns=100 * MS, wait_ns=MS, throttled_ns=40 * MS)] * 5
    assert "the control group's limit of processor time stopped it" in summarize({"a": throttled}, 0)["busy"]


@pytest.mark.parametrize(
    ("stolen", "told"), [(None, ""), (0.02, ""), (0.2, "the host of this virtual machine took 20 % of the processor time")]
)
def test_what_the_host_took_is_told(stolen: float | None, told: str) -> None:
    found = summarize({"a": turns(0, 5)}, 0, stolen)
    assert told in found["busy"]
    assert bool(found["busy"]) is bool(told)
    assert found["stolen"] == stolen


def test_the_hosts_share_is_of_the_time_that_was_used() -> None:
    before, after = Ticks(whole_s=100.0, used_s=30.0, stolen_s=5.0), Ticks(whole_s=110.0, used_s=34.0, stolen_s=6.0)
    assert stolen_share(before, after) == 0.25
    assert stolen_share(before, before) == 0.0
    assert stolen_share(None, after) is None


@pytest.mark.parametrize("text", ["cpu  100 10 40 800 50 5 5 30 7 0\ncpu0 1 1\n", "cpu 1 2 3 4\n", ""], ids=["modern", "old", "empty"])
def test_ticks_are_read_as_the_kernel_writes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (tmp_path / "stat").write_text(text)
    monkeypatch.setattr(ticks, "STAT", tmp_path / "stat")
    found = Ticks.now()
    if "800" not in text:
        assert found is None
        return
    per_s = os.sysconf("SC_CLK_TCK")
    assert found == Ticks(1040 / per_s, 190 / per_s, 30 / per_s)


def test_a_turn_reads_what_it_wrote() -> None:
    turn = Turn([1, 2], [1, 1], 5, wait_ns=3, involuntary=1, crowded=True)
    assert Turn.from_json({**to_json(turn), "of a later version": 1}) == turn
