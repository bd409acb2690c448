"""The table of sizes of a captured model, measured in the process that builds models: layers on the target, losses on the task's train data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from laconic.core.context import Context
from laconic.core.files import alone, read_json, write_json
from laconic.core.macs import LayerShape
from laconic.core.program import Program
from laconic.core.progress import Progress, Until
from laconic.core.target import Target
from laconic.core.task import Task
from laconic.deploy.runtime import runtime
from laconic.deploy.whole import read_state
from laconic.pruning.tables import Known, Making, Price, size_table
from laconic.run.latency_table import LayerLatencyTable, latency_table
from laconic.run.layer_parts import LayerParts

_BITS = 8


def write_table(request: Mapping[str, Any], task: Task | None, progress: Progress) -> None:
    """Measure the table of sizes of a program and write it, as `core.choices.Table.to_json` has it. What is known when it is interrupted is kept beside it.

    Args:
        request: ``source`` (the captured model), ``file`` (to be written), ``deploy`` and ``making`` (options of `Target` and `Making`), ``seed``, ``state``
            (weights of the whole model, of a task with a part) and ``deadline`` (of `time.monotonic`, or None).
        task: with train data and a loss.
        progress: of the measurements.

    Raises:
        BadInput: nothing can be removed; data or loss are missing.
        WorkerFailed: the deadline came.
    """
    if request["deadline"] is not None:
        progress = Until(progress, request["deadline"])
    if task is not None and request["state"] is not None:
        read_state(task.build(), Path(request["state"]))
    file, target = Path(request["file"]), Target(**request["deploy"])
    part = file.with_suffix(".part.json")
    price = latency_table(target)
    context = Context(task, None, target, request["seed"], progress, price=price)
    with alone(file):
        known: Known = read_json(part) if part.exists() else {}
        program, prices, making = Program.load(request["source"]), _prices(price, target), Making(**request["making"])

        def keep(losses: Known) -> None:
            known.update(losses)
            write_json(part, known)

        try:
            rules = runtime(target.runtime).quantizes
            more = LayerParts(program, context, prices, making, rules, known, keep).every() if len(making.kinds) > 1 else []
            table = size_table(program, context, prices, making, known, keep, more)
            table = replace(table, costs=(*table.costs, price.call_cost(table.precisions)))
        finally:
            price.keep()
        write_json(file, table.to_json())
        part.unlink(missing_ok=True)


def _prices(price: LayerLatencyTable, target: Target) -> dict[str, Price]:
    """Return the price of layers in floats, and in integers where the runtime computes with them: there a layer may stay in floats (`choices.FLOATS`)."""

    def floats(layer: LayerShape) -> float:
        return price(replace(layer, bits=None))

    def rounded(layer: LayerShape) -> float:
        return price(replace(layer, bits=layer.bits or _BITS))

    return {"fp32": floats, f"int{_BITS}": rounded} if runtime(target.runtime).quantizes else {"fp32": floats}
