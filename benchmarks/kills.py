"""Random kills of a run's processes: does the next start of the same run end with the same winner, and is nothing left behind? Part `kills` of `campaign`."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import laconic as lc
from benchmarks.evaluation import family
from laconic.core.target import Target

# Who is killed: what its command line holds.
ROLES: Mapping[str, tuple[str, ...]] = {
    "parent": (),
    "builder": ("laconic.run.server",),
    "worker": ("laconic.deploy.worker",),
    "baseline": ("laconic.deploy.worker", "candidates/torch-fp32"),
}
ORPHAN_S = 2.0
FINISH_S = 900.0


def run(folder: Path, workers: int = 1) -> None:
    """The run that is killed: digits, candidates of all costs; the smallest file wins, so that the winner does not hang on times."""
    task = lc.load_task("digits")
    assert task.plan is not None
    task.plan = replace(task.plan, epochs=2)
    places = [Target(name, threads=1) for name in ("onnxruntime", "openvino")]
    pruned = lc.Prune(macs=0.7, recovery={"epochs": 1, "lr": 1e-3})
    recipes = [lc.Recipe((lc.Quantize(target=place.runtime),), place) for place in places]
    recipes += [lc.Recipe((pruned,), places[0]), lc.Recipe((pruned, lc.Quantize(target="onnxruntime")), places[0])]
    if workers > 1:  # something to build for each of them
        more = lc.Prune(macs=0.5, recovery={"epochs": 1, "lr": 1e-3})
        recipes += [lc.Recipe((more,), places[0]), lc.Recipe((more, lc.Quantize(target="openvino")), places[1])]
    budget = lc.Budget(max_drop=100.0, objective="size")
    lc.optimize(task, budget, out=folder, recipes=recipes, options=lc.Options(rounds=5), workers=workers)


def start(folder: Path, workers: int = 1) -> subprocess.Popen[bytes]:
    """The run in a process of its own."""
    code = f"from pathlib import Path; from benchmarks.kills import run; run(Path({str(folder)!r}), {workers})"
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def command_of(pid: int) -> str:
    """The command line of a process; empty where it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def alive(pid: int) -> bool:
    """Whether a process is there and no mere entry of one that ended."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0] not in "ZX"
    return False


def victim(parent: int, role: str) -> int | None:
    """A process of this role, if there is one now: of several builders any."""
    if role == "parent":
        return parent
    others = family(parent)[1:]
    for pid in random.sample(others, len(others)) if role == "builder" else others:
        command = command_of(pid)
        is_baseline = ROLES["baseline"][1] in command
        if all(part in command for part in ROLES[role]) and (role != "worker" or not is_baseline):
            return pid
    return None


def kill(folder: Path, role: str, moment: float, workers: int = 1) -> tuple[str, int]:
    """Start the run, kill one process of it at a moment (or as soon after it as there is such a one), and wait for what follows.

    Returns:
        What happened, and the number of processes that outlived the parent by more than two seconds.
    """
    process = start(folder, workers)
    time.sleep(moment)
    target = None
    while process.poll() is None and (target := victim(process.pid, role)) is None:
        time.sleep(0.002)
    if target is None:
        process.wait()
        return "none was there any more", 0
    members = family(process.pid)
    with contextlib.suppress(ProcessLookupError):
        os.kill(target, signal.SIGKILL)
    process.communicate(timeout=FINISH_S)
    if role != "parent":
        return "killed", 0
    time.sleep(ORPHAN_S)
    return "killed", sum(alive(pid) for pid in members)


def outcome(folder: Path) -> tuple[str, dict[str, str]]:
    """The winner, and what became of each candidate."""
    data: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return data["best"], {record["key"]: record["status"] for record in data["candidates"]}


def kills(names: list[str]) -> None:
    """Kill so many times (40), in turn each role, at random moments of a run with so many workers (third number; 1), and start the run again."""
    n, seed, workers = (*map(int, names), *(40, 0, 1)[len(names) :])[:3]
    random.seed(seed)
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as place:
        whole = Path(place) / "whole"
        begun = time.monotonic()
        start(whole, workers).communicate(timeout=FINISH_S)
        seconds, expected = time.monotonic() - begun, outcome(whole)
        print(f"undisturbed: {expected[0]} wins of {len(expected[1])} in {seconds:.1f} s", flush=True)
        for index in range(n):
            role = list(ROLES)[index % len(ROLES)]
            folder, moment = Path(place) / f"run{index}", random.uniform(0, seconds)
            told, orphans = kill(folder, role, moment, workers)
            again = start(folder, workers)
            _, errors = again.communicate(timeout=FINISH_S)
            result = outcome(folder) if (folder / "result.json").exists() else None
            same = result is not None and result[0] == expected[0]
            lost = [] if result is None else [key for key, status in expected[1].items() if result[1].get(key) != status]
            counts += Counter({"kills": told == "killed", "same winner": same, "nothing lost": same and not lost, "orphans": orphans})
            print(
                f"{index + 1:3} {role:8} at {moment:4.1f} s: {told}; {'same winner' if same else result}; lost {lost}; {orphans} orphans",
                flush=True,
            )
            if result is None:
                print(errors.decode(errors="replace")[-500:])
            shutil.rmtree(folder, ignore_errors=True)
    print(f"{n} runs: " + ", ".join(f"{name} {counts[name]}" for name in ("kills", "same winner", "nothing lost", "orphans")))
