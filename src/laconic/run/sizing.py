"""The table of sizes of a captured model, measured in the process that builds models: layers on the target, losses on the task's train data.

A table that is not whole when its time is over is of no use. So where there is a limit, it is not begun where a few of its measurements say that it will be
late; losses are measured on as many examples as there is time for, and what is chosen beside channels in a share of the time, after which the table goes
without the rest of it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from laconic.core.choices import Kind, Table
from laconic.core.context import Context
from laconic.core.errors import TIME_LIMIT, WorkerFailed
from laconic.core.files import alone, read_json, write_json
from laconic.core.loss import mean_loss, train_batches
from laconic.core.macs import LayerShape
from laconic.core.program import Program
from laconic.core.progress import Progress, Until
from laconic.core.target import Target
from laconic.core.task import Task
from laconic.deploy.runtime import runtime
from laconic.deploy.whole import read_state
from laconic.pruning.coupling import couple
from laconic.pruning.sizes import Sizes
from laconic.pruning.tables import Known, LayerPart, Making, Price, choices, distinct, size_table
from laconic.run.latency_table import LayerLatencyTable, latency_table
from laconic.run.layer_parts import LayerParts, applied

_BITS = 8
_EXAMPLES = "examples\0"  # beside what is known of losses: on how many they are
# Of the time of a table, so much may go by until what is chosen beside channels is measured; and so much is planned for losses.
_BESIDE, _OF_LOSSES = 0.6, 0.5
_FEW: tuple[Kind, ...] = ("block", "bits")  # kinds of parts for which few passes are made and hardly a layer is timed
_MANY: tuple[Kind, ...] = ("rank",)
_FEWEST, _IN_STEPS = 64, 32  # examples on which a loss is measured, at the least and in steps
MOVED = "moved"  # in place of a precision: numbers that layers read and write
_GUESSED = 0.5  # of the time of the layers: where more is not timed, what the model takes beside them is not known
_TRIED = 4  # layers that are timed to tell what all of them will take
_CUTS, _PASSES_BESIDE = 5, 96  # passes that are expected for a group, and for all that is chosen beside channels


def write_table(request: Mapping[str, Any], task: Task | None, progress: Progress) -> None:
    """Measure the table of sizes of a program and write it, as `core.choices.Table.to_json` has it. What is known when it is interrupted is kept beside it.

    Args:
        request: ``source`` (the captured model), ``file`` (to be written), ``deploy`` and ``making`` (options of `Target` and `Making`), ``wholes`` (ONNX
            files of the model as it is, by precision), ``seed``, ``state`` (weights of the whole model, of a task with a part) and ``deadline`` (of
            `time.monotonic`, or None).
        task: with train data and a loss.
        progress: of the measurements.

    Raises:
        BadInput: nothing can be removed; data or loss are missing.
        WorkerFailed: the deadline came, or it would come before the table is whole.
    """
    left_s = math.inf if request["deadline"] is None else request["deadline"] - time.monotonic()
    among = progress if math.isinf(left_s) else Until(progress, time.monotonic() + _BESIDE * left_s)
    progress = progress if math.isinf(left_s) else Until(progress, request["deadline"])
    if task is not None and request["state"] is not None:
        read_state(task.build(), Path(request["state"]))
    file, target = Path(request["file"]), Target(**request["deploy"])
    part = file.with_suffix(".part.json")
    price = latency_table(target)
    context = Context(task, None, target, request["seed"], progress, price=price)
    with alone(file):
        known: Known = read_json(part) if part.exists() else {}
        program, making = Program.load(request["source"]), Making(**request["making"])
        prices = {**_prices(price, target), MOVED: moves}
        if not known:
            known[_EXAMPLES] = [float(fitted(making, program, context, left_s, prices).examples)]
        making = replace(making, examples=int(known.get(_EXAMPLES, [making.examples])[0]))

        def keep(losses: Known) -> None:
            known.update(losses)
            write_json(part, known)

        try:
            table = with_choices(program, context, among, prices, making, known, keep)
            table = with_beside(table, program, price, request["wholes"])
        finally:
            price.keep()
        write_json(file, table.to_json())
        part.unlink(missing_ok=True)


def with_beside(table: Table, program: Program, price: LayerLatencyTable, files: Mapping[str, str]) -> Table:
    """Return the table with the cost of a call, and with what the model takes beside its layers and a call where it was timed, on one thread as they.

    What lies beside the layers moves what they read and write (norms, activations, sums, rounding), so it is shared out over them by these numbers, and goes
    with them. Where most of what layers take is not timed itself, such as recurrent ones, nothing is told apart.

    Args:
        table: of the layers, in which `MOVED` stands beside the precisions.
        program: whose layers they are.
        price: has timed them.
        files: by precision, ONNX files of the model as it is.
    """
    sizes, moved = Sizes(couple(program)), table.ms(table.whole, MOVED)
    guessed_ms = sum(price(layer) for node in sizes.layers if not price.is_timed(layer := sizes.layer(node, sizes.full)))
    costs = [replace(cost, ms={name: ms for name, ms in cost.ms.items() if name != MOVED}) for cost in table.costs]
    known = replace(table, costs=(*costs, price.call_cost([name for name in table.precisions if name != MOVED])))
    layers = {name: known.ms(known.whole, name) for name in known.precisions if name in files}
    inputs = [value[:1].numpy() for value in program.example_inputs()]
    beside = {
        name: max(0.0, price.whole_ms(Path(files[name]), inputs) - layers_ms)
        for name, layers_ms in layers.items()
        if guessed_ms < _GUESSED * layers_ms
    }
    shares = [replace(cost, ms={name: cost.ms[MOVED] / moved * ms for name, ms in beside.items()}) for cost in table.costs]
    return replace(known, beside=tuple(shares) if beside else ())


def moves(layer: LayerShape) -> float:
    """Return how many numbers a layer reads and writes for one example, without its weights."""
    read = [shape for i, shape in enumerate(layer.inputs) if i not in layer.weights]
    return float(sum(math.prod(shape) for shape in (*read, layer.output)))


def with_choices(
    program: Program,
    context: Context,
    among: Progress,
    prices: Mapping[str, Price],
    making: Making,
    known: Known,
    keep: Callable[[Known], None],
) -> Table:
    """Return the table with as much of what is chosen beside channels as there is time for.

    For chains of lower rank many layers are timed, so they come last: where their time is over, the table is the one without them.

    Args:
        program: not changed.
        context: the task, the target, and progress that ends with the time of the table.
        among: progress that ends with the time until which something beside channels is begun.
        prices: as of `size_table`, as are the others.
    """
    if len(making.kinds) == 1:
        return size_table(program, context, prices, making, known, keep)
    rules = runtime(context.target.runtime).quantizes
    beside = LayerParts(program, replace(context, progress=among), prices, making, rules, known, keep)
    few = applied(in_time(beside.every(_FEW), context.progress))
    table = size_table(program, context, prices, making, known, keep, few)
    if not set(_MANY) & set(making.kinds):
        return table
    try:
        return size_table(program, context, prices, making, known, keep, applied([*few, *beside.every(_MANY)]))
    except WorkerFailed as error:
        tell_late(error, context.progress)
        return table


def fitted(making: Making, program: Program, context: Context, left_s: float, prices: Mapping[str, Price]) -> Making:
    """Return how a table is made whose losses take no more than a share of the time that is left, as far as fewer examples can do.

    Args:
        making: as it would be made with all the time there is.
        program: of which the table is.
        context: with the task.
        left_s: seconds until the table must be whole; infinite where there is no limit.
        prices: of layers, by precision.

    Raises:
        WorkerFailed: even with the fewest examples there is no time for it: then it is not begun.
    """
    batches = [] if math.isinf(left_s) else train_batches(program, context, _FEWEST)
    if context.task is None or not batches:
        return making
    mean_loss(program, context.task, batches)  # the first call is slow
    each_s = _seconds(lambda: mean_loss(program, context.task, batches)) / _FEWEST  # type: ignore[arg-type]
    coupling = couple(program)
    passes = _CUTS * len(coupling.groups) + (_PASSES_BESIDE if len(making.kinds) > 1 else 0)
    least_s = _pricing_s(Sizes(coupling), making, prices) + passes * _FEWEST * each_s
    if least_s > left_s:
        raise WorkerFailed(
            f"it would take {least_s:.0f} s at the least, and {max(0.0, left_s):.0f} s of the time limit are for it", TIME_LIMIT
        )
    return replace(making, examples=examples_for(_OF_LOSSES * left_s / max(1, passes), each_s, making.examples))


def _pricing_s(sizes: Sizes, making: Making, prices: Mapping[str, Price]) -> float:
    """Return about how many seconds it takes to time the layers, by a few of them; nearly none where they were timed before."""
    shapes = sorted(distinct(sizes, choices(sizes, making)), key=str)
    tried = shapes[:: -(-len(shapes) // _TRIED)]
    for price in prices.values():  # the first call starts a process
        price(shapes[-1])
    return len(shapes) * _seconds(lambda: [price(shape) for price in prices.values() for shape in tried]) / len(tried)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def examples_for(pass_s: float, each_s: float, most: int) -> int:
    """Return on how many examples a loss is measured that may take so many seconds.

    >>> examples_for(1.0, 0.01, 256), examples_for(0.1, 0.01, 256), examples_for(60.0, 0.01, 256), examples_for(0.1, 0.01, 32)
    (96, 64, 256, 32)
    """
    return min(most, max(_FEWEST, _IN_STEPS * int(pass_s / max(each_s, 1e-9) / _IN_STEPS)))


def in_time(parts: Iterator[LayerPart], progress: Progress) -> Iterator[LayerPart]:
    """Yield the parts that are measured before their share of the time is over; that it was is told."""
    try:
        yield from parts
    except WorkerFailed as error:
        tell_late(error, progress)


def tell_late(error: WorkerFailed, progress: Progress) -> None:
    """Tell that there was no time; raise anything else."""
    if error.kind != TIME_LIMIT:
        raise error
    progress.log("the table of sizes goes without a part of what could be chosen of layers: there was no time to measure it")


def _prices(price: LayerLatencyTable, target: Target) -> dict[str, Price]:
    """Return the price of layers in floats, and in integers where the runtime computes with them: there a layer may stay in floats (`choices.FLOATS`)."""

    def floats(layer: LayerShape) -> float:
        return price(replace(layer, bits=None))

    def rounded(layer: LayerShape) -> float:
        return price(replace(layer, bits=layer.bits or _BITS))

    return {"fp32": floats, f"int{_BITS}": rounded} if runtime(target.runtime).quantizes else {"fp32": floats}
