"""Fewer blocks: drop repeated residual blocks of a program and keep the weights of the others (the start of DistilBERT, Sanh et al. 2019, section 3).

A block is what the graph computed inside a module whose path ends in a number, e.g. ``encoder.layer.3``. It can be skipped if one value enters, one of
the same shape leaves, and the rest of what it reads (masks, sizes) would be there without its siblings. It is residual if what enters is added to what
is computed of it.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

from torch import fx

from laconic.core.assembly import assemble, tensors_of
from laconic.core.choices import Kind
from laconic.core.context import Context
from laconic.core.errors import BadInput, nearest
from laconic.core.graph import TensorMeta, shapes
from laconic.core.loss import mean_loss, train_batches
from laconic.core.operators import CONVOLUTIONS, PRODUCTS, Family, family_of
from laconic.core.program import Program
from laconic.core.records import Outcome, Skipped
from laconic.core.step import StepConfig, step
from laconic.core.task import Task
from laconic.factorize.sites import model_params, multiplying

# Families behind which a value is no longer the one that entered, but something computed of it.
_MIXING: tuple[Family, ...] = (*CONVOLUTIONS, *PRODUCTS, "linear", "bilinear", "recurrent")


@dataclass(frozen=True)
class DropBlocks(StepConfig):
    """Drop repeated residual blocks. One of the first four says which; without any it is every second.

    Args:
        keep: so many of each run of alike blocks stay, evenly spaced, the first among them.
        every: of each run, every n-th goes: 2 drops the second, the fourth, …
        blocks: module paths of those that go.
        least: so large a share of all these blocks goes, one at least: one after the other, each time the one without which the task's loss rises
            least; one of each run stays.
        examples: of the train data that are looked at, for `least`.
    """

    calibrates: ClassVar[bool] = True
    section: ClassVar[str] = "factorization"

    keep: int | None = None
    every: int | None = None
    blocks: tuple[str, ...] = ()
    least: float | None = None
    examples: int = 256

    def __post_init__(self) -> None:
        mistakes = []
        if sum([self.keep is not None, self.every is not None, bool(self.blocks), self.least is not None]) > 1:
            mistakes.append("one of keep, every, blocks and least says what goes")
        if self.least is not None and not 0 < self.least < 1:
            mistakes.append(f"least: {self.least} must lie between 0 and 1: a share of the blocks")
        if self.examples < 1:
            mistakes.append(f"examples: {self.examples} must be 1 or more")
        if self.keep is not None and self.keep < 1:
            mistakes.append(f"keep: {self.keep} must be 1 or more: the first of a run always stays")
        if self.every is not None and self.every < 2:
            mistakes.append(f"every: {self.every} must be 2 or more: the first of a run always stays")
        if mistakes:
            raise BadInput("dropping blocks so makes no sense:\n" + "\n".join(f"  {m}" for m in mistakes))

    def words(self) -> str:
        """Return the step, and how many of the blocks go where that is a share: `drop 30 % of the blocks`."""
        return "drop blocks" if self.least is None else f"drop {100 * self.least:.3g} % of the blocks"

    def choices(self) -> Mapping[tuple[Kind, str], int | str] | None:
        """Return the blocks that go, where they are named."""
        return {("block", path): 0 for path in self.blocks} or None


@dataclass(frozen=True)
class Block:
    """A block that can be skipped: what enters, what leaves, and whether what enters is added to what is computed of it."""

    path: str
    entry: fx.Node
    exit: fx.Node
    inside: frozenset[fx.Node]
    residual: bool


@step("drop_blocks", DropBlocks)
def drop_blocks(program: Program, config: DropBlocks | None = None, context: Context | Task | None = None) -> tuple[Program, Outcome]:
    """Drop blocks from a copy of a program. Paths and parameters of those that stay keep their names.

    Args:
        program: not changed.
        config: which.
        context: or the task alone, on whose train data `least` measures the loss.

    Returns:
        A smaller program, and which blocks went; siblings that cannot be skipped are listed with the reason.

    Raises:
        BadInput: there are no repeated residual blocks, none would go, a named one cannot be skipped, or `least` has no train data or loss; says why.
    """
    config, context = config or DropBlocks(), context if isinstance(context, Context) else Context(task=context)
    copied = copy.deepcopy(program).eval()
    survey = Survey(copied)
    runs = survey.runs()
    named = _least(program, runs, config, context) if config.least is not None else config.blocks
    chosen = survey.named(named) if named else [block for run in runs for block in _leaving(run, config)]
    if not chosen and runs:
        raise BadInput(
            f"no block would go: the runs of alike blocks have {', '.join(str(len(run)) for run in runs)} blocks. Keep fewer, or name blocks."
        )
    if not chosen:
        reasons = "; ".join(f"{path}: {reason}" for path, reason in list(survey.reasons.items())[:3])
        raise BadInput(f"there are no repeated residual blocks that can be skipped ({reasons or 'no module path ends in a number'}).")
    small = _without(copied, chosen)
    skipped = [
        Skipped(path, reason) for path, reason in survey.reasons.items() if any(_siblings(path, b.path) for run in runs for b in run)
    ]
    changed = {
        "blocks": [block.path for block in chosen],
        "runs": [[block.path for block in run] for run in runs],
        "macs": [sum(macs for _, macs in multiplying(each)) for each in (program, small)],
        "params": [model_params(each) for each in (program, small)],
    }
    return small, Outcome("drop_blocks", changed, tuple(skipped))


def _leaving(run: Sequence[Block], config: DropBlocks) -> list[Block]:
    """Return those of a run that go.

    >>> _leaving(list("abcdef"), DropBlocks(every=3)), _leaving(list("abcde"), DropBlocks(keep=2))
    (['c', 'f'], ['b', 'd', 'e'])
    """
    n = len(run)
    if config.keep is not None:
        staying = {index * n // min(n, config.keep) for index in range(min(n, config.keep))}
        return [block for index, block in enumerate(run) if index not in staying]
    return [block for index, block in enumerate(run) if (index + 1) % (config.every or 2) == 0]


def _least(program: Program, runs: Sequence[Sequence[Block]], config: DropBlocks, context: Context) -> tuple[str, ...]:
    """Return the paths of those without which the loss rises least, one after the other; one of each run stays.

    Raises:
        BadInput: there are no train data or no loss.
    """
    assert config.least is not None
    task, batches = context.task, train_batches(program, context, config.examples)
    if task is None or not batches:
        raise BadInput("which blocks do least is measured on train data with the task's loss, and one of them is missing. Name the blocks.")
    count, gone = max(1, round(config.least * sum(map(len, runs)))), tuple[str, ...]()
    context.progress.start("looking for the blocks that do least", count)
    while len(gone) < count:
        left = [[block.path for block in run if block.path not in gone] for run in runs]
        trials = [(*gone, path) for run in left if len(run) > 1 for path in run]
        if not trials:
            break
        gone = min(trials, key=lambda paths: mean_loss(drop_blocks(program, DropBlocks(blocks=paths))[0], task, batches))
        context.progress.advance()
    context.progress.finish()
    return gone


def _siblings(path: str, other: str) -> bool:
    """Return whether two paths end in a number below the same parent."""
    return path != other and _parent(path) == _parent(other) is not None


def _parent(path: str) -> str | None:
    head, _, leaf = path.rpartition(".")
    return head if leaf.isdigit() else None


class Survey:
    """What a program's module paths hold: blocks that can be skipped, and for the others the reason why not.

    Attributes:
        blocks: by path, in the order of the graph.
        reasons: by path.
    """

    def __init__(self, program: Program) -> None:
        self.values = shapes(program)
        self.order = {node: index for index, node in enumerate(program.graph.nodes)}
        self.inside: dict[str, list[fx.Node]] = {}
        self.kinds: dict[str, str] = {}
        for node in program.graph.nodes:
            for name, kind in (node.meta.get("nn_module_stack") or {}).values() if node.op == "call_function" else ():
                path = name.partition("@")[0]
                self.kinds[path] = kind if isinstance(kind, str) else kind.__name__
                if path:
                    self.inside.setdefault(path, []).append(node)
        self.tensors = [name for name, _ in tensors_of(program.graph_module)]
        self.blocks: dict[str, Block] = {}
        self.reasons: dict[str, str] = {}
        for path in self.inside:
            if _parent(path) is not None:
                self._look(path)

    def _look(self, path: str) -> None:
        block = self.block(path)
        if isinstance(block, Block):
            self.blocks[path] = block
        else:
            self.reasons[path] = block

    def block(self, path: str) -> Block | str:
        """Return the block at a path, or the reason why it cannot be skipped."""
        inside = frozenset(self.inside[path])
        exit = self.inside[path][-1]
        if exit not in self.values:
            return "its output is not one tensor"
        read = {n for node in inside for n in node.all_input_nodes if n not in inside and n.op != "get_attr" and n in self.values}
        fitting = [n for n in read if self.values[n] == self.values[exit]]
        if not fitting:
            return (
                f"its output {_shown(self.values[exit])} has another shape or type than what it reads: {_all(self.values[n] for n in read)}"
            )
        behind = {n: _behind(n, self.inside[path]) for n in fitting}
        residual = {n for n in fitting if _is_residual(n, self.inside[path], behind[n])}
        # of several, the one that is added to; else the one computed last, since masks and positions are older
        entry = max(residual or fitting, key=self.order.__getitem__)
        depends = behind[entry]
        if exit not in depends:
            return "its output does not depend on its input"
        leaks = [n for n in depends if n is not exit and any(user not in inside for user in n.users)]
        if leaks:
            return f"a value inside it ({leaks[0].name}) is read elsewhere too"
        for other in read - {entry}:
            sibling = next((p for p in self.inside if _siblings(p, path) and other in self.inside[p]), None)
            if sibling is not None:
                return f"it reads a second value ({other.name}) of {sibling}"
        return Block(path, entry, exit, inside, entry in residual)

    def runs(self) -> list[list[Block]]:
        """Return runs of residual blocks with the same parent, class, names of parameters and shape of output, two or more.

        A block inside another run's is left out.
        """
        runs: dict[Any, list[Block]] = {}
        for path, block in self.blocks.items():
            if block.residual:
                names = tuple(name.removeprefix(f"{path}.") for name in self.tensors if name.startswith(f"{path}."))
                runs.setdefault((_parent(path), self.kinds[path], names, self.values[block.exit]), []).append(block)
        several = [sorted(run, key=lambda b: int(b.path.rpartition(".")[2])) for run in runs.values() if len(run) > 1]
        outer = {block.path for run in several for block in run}
        return [run for run in several if not any(run[0].path.startswith(f"{path}.") for path in outer)]

    def named(self, paths: Sequence[str]) -> list[Block]:
        """Return the blocks at these paths, in the order of the graph.

        Raises:
            BadInput: a path that is not there, or one that cannot be skipped, with the reason.
        """
        blocks = []
        for path in dict.fromkeys(paths):
            if path not in self.inside:
                raise BadInput(f"the program has no module path '{path}'." + nearest(path, self.inside))
            block = self.block(path)
            if not isinstance(block, Block):
                raise BadInput(f"the block '{path}' cannot be skipped: {block}.")
            blocks.append(block)
        nested = next(((a.path, b.path) for a in blocks for b in blocks if b.path.startswith(f"{a.path}.")), None)
        if nested:
            raise BadInput(f"the block '{nested[1]}' lies inside '{nested[0]}', which goes as a whole. Name one of them.")
        return sorted(blocks, key=lambda block: self.order[block.exit])


@lru_cache(maxsize=8)
def run_lengths(program: Program) -> tuple[int, ...]:
    """Return how many blocks each run of alike residual blocks has; of a program that does not change, looked at once."""
    return tuple(map(len, Survey(program).runs()))


def _shown(value: TensorMeta) -> str:
    return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"


def _all(values: Any) -> str:
    return ", ".join(sorted({_shown(value) for value in values})) or "nothing"


def _behind(entry: fx.Node, inside: Sequence[fx.Node]) -> list[fx.Node]:
    """Return the nodes inside that depend on the entry, in order."""
    behind: dict[fx.Node, None] = {}
    for node in inside:
        if any(n is entry or n in behind for n in node.all_input_nodes):
            behind[node] = None
    return list(behind)


def _is_residual(entry: fx.Node, inside: Sequence[fx.Node], depends: Collection[fx.Node]) -> bool:
    """Return whether the value that entered (moved, normalized, scaled, but not mixed) is added to one that was computed of it."""
    carried, mixed = {entry}, set(depends)
    for node in inside:
        if node not in mixed:
            continue
        ours = [n for n in node.all_input_nodes if n in carried or n in mixed]
        if family_of(node) == "sum" and len(ours) == 2 and len(carried & set(ours)) == 1:
            return True
        if family_of(node) not in _MIXING and all(n in carried for n in ours):
            carried.add(node)
            mixed.discard(node)
    return False


def _without(program: Program, blocks: Sequence[Block]) -> Program:
    """Let what reads each block's output read its input instead. Later blocks first: one's input may be another's output."""
    graph = program.graph
    for block in reversed(blocks):
        block.exit.replace_all_uses_with(block.entry)
        for node in reversed(list(graph.nodes)):
            if node in block.inside and not node.users:
                graph.erase_node(node)
    for node in reversed(list(graph.nodes)):
        if node.op == "get_attr" and not node.users:
            graph.erase_node(node)
    return Program(assemble(graph, _staying(program, [block.path for block in blocks])), program.interface, program.example_inputs())


def _staying(program: Program, paths: Sequence[str]) -> Any:
    """Return the tensors that are read, or that lie outside the blocks that went."""
    read = {str(node.target) for node in program.graph.nodes if node.op == "get_attr"}
    gone: Mapping[str, None] = dict.fromkeys(f"{path}." for path in paths)
    return [(name, rest) for name, rest in tensors_of(program.graph_module) if name in read or not name.startswith(tuple(gone))]
