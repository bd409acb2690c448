"""Mixed precision: how much each operator hurts when it alone is rounded, and a program that keeps the few that hurt most in float."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import fx

from laconic.core.axes import joined
from laconic.core.calibrate import Batch, calibration_batches
from laconic.core.context import Context
from laconic.core.errors import BadInput
from laconic.core.fake_quant import is_fake_quant
from laconic.core.program import Program, as_program
from laconic.core.progress import Progress
from laconic.core.reader import reader_of
from laconic.core.records import Outcome
from laconic.core.signal import sqnr_db
from laconic.core.step import step
from laconic.core.task import Task, calibration_subset
from laconic.quantization.layers import as_context
from laconic.quantization.options import Quantize
from laconic.quantization.placement import operator_name
from laconic.quantization.static import static

_EXAMPLES = 64
_LOSS_RISE = 0.02
_SHARES = (0.0, 0.05, 0.1, 0.2, 0.35, 0.5)


@dataclass(frozen=True)
class Mixed(Quantize):
    """Static quantization that keeps the operators that hurt most in float.

    Args:
        max_loss_rise: by how much the mean loss on the calibration examples may rise, relative to the unquantized program's; the fewest operators
            that hold it stay float. None: 0.02, a fiftieth.
        float_operators: keep exactly so many instead; None lets the loss decide.
    """

    max_loss_rise: float | None = None
    float_operators: int | None = None

    def words(self) -> str:
        """Return its name: there is one mode."""
        return "quantize mixed"

    def __post_init__(self) -> None:
        super().__post_init__()
        mistakes = []
        if self.mode != "static":
            mistakes.append(f"mode: {self.mode!r}; mixed precision chooses among statically quantized operators. Leave it out")
        if self.max_loss_rise is not None and self.float_operators is not None:
            mistakes.append(
                "max_loss_rise and float_operators: the loss decides how many operators stay float, or you do. Give one of them"
            )
        if (self.max_loss_rise or 0) < 0 or (self.float_operators or 0) < 0:
            mistakes.append(f"max_loss_rise: {self.max_loss_rise} and float_operators: {self.float_operators} must be 0 or more")
        if mistakes:
            raise BadInput("the quantization makes no sense:\n" + "\n".join(f"  {m}" for m in mistakes))


@dataclass(frozen=True)
class Sensitivity:
    """What rounding one operator alone does to the model's outputs: signal over noise in dB; infinite where nothing changes."""

    name: str
    sqnr_db: float


class _Only(fx.Interpreter):
    """Runs the graph with the rounding that one operator reads, and no other."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.active: set[fx.Node] = set()

    def run_node(self, n: fx.Node) -> Any:
        if is_fake_quant(n) and n not in self.active:
            return self.env[n.args[0]]  # type: ignore[index]
        return super().run_node(n)


@torch.no_grad()
def sensitivity(rounded: Program, leaves: Batch, advance: Callable[[], None] = lambda: None) -> list[Sensitivity]:
    """Return the sensitivity of each operator with rounded inputs, most harmful first.

    Args:
        rounded: a statically quantized program.
        leaves: flat inputs of some examples.
        advance: called after each operator.
    """
    runner = _Only(as_program(rounded, "sensitivity").graph_module)
    exact = runner.run(*leaves)
    result = []
    for name, nodes in _rounding_of(rounded).items():
        runner.active = nodes
        result.append(Sensitivity(name, sqnr_db(exact, runner.run(*leaves))))
        advance()
    return sorted(result, key=lambda item: item.sqnr_db)


@torch.no_grad()
def rounding_losses(rounded: Program, task: Task, batches: Sequence[tuple[Any, Any]], progress: Progress) -> dict[str, float]:
    """Return by operator the mean loss where it alone is rounded.

    Args:
        rounded: a statically quantized program.
        task: with a loss.
        batches: inputs and targets, of which all examples count alike.
        progress: is told of each operator.
    """
    assert task.loss is not None
    runner, groups = _Only(as_program(rounded, "rounding_losses").graph_module), _rounding_of(rounded)
    flat = [(rounded.flatten_inputs(inputs), target) for inputs, target in batches]
    counts = [len(leaves[0]) for leaves, _ in flat]
    result = {}
    progress.start("losses of rounding", len(groups))
    for name, nodes in groups.items():
        runner.active = nodes
        losses = [float(task.loss(rounded.unflatten_outputs(runner.run(*leaves)), target)) for leaves, target in flat]
        result[name] = sum(n * loss for n, loss in zip(counts, losses, strict=True)) / sum(counts)
        progress.advance()
    progress.finish()
    return result


def _rounding_of(rounded: Program) -> dict[str, set[fx.Node]]:
    """Return by operator the rounding that it reads."""
    result: dict[str, set[fx.Node]] = {}
    for node in rounded.graph.nodes:
        if node.op == "call_function" and not is_fake_quant(node):
            read = {source for source in node.all_input_nodes if is_fake_quant(source)}
            if read:
                result.setdefault(operator_name(node), set()).update(read)
    return result


@step("quantize_mixed", Mixed, float32=True)
def quantize_mixed(program: Program, config: Mixed | None = None, context: Context | Task | None = None) -> tuple[Program, Outcome]:
    """Quantize statically with as many operators in float as the loss asks for, those of the worst sensitivity first.

    The loss is the task's, on calibration examples; without one, the mean squared error of the outputs relative to their power.

    Raises:
        BadInput: see `quantize`.
    """
    config, context = config or Mixed(), as_context(context)
    base = Quantize(**{name: getattr(config, name) for name in [option.name for option in fields(Quantize)]})
    full, outcome = static(program, base, context)
    batches = calibration_batches(context, config.examples, config.batch_size, full)
    context.progress.start("sensitivity", len(outcome.changed["operators"]))
    ranking = sensitivity(full, joined(full.inputs, batches, _EXAMPLES), context.progress.advance)
    context.progress.finish()
    names = set(outcome.changed["operators"])
    ranked = [item for item in ranking if item.name in names]
    if config.float_operators is not None and config.float_operators >= len(ranked):
        raise BadInput(
            f"float_operators: {config.float_operators}, but only {len(ranked)} are rounded: nothing would be left. Give less, or no such step"
        )
    limit = _rise(program, context, config)
    kept: tuple[str, ...] = ()
    result = full
    counts = [config.float_operators] if config.float_operators is not None else [round(share * len(ranked)) for share in _SHARES]
    for count in dict.fromkeys(min(count, len(ranked)) for count in counts):
        kept = tuple(item.name for item in ranked[:count])
        result, outcome = (full, outcome) if count == 0 else static(program, replace(base, keep=(*base.keep, *kept)), context)
        if config.float_operators is None and limit(result):
            break
    rows = [
        {"name": item.name, "sqnr_db": item.sqnr_db if math.isfinite(item.sqnr_db) else None, "kept_float": item.name in kept}
        for item in ranking
    ]
    changed = {**{k: v for k, v in outcome.changed.items() if k != "mode"}, "sensitivity": rows, "float_operators": len(kept)}
    return result, Outcome("quantize_mixed", changed, outcome.skipped, outcome.notes)


def _rise(program: Program, context: Context, config: Mixed) -> Callable[[Program], bool]:
    """Return whether a rounded program's loss on the calibration examples is within the limit."""
    task = context.task
    assert task is not None
    data = task.train if task.train is not None else task.valid
    subset = calibration_subset(data, config.examples, context.seed)
    loader = reader_of(task, subset).loader(collate=task.collate, **program.interface.loading(config.batch_size))
    batches = [task.split(batch) for batch in loader]

    @torch.no_grad()
    def mean_loss(candidate: Program) -> float:
        if task.loss is None:
            flat = [candidate.flatten_inputs(inputs) for inputs, _ in batches]
            pairs = [(program.graph_module(*leaves), candidate.graph_module(*leaves)) for leaves in flat]
            return sum(10 ** (-sqnr_db(exact, result) / 10) for exact, result in pairs) / len(pairs)
        return sum(float(task.loss(candidate.call(inputs), target)) for inputs, target in batches) / len(batches)

    before = mean_loss(program)
    share = _LOSS_RISE if config.max_loss_rise is None else config.max_loss_rise
    floor = share if task.loss is None else share * max(before, 0.05)
    return lambda candidate: mean_loss(candidate) <= before + floor
