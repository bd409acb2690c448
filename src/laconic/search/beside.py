"""What is told of the chosen artifact beside its figures: which answers changed, how single calls spread, how latency grows with the batch, how to load it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from laconic.core.errors import LaconicError
from laconic.deploy.export import FORMATS
from laconic.deploy.runtime import runtime
from laconic.run.changed import changed
from laconic.run.curve import QUANTILES, batch_curve, spread
from laconic.run.evaluate import Evaluator
from laconic.run.examples import read_logits
from laconic.run.record import Record


def beside(evaluator: Evaluator, base: Record, chosen: Record) -> dict[str, Any]:
    """Return what the page shows of a published artifact next to its baseline; computed once. To be called while their processes live.

    Returns:
        ``answers`` (see `run.changed`), ``spread`` (quantiles in percent and milliseconds of single calls), ``curve`` (see `run.curve.batch_curve`); what
        could not be found out is None.
    """
    store, pair = evaluator.store, (base, chosen)
    rounds = evaluator.published.get(chosen.key, {})
    return {
        "answers": _answers(evaluator, pair),
        "spread": {"quantiles": QUANTILES, "ms": [spread(rounds[one.key]) for one in pair]}
        if all(one.key in rounds for one in pair)
        else None,
        "curve": store.once(f"timing/curve-{chosen.key}.json", lambda: _curve(evaluator, pair)),
    }


def _answers(evaluator: Evaluator, pair: Sequence[Record]) -> dict[str, Any] | None:
    folders = [evaluator.store.path("candidates", one.key, "valid") for one in pair]
    before, after = (read_logits(evaluator.task, evaluator.program, folder, evaluator.task.valid) for folder in folders)
    return changed(evaluator.metric, before, after, evaluator.valid.target)


def _curve(evaluator: Evaluator, pair: Sequence[Record]) -> dict[str, Any] | None:
    store = evaluator.store
    try:
        workers = [evaluator.workers.get(one.key, store.path("candidates", one.key, "artifact")) for one in pair]
    except LaconicError as error:
        return {"batches": [], "ms": [[], []], "note": str(error)}
    with evaluator.ledger.part("time"):
        return batch_curve(evaluator.program, evaluator.valid.first, store.path("examples"), workers)


def shipped(record: Record, inputs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return where an artifact lies in the run's folder, and the lines of Python that load and run it: with Laconic, and without.

    Args:
        record: of the artifact.
        inputs: of the model: names, shapes and kinds, in order.
    """
    target = record.made_by.deploy
    one = runtime(target.runtime)
    file = f"{record.artifact}/{FORMATS[one.format_in(target.precision)][0]}"
    # Names are quoted: whatever a model calls its inputs, these lines stay a comment.
    shapes = "; ".join(f"{spec['name']!r} {spec['dtype']} {list(spec['shape'])}" for spec in inputs)
    given = f"inputs = [...]  # arrays or tensors: {shapes}\n"
    load = f"import laconic as lc\nartifact = lc.Artifact.load({record.artifact!r})\noutputs = artifact(*inputs)\n"
    return {"file": file, "code": given + load, "code_without": f"file = {file!r}\n{given}{one.start_script(target)}"}
