from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from laconic.live import Tried


def row(title: str, status: str = "passed", **facts: Any) -> dict[str, Any]:
    return {"candidate": title, "status": status, "goal": "Speed-up", "took_s": 4.0, "total": 5, **facts}


def shown(tried: Tried, height: int = 40, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, record=True)
    console.print(tried.drawn(height))
    return console.export_text()


def test_it_shows_names_status_and_the_best_so_far() -> None:
    tried = Tried()
    assert shown(tried).strip() == ""
    tried.add(row("[red]slow", "rejected", figure="0.90×", why="speed-up 0.9 is less than 1"))
    assert "none passed yet" in shown(tried)
    tried.add(row("OpenVINO · int8", figure="3.10×", drop="0.10 points", best="OpenVINO · int8, 3.10×"))
    lines = shown(tried).splitlines()
    assert lines[0].split() == ["Status", "Candidate", "Speed-up", "Drop", "Why", "not"]
    assert lines[1].split()[:3] == ["rejected", "[red]slow", "0.90×"]
    assert lines[2].split() == ["passed", "OpenVINO", "·", "int8", "3.10×", "0.10", "points"]
    assert lines[3] == "Best so far  OpenVINO · int8, 3.10×"
    assert max(map(len, shown(tried).splitlines())) <= 80


def test_long_names_are_cut_and_early_rows_make_room() -> None:
    tried = Tried()
    for n in range(9):
        tried.add(row(f"candidate {n} " + "with a long name " * 9, "failed", why="a reason of many words " * 9))
    lines = shown(tried, height=12).splitlines()
    assert len(lines) == 1 + 1 + 3 + 1
    assert "6 earlier ones" in lines[1]
    assert [line.split("failed")[1].strip()[:11] for line in lines[2:5]] == ["candidate 6", "candidate 7", "candidate 8"]


@pytest.mark.parametrize(("limit", "left"), [({}, 12.0), ({"left_s": 3.0}, 3.0), ({"left_s": 60.0}, 12.0)], ids=["none", "soon", "late"])
def test_when_it_will_be_done(limit: dict[str, float], left: float) -> None:
    now = [100.0]
    tried = Tried(clock=lambda: now[0])
    assert tried.left_s() is None
    tried.add(row("a", "unavailable", took_s=0.0, **limit))
    tried.add(row("b", **limit))
    assert tried.left_s() == left
    now[0] += 2.5
    assert tried.left_s() == left - 2.5
    now[0] += 100
    assert tried.left_s() == 0.0


def test_a_line_where_there_is_no_terminal() -> None:
    tried = Tried()
    tried.add(row("ORT · fp32", figure="2.00×", drop="0.00 points", best="ORT · fp32, 2.00×"))
    assert tried.plain() == "1/5 ORT · fp32: passed, 2.00×, drop 0.00 points, the best so far"
    tried.add(row("x", "not_tried", why="the time limit\nwas reached", best="ORT · fp32, 2.00×"))
    assert tried.plain() == "2/5 x: not tried (the time limit was reached)"
