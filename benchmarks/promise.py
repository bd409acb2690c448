"""Does a search keep what it promises? `python -m benchmarks.promise PART [NAME …] [NAME=VALUE …]`.

- `held [TASK …] [minutes=2]`: ten built-in tasks (or those that are named), each searched once for five budgets: drops of 0.1, 0.5, 1, 2 and 5 points.
  Told of each answer: what it loses on the test data, with its 95 % interval, and whether that holds the budget. In the end how many lose more as measured,
  and how many by their whole interval. Test data is read by the search itself, once, after the choice.
- `several [TASK] [rounds=2]`: seconds of a search for one budget (0.5 points) and for the five, in turns, each from nothing, `digits` unless another is named.
  Wanted: at most 1.3 times as long.
- `margin [pruned] [run=FOLDER …] [draws=300]`: by which rule to choose among many that held the budget on the valid data, simulated; see `benchmarks.margin`.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import laconic as lc
from benchmarks import trained
from benchmarks.command import command
from benchmarks.margin import margin
from laconic.measure.quiet import others_share

DROPS = (0.1, 0.5, 1.0, 2.0, 5.0)
TASKS = (
    "digits", "digits@lenet5", "gunpoint", "italy-power-demand", "osuleaf", "basic-motions", "japanese-vowels", "japanese-vowels@lstm", "trec@cnn1d",
    "sst2@gru",
)  # fmt: skip


def _named(names: list[str]) -> tuple[list[str], dict[str, float]]:
    """The tasks and the options among the words of the command line."""
    options = {key: float(value) for key, _, value in (name.partition("=") for name in names) if value}
    return [name for name in names if "=" not in name], options


def _searched(name: str, drops: tuple[float, ...], **options: float | None) -> tuple[lc.Result, float]:
    """Search a task for the first drop and the others, from nothing; with the seconds that it took."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        task = lc.load_task(name, data=trained.DATA)
        limit = options.get("time_limit")
        result = lc.optimize(task, lc.Budget(max_drop=drops[0]), frontier=drops[1:], out=Path(folder) / "run", time_limit=limit)
        return result, time.perf_counter() - start


def held(names: list[str]) -> None:
    """Print what becomes of each budget of each task."""
    tasks, options = _named(names)
    answers = broken = surely = misses = 0
    print(f"{'task':24s} {'budget':>6s} {'met':>4s} {'test drop':>22s}  holds", flush=True)
    for name in tasks or TASKS:
        result, seconds = _searched(name, DROPS, time_limit=60 * options.get("minutes", 2))
        rows = {row["key"]: row for row in result.data["candidates"]}
        for answer in result.data["budgets"]:
            limit, best = answer["budget"]["max_drop"], answer["best"]
            if best is None:
                misses += 1
                print(f"{name:24s} {limit:6g} {'no':>4s}  {answer['headline']}", flush=True)
                continue
            drop = rows[best]["measured"]["test_drop"]
            answers += 1
            broken += drop["value"] > limit
            surely += drop["low"] is not None and drop["low"] > limit
            told = f"{drop['value']:+.2f} [{drop['low']:.2f}, {drop['high']:.2f}]"
            print(
                f"{name:24s} {limit:6g} {'yes':>4s} {told:>22s}  {'yes' if drop['value'] <= limit else 'NO'}  {rows[best]['title']}",
                flush=True,
            )
        print(f"  {seconds:.0f} s", flush=True)
    print(
        f"{answers} answers, {broken} lose more than their budget on test data, {surely} of them by the whole interval; {misses} budgets not met"
    )


def several(names: list[str]) -> None:
    """Print seconds by number of budgets."""
    tasks, options = _named(names)
    name = tasks[0] if tasks else "digits"
    share = others_share()
    print(f"others use {'?' if share is None else f'{100 * share:.0f}'} % of the machine", flush=True)
    spent: dict[tuple[float, ...], list[float]] = {DROPS[1:2]: [], (DROPS[1], DROPS[0], *DROPS[2:]): []}
    for _ in range(int(options.get("rounds", 2))):
        for drops, seconds in spent.items():
            result, took = _searched(name, drops)
            seconds.append(took)
            print(
                f"{name}, {len(drops)} budget{'s' if len(drops) > 1 else ''}: {took:.0f} s, {len(result.data['candidates'])} candidates",
                flush=True,
            )
    one, five = (statistics.median(seconds) for seconds in spent.values())
    print(f"{five / one:.2f} times as long")


COMMANDS = {"held": held, "several": several, "margin": margin}

if __name__ == "__main__":
    command(__doc__, COMMANDS)
