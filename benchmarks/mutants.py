"""Would the tests notice? `python -m benchmarks.mutants run [NAME …]`.

Each row changes one line of a copy of the package in a way that makes a figure or a verdict wrong, and runs the tests that ought to fail. A mutant
that survives names a test that is missing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.command import command

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Mutant:
    """One wrong line: in `file` under src/laconic, `before` becomes `after`; `tests` are those that look there."""

    file: str
    before: str
    after: str
    tests: str


MUTANTS: dict[str, Mutant] = {
    "gate: parity lets everything near through": Mutant(
        "run/gate.py",
        'output["max_rel"] <= asked.max_rel:',
        'output["max_rel"] <= 1e9:',
        "tests/deploy/test_parity.py tests/run/test_gate.py",
    ),
    "gate: signal to noise is not asked": Mutant(
        "run/gate.py",
        'output["sqnr_db"] >= asked.sqnr_db:',
        'output["sqnr_db"] >= -999:',
        "tests/deploy/test_parity.py tests/run/test_gate.py",
    ),
    "gate: dead channels pass": Mutant(
        "run/gate.py",
        'if output.get("dead_channels"):',
        'if output.get("dead"):',
        "tests/deploy/test_parity.py tests/run/test_gate.py",
    ),
    "gate: the best output decides": Mutant(
        "run/gate.py",
        "worst = max(outputs",
        "worst = min(outputs",
        "tests/deploy/test_parity.py tests/run/test_gate.py",
    ),
    "gate: faster by the value, not the interval": Mutant(
        "run/gate.py",
        "end = None if mine is None else goal.bad_end(mine)",
        "end = None if mine is None else mine.value",
        "tests/search tests/run/test_gate.py",
    ),
    "gate: equal size is smaller": Mutant(
        "run/gate.py",
        "if goal.cost(worst) < goal.cost(best):",
        "if goal.cost(worst) <= goal.cost(best):",
        "tests/search tests/run/test_gate.py",
    ),
    "parity: a channel's noise is not infinite where a number is lost": Mutant(
        "deploy/parity.py",
        "broken = np.where(bounded, ~np.isfinite(a), ~_same_mask(a, b))",
        "broken = np.where(bounded, False, ~_same_mask(a, b))",
        "tests/deploy/test_parity.py",
    ),
    "parity: pooled over outputs": Mutant(
        "deploy/parity.py",
        '"sqnr_db": min(row["sqnr_db"] for row in judged)',
        '"sqnr_db": max(row["sqnr_db"] for row in judged)',
        "tests/deploy/test_parity.py",
    ),
    "parity: only the first batch counts": Mutant(
        "deploy/parity.py",
        "if before else now",
        "if False else (before or now)",
        "tests/deploy/test_parity.py tests/run/test_agreement.py",
    ),
    "parity: other sizes are not looked at": Mutant(
        "run/agreement.py",
        "        paths.append(write_arrays",
        "        continue\n        paths.append(write_arrays",
        "tests/run/test_agreement.py",
    ),
    "statistics: no floor where nothing differs": Mutant(
        "measure/paired.py",
        "return -math.expm1(math.log(2 * TAIL) / n)",
        "return 0.0",
        "tests/measure/test_paired.py",
    ),
    "statistics: Clopper-Pearson without the half": Mutant(
        "measure/paired.py",
        "binom.cdf(k, n, p) - 0.5 * binom.pmf(k, n, p)",
        "binom.cdf(k, n, p)",
        "tests/measure/test_paired.py",
    ),
    "statistics: the sides are independent": Mutant(
        "measure/paired.py",
        "2 * correlation * a * b",
        "0 * correlation * a * b",
        "tests/measure/test_paired.py",
    ),
    "statistics: worse and better change places": Mutant(
        "measure/paired.py",
        "(int((gaps > 0).sum()), int((gaps < 0).sum()))",
        "(int((gaps < 0).sum()), int((gaps > 0).sum()))",
        "tests/measure/test_paired.py",
    ),
    "statistics: undefined resamples count as they come": Mutant(
        "measure/paired.py",
        "defined = differences[np.isfinite(differences)]",
        "defined = np.nan_to_num(differences)",
        "tests/measure/test_paired.py",
    ),
    "statistics: the interval of a ratio is too narrow": Mutant(
        "measure/stats.py",
        "share = (outer - LEVEL) / (outer - inner)",
        "share = 1.0",
        "tests/measure/test_stats.py",
    ),
    "statistics: Holm without its steps": Mutant(
        "measure/seeds.py",
        "(len(order) - rank) * p_values[index]",
        "1 * p_values[index]",
        "tests/measure/test_seeds.py",
    ),
    "statistics: agreeing seeds are certainty": Mutant(
        "measure/seeds.py",
        "return max(deviation, (resolution or 0.0) / math.sqrt(12))",
        "return deviation",
        "tests/measure/test_seeds.py",
    ),
    "busy: no turn is preempted": Mutant(
        "measure/busy.py",
        "return waited > WAITED",
        "return waited > 1e9",
        "tests/measure/test_busy.py tests/measure/test_latency.py",
    ),
    "metrics: ignored entries count": Mutant(
        "core/answers.py",
        "known &= ~target.isnan() if math.isnan(value) else target != value",
        "known &= known",
        "tests/core/test_answers.py tests/tasks/test_metrics.py",
    ),
    "metrics: the sign of a label is not 0": Mutant(
        "core/answers.py",
        "else self.scores > 0",
        "else self.scores > 0.5",
        "tests/core/test_answers.py tests/tasks/test_metrics.py",
    ),
    "metrics: F1 over all classes": Mutant(
        "tasks/metric_functions.py",
        "counted = values[~np.isnan(values)]",
        "counted = np.nan_to_num(values)",
        "tests/tasks",
    ),
    "metrics: equal scores count whole in AUROC": Mutant(
        "tasks/metric_functions.py",
        "np.cumsum(below) - below / 2",
        "np.cumsum(below)",
        "tests/tasks",
    ),
    "metrics: R² by the sum of all": Mutant(
        "tasks/metric_functions.py",
        "(counted * (target - mean) ** 2).sum(0)",
        "(counted * target ** 2).sum(0)",
        "tests/tasks",
    ),
    "metrics: a blind metric passes": Mutant(
        "run/blind.py",
        "if same and (_same(negated, own) or good or (good is None and not sees)):",
        "if False:",
        "tests/run/test_blind.py",
    ),
    "metrics: AUROC of one class is no mistake": Mutant(
        "tasks/metric_functions.py",
        "return None if len(classes) > 1 else",
        "return None if len(classes) > 0 else",
        "tests/tasks",
    ),
    "scales: the bias has no bound": Mutant(
        "core/integer_bias.py",
        "wider = torch.maximum(step, least)",
        "wider = step",
        "tests/quantization/test_bias.py",
    ),
    "scales: the bound is 2^32": Mutant(
        "core/integer_bias.py",
        "LARGEST = 2**30",
        "LARGEST = 2**34",
        "tests/quantization/test_bias.py",
    ),
    "scales: biases are not rounded as the kernel does": Mutant(
        "core/integer_bias.py",
        "rounded = (torch.round(old.double() / step) * step).to(old.dtype)",
        "rounded = old.clone()",
        "tests/quantization/test_bias.py",
    ),
    "scales: zero is not on the grid": Mutant(
        "quantization/scheme.py",
        "reshape(-1).clamp(max=0.0)",
        "reshape(-1).clamp(max=1e9)",
        "tests/quantization/test_scheme.py",
    ),
    "scales: a step of int8 too wide": Mutant(
        "quantization/scheme.py",
        "(high - low) / (scheme.high - scheme.low)",
        "(high - low) / (scheme.high - scheme.low + 1)",
        "tests/quantization/test_scheme.py",
    ),
    "proof: what is not finite passes": Mutant(
        "pruning/proof.py",
        "if not bool(torch.isfinite(value).all()):",
        "if False:",
        "tests/pruning/test_proof.py",
    ),
    "proof: other sizes are not compared": Mutant(
        "pruning/proof.py",
        '[("the example", example), *((str(other), other.inputs) for other in others)]',
        '[("the example", example)]',
        "tests/pruning/test_proof.py tests/pruning/test_merged.py",
    ),
    "proof: a cut that moves nothing proves": Mutant(
        "pruning/proof.py",
        "if len(idle) == len(moved) and by_chance",
        "if False and by_chance",
        "tests/pruning/test_proof.py",
    ),
    "proof: nothing is perturbed": Mutant(
        "pruning/proof.py",
        "    tensors = perturbed(coupling, example, seed)",
        "    tensors = {}",
        "tests/pruning/test_proof.py",
    ),
}


def survives(mutant: Mutant, folder: Path) -> bool:
    """Whether the tests pass with the mutant in place.

    Raises:
        SystemExit: the line to change is not there exactly once.
    """
    source = folder / "laconic" / mutant.file
    text = source.read_text(encoding="utf-8")
    if text.count(mutant.before) != 1:
        raise SystemExit(f"{mutant.file} holds {mutant.before!r} {text.count(mutant.before)} times; a mutant needs it once")
    source.write_text(text.replace(mutant.before, mutant.after), encoding="utf-8")
    try:
        return passes(mutant.tests.split(), folder)
    finally:
        source.write_text(text, encoding="utf-8")


def passes(tests: list[str], folder: Path) -> bool:
    """Whether tests pass with the package in `folder`.

    Raises:
        SystemExit: pytest could not run them.
    """
    argv = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(argv, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(folder)}, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(f"pytest ended with {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode == 0


def run(names: list[str]) -> None:
    """Try all mutants, or those named; the tests must pass without any."""
    alive = []
    with tempfile.TemporaryDirectory() as place:
        shutil.copytree(ROOT / "src" / "laconic", Path(place) / "laconic")
        tests = {test for name in names or MUTANTS for test in MUTANTS[name].tests.split()}
        if not passes(sorted(tests), Path(place)):
            raise SystemExit("the tests fail without a mutant, so that they tell nothing")
        for name in names or MUTANTS:
            if survives(MUTANTS[name], Path(place)):
                alive.append(name)
            print(f"{'SURVIVED' if name in alive else 'noticed '}  {name}", flush=True)
    print(
        f"{len(names or MUTANTS) - len(alive)} of {len(names or MUTANTS)} mutants were noticed"
        + (f"; survivors: {', '.join(alive)}" if alive else "")
    )


COMMANDS = {"run": run}

if __name__ == "__main__":
    command(__doc__, COMMANDS)
