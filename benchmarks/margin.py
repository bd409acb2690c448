"""By which rule to choose among many that held a limit on the valid data, simulated with real paired answers; a part of `benchmarks.promise`.

Populations of candidates, all of ResNet-20 on Fashion-MNIST, with what each answers to the 15,000 valid and test examples, and how fast it is:

- `run=FOLDER`: those of a finished run of `benchmarks.compound`, with the speed-ups that it measured.
- `pruned`: 12 nets pruned by two criteria to 98 to 80 % of the multiply-adds, without recovery, batch-norms estimated anew; their speed-up is that in
  multiply-adds.

Of the 15,000 examples some are drawn, with replacement, as valid ones, and as many or more as test examples, so that what a candidate loses of all is what it
truly loses. A rule chooses by the valid ones. Told of each rule, over all draws and budgets of 0.1, 0.5, 1 and 2 points: how many of its choices lose more than
the budget on the test examples; how many by their whole interval; how many truly do; by what factor the fastest that truly holds the budget is faster; and the
speed-up that is delivered (the geometric mean; 1 where nothing is, since the test examples break the budget).
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import laconic as lc
from benchmarks import trained
from laconic.core.records import Measurement
from laconic.deploy.artifact import Artifact
from laconic.measure.paired import paired_difference
from laconic.pruning.inputs import renew_statistics
from laconic.run.store import read_result
from laconic.search.chance import chance, likely

BUDGETS = (0.1, 0.5, 1.0, 2.0)
SPLITS = ((5000, 10_000), (1000, 2000), (1000, 1000), (300, 300))  # how many valid and test examples are drawn
_CRITERIA, _SHARES = ("group_l2", "fpgm"), (0.98, 0.96, 0.93, 0.9, 0.85, 0.8)
_BATCH = 50


@dataclass(frozen=True)
class Population:
    """Candidates: their speed-ups, shape (K,), and of each example 1 where only the baseline answers right, −1 where only the candidate does, shape (K, N)."""

    name: str
    speed: np.ndarray
    gaps: np.ndarray

    def kept(self) -> Population:
        """Write it to where trained nets lie."""
        np.savez_compressed(_file(self.name), speed=self.speed, gaps=self.gaps)
        return self


def _file(name: str) -> Path:
    return trained.FOLDER / f"margin-{name}.npz"


def _population(name: str) -> Population:
    """Return the answers of `pruned` or `run=FOLDER`, computed now or earlier."""
    kind, _, folder = name.partition("=")
    label = f"{kind}-{Path(folder).name}" if folder else kind
    if _file(label).exists():
        with np.load(_file(label), allow_pickle=False) as known:
            return Population(label, known["speed"], known["gaps"])
    task: Any = trained.task("resnet20")
    images = np.concatenate([part._inputs[""].numpy() for part in (task.valid, task.test)])
    labels = np.concatenate([part.target.numpy() for part in (task.valid, task.test)])
    net = task.build()
    right = _right(lambda x: net(torch.from_numpy(x)), images, labels)
    made = _pruned(task, images, labels) if kind == "pruned" else _of_run(Path(folder), images, labels)
    speeds, theirs = zip(*made, strict=True)
    return Population(label, np.array(speeds), np.array([right.astype(np.int8) - own for own in theirs], np.int8)).kept()


@torch.no_grad()
def _right(answer: Callable[[np.ndarray], Any], images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    found = [np.asarray(answer(images[at : at + _BATCH])).argmax(1) for at in range(0, len(images), _BATCH)]
    return np.concatenate(found) == labels


def _pruned(task: lc.Task, images: np.ndarray, labels: np.ndarray) -> list[tuple[float, np.ndarray]]:
    program = lc.capture(task.build(), torch.from_numpy(images[:2]))
    whole, context, made = lc.count(program).macs, lc.Context(task), list[tuple[float, np.ndarray]]()
    for criterion in _CRITERIA:
        for share in _SHARES:
            net, _ = lc.prune(program, lc.Prune(macs=share, criterion=criterion, recovery={"epochs": 0}), context)  # type: ignore[operator]
            renew_statistics(net, 512, 64, context)
            with tempfile.TemporaryDirectory() as place:
                session = lc.export(net, Path(place) / "net.onnx").session
            made.append((whole / lc.count(net).macs, _right(lambda x, one=session: one.run([x])[0], images, labels)))
            print(f"  {criterion} {share:g}: {made[-1][0]:.2f} times fewer multiply-adds, {100 * made[-1][1].mean():.2f} %", flush=True)
    return made


def _of_run(folder: Path, images: np.ndarray, labels: np.ndarray) -> list[tuple[float, np.ndarray]]:
    made = []
    for row in read_result(folder)["candidates"]:
        if row["status"] in ("passed", "rejected") and row["measured"]["speedup"]["value"] > 1:
            session = Artifact.open(folder / row["artifact"], trust=True).session
            made.append((row["measured"]["speedup"]["value"], _right(lambda x, one=session: one.run([x])[0], images, labels)))
            print(f"  {row['title']}: {made[-1][0]:.2f} times as fast, {100 * made[-1][1].mean():.2f} %", flush=True)
    return made


# Rules ------------------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drawn:
    """What a rule knows: speed-ups, drops on the valid examples and on either half of them, each shape (K,)."""

    speed: np.ndarray
    drops: Sequence[Measurement]
    halves: tuple[Sequence[float], Sequence[float]]


Rule = Callable[[Drawn, float], "int | None"]


def _fastest(drawn: Drawn, may: Sequence[bool]) -> int | None:
    """Return the fastest of those that may be chosen."""
    left = [i for i, yes in enumerate(may) if yes]
    return max(left, key=lambda i: drawn.speed[i], default=None)


def _within(drawn: Drawn, limit: float) -> list[bool]:
    return [_value(drop) <= limit + 1e-9 for drop in drawn.drops]


def _value(drop: Measurement) -> float:
    assert drop.value is not None
    return drop.value


def _measured(drawn: Drawn, limit: float) -> int | None:
    return _fastest(drawn, _within(drawn, limit))


def _share(share: float) -> Rule:
    def rule(drawn: Drawn, limit: float) -> int | None:
        within = [i for i, yes in enumerate(_within(drawn, limit)) if yes]
        may = dict(zip(within, likely([drawn.drops[i] for i in within], limit, share=share), strict=True))
        return _fastest(drawn, [may.get(i, False) for i in range(len(drawn.drops))])

    return rule


def _bound(drawn: Drawn, limit: float) -> int | None:
    """The upper end of each interval holds the limit."""
    return _fastest(drawn, [drop.high is not None and drop.high <= limit for drop in drawn.drops])


def _many(drawn: Drawn, limit: float) -> int | None:
    """So does that of an interval that is wider the more candidates held the limit: 5 % over that number (Bonferroni)."""
    within = _within(drawn, limit)
    z = _quantile(1 - 0.05 / max(1, sum(within)))
    return _fastest(drawn, [_value(drop) + z * _deviation(drop) <= limit for drop in drawn.drops])


def _half(drawn: Drawn, limit: float) -> int | None:
    """The fastest within the limit on one half of the examples that is within it on the other half too."""
    return _fastest(drawn, [max(pair) <= limit + 1e-9 for pair in zip(*drawn.halves, strict=True)])


def _gain(drawn: Drawn, limit: float) -> int | None:
    """The most expected: its chance times the logarithm of its speed-up."""
    worth = [(chance(drop, limit) or 0.0) * math.log(speed) for drop, speed in zip(drawn.drops, drawn.speed, strict=True)]
    return (
        int(np.argmax([one if yes else -1.0 for one, yes in zip(worth, _within(drawn, limit), strict=True)]))
        if any(_within(drawn, limit))
        else None
    )


def _shrunk(drawn: Drawn, limit: float) -> int | None:
    """Drops shrunk toward what candidates with as many changed answers lose (empirical Bayes), then as `likely`."""
    values, variance = np.array([*map(_value, drawn.drops)]), np.array([_deviation(drop) ** 2 for drop in drawn.drops])
    columns = np.stack([variance, variance**2], 1)
    weights = 1 / variance
    for _ in range(10):
        fit = np.linalg.lstsq(columns * np.sqrt(weights)[:, None], values * np.sqrt(weights), rcond=None)[0]
        rest = values - columns @ fit
        between = max(1e-9, float(np.average(rest**2 - variance, weights=weights)))
        weights = 1 / (variance + between)
    share = between / (between + variance)
    mean, spread = columns @ fit + share * rest, np.sqrt(share * variance)
    others = drawn.drops[0].others
    drops = [
        Measurement(float(m), "points", low=float(m - 1.96 * s), high=float(m + 1.96 * s), others=others)
        for m, s in zip(mean, spread, strict=True)
    ]
    return _share(0.9)(Drawn(drawn.speed, drops, drawn.halves), limit)


def _deviation(drop: Measurement) -> float:
    assert drop.high is not None
    return (drop.high - _value(drop)) / 1.959964


@lru_cache
def _quantile(p: float) -> float:
    from scipy.stats import norm

    return float(norm.ppf(p))


RULES: dict[str, Rule] = {
    "as measured": _measured,
    "chance 70 %": _share(0.7),
    "chance 80 %": _share(0.8),
    "chance 90 %": _share(0.9),
    "chance 95 %": _share(0.95),
    "upper end": _bound,
    "upper end of many": _many,
    "on both halves": _half,
    "expected gain": _gain,
    "shrunk, 90 %": _shrunk,
}

# Simulation -------------------------------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=200_000)
def _drop(worse: int, better: int, n: int) -> Measurement:
    """Return the paired drop in points of so many examples, as a run measures it."""
    gaps = np.zeros(n)
    gaps[:worse], gaps[worse : worse + better] = 1, -1
    return paired_difference(np.maximum(gaps, 0), np.maximum(-gaps, 0), scale=100)


def _drawn(rng: np.random.Generator, people: Population, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return of n examples drawn, how many of each candidate are worse and better, shape (K,)."""
    times = np.bincount(rng.integers(0, people.gaps.shape[1], n), minlength=people.gaps.shape[1])
    return (people.gaps > 0) @ times, (people.gaps < 0) @ times


def margin(names: list[str]) -> None:
    """Print what becomes of the choices of each rule, by population and number of examples."""
    draws = next((int(name[6:]) for name in names if name.startswith("draws=")), 300)
    for name in [one for one in names if not one.startswith("draws=")] or ["pruned"]:
        people = _population(name)
        true = 100 * people.gaps.mean(1)
        print(f"{name}: {len(people.speed)} candidates, {(true <= 0.5).sum()} of which truly lose at most 0.5 points", flush=True)
        for n_valid, n_test in SPLITS:
            print(
                f"  {n_valid} valid and {n_test} test examples\n    rule              broken  surely  truly  given up  delivered",
                flush=True,
            )
            for rule, told in _simulated(people, true, n_valid, n_test, draws).items():
                print(f"    {rule:18s} {told}", flush=True)


def _simulated(people: Population, true: np.ndarray, n_valid: int, n_test: int, draws: int) -> dict[str, str]:
    rng, rows = np.random.default_rng(0), {rule: [] for rule in RULES}  # type: dict[str, list[tuple[float, ...]]]
    for _ in range(draws):
        halves = [_drawn(rng, people, n_valid // 2) for _ in range(2)]
        drops = [
            replace(_drop(int(worse), int(better), n_valid), others=n_test / n_valid)
            for worse, better in zip(*(sum(pair) for pair in zip(*halves, strict=True)), strict=True)
        ]
        each = tuple(200 * (worse - better) / n_valid for worse, better in halves)
        drawn, tested = Drawn(people.speed, drops, each), _drawn(rng, people, n_test)  # type: ignore[arg-type]
        for limit in BUDGETS:
            best = people.speed[true <= limit].max(initial=1.0)
            for name, rule in RULES.items():
                chosen = rule(drawn, limit)
                rows[name].append(_became(chosen, people.speed, true, tested, n_test, limit, best))
    return {name: _told(np.array(found)) for name, found in rows.items()}


def _became(
    chosen: int | None, speed: np.ndarray, true: np.ndarray, tested: tuple[np.ndarray, np.ndarray], n: int, limit: float, best: float
) -> tuple[float, ...]:
    """Return whether a choice is broken, surely and truly, and the logarithms of what is given up and of what is delivered."""
    if chosen is None:
        return 0.0, 0.0, 0.0, math.log(best), 0.0
    drop = _drop(int(tested[0][chosen]), int(tested[1][chosen]), n)
    assert drop.low is not None
    broken = _value(drop) > limit
    return broken, drop.low > limit, true[chosen] > limit, math.log(best / speed[chosen]), 0.0 if broken else math.log(speed[chosen])


def _told(found: np.ndarray) -> str:
    broken, surely, truly, given, gained = found.mean(0)
    return f"{100 * broken:5.1f} %  {100 * surely:4.1f} %  {100 * truly:4.1f} %  {math.exp(given):7.3f}×  {math.exp(gained):8.3f}×"
