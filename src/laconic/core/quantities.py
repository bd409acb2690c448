"""What can be measured of a candidate: one row for each quantity, from which budget, gate, frontier, report and command line are derived.

A quantity is added by a row here, or from another package by an entry point of the group ``laconic.quantities`` that names a `Quantity`. What measures it is
the row's `measure`, or whoever writes it into a record.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache

from laconic.core import consumption
from laconic.core.errors import BadInput, nearest
from laconic.core.extensions import extended
from laconic.core.quantity import BYTES as BYTES
from laconic.core.quantity import COUNTS as COUNTS
from laconic.core.quantity import MILLISECONDS as MILLISECONDS
from laconic.core.quantity import PLACES as PLACES
from laconic.core.quantity import SIGNS as SIGNS
from laconic.core.quantity import Evidence as Evidence
from laconic.core.quantity import Limit as Limit
from laconic.core.quantity import Objective as Objective
from laconic.core.quantity import Place as Place
from laconic.core.quantity import Quantity as Quantity
from laconic.core.quantity import Scale as Scale
from laconic.core.quantity import Show as Show
from laconic.core.quantity import pick as pick
from laconic.core.records import Measurement

GROUP = "laconic.quantities"

_MAX_DROP = Limit(
    "max_drop",
    unlimited=True,
    rule="metric",
    words="lose at most {limit} {unit}",
    verb="may be lost",
    option="--max-drop",
    help="What may be lost: points of a percentage, else in the metric's own unit; or any.  [default: 0.5 points of a percentage]",
)

# In the order of columns.
_ROWS = (
    Quantity(
        "speedup",
        "Speed-up",
        "x",
        "max",
        better="faster",
        worse="slower",
        reference=1.0,
        compares="latency_ms",
        timed=True,
        show=Show(hint="old/new, interleaved; more is better", places=("figures", "candidates", "final", "terminal", "points")),
        limit=Limit(
            "min_speedup",
            "×",
            surely=True,
            words="at least {limit}× faster",
            option="--min-speedup",
            help="Times faster than PyTorch eager, at the least.",
        ),
        objective=Objective("latency", "as fast as can be told"),
    ),
    Quantity("first_speedup", "Speed-up in the first comparison", "x", "max", reference=1.0, show=Show(places=())),
    Quantity("speedup_cpu", "Speed-up by processor time", "x", "max", reference=1.0, show=Show(places=())),
    Quantity(
        "latency_ms",
        "Median latency",
        "ms",
        noun="latency",
        timed=True,
        better="faster",
        worse="slower",
        show=Show("Median", "median latency of one call", MILLISECONDS, ("candidates", "final", "terminal", "points")),
        limit=Limit("max_latency_ms", "ms", words="at most {limit} ms", option="--max-latency", help="Median latency in ms, at the most."),
    ),
    Quantity(
        "latency_p95_ms",
        "95th percentile of latency",
        "ms",
        timed=True,
        noun="95th percentile of latency",
        better="faster",
        worse="slower",
        show=Show("p95", "latency that 95 % of the calls stay under", MILLISECONDS),
        limit=Limit(
            "max_latency_p95_ms",
            "ms",
            words="95 % of the calls in at most {limit} ms",
            option="--max-p95",
            help="Latency in ms that 95 % of the calls stay under, at the most.",
        ),
        objective=Objective("p95", "of one 95th percentile"),
    ),
    Quantity("latency_p99_ms", "99th percentile of latency", "ms", timed=True, show=Show("p99", "", MILLISECONDS, ())),
    Quantity(
        "metric",
        "{metric}",
        "",
        "max",
        noun="metric",
        on_test="test_metric",
        data="valid",
        show=Show(hint="on validation data", places=("candidates", "terminal", "points")),
    ),
    Quantity(
        "drop",
        "{metric} {loss}",
        "",
        noun="drop",
        opposite="gain",
        reference=0.0,
        compares="metric",
        on_test="test_drop",
        data="valid",
        show=Show(
            "{loss}",
            "against the baseline on the same validation examples; negative is a gain",
            places=("figures", "candidates", "terminal", "points"),
        ),
        limit=_MAX_DROP,
    ),
    Quantity("test_metric", "{metric}", "", "max", noun="metric", data="test", show=Show(places=("final",))),
    Quantity(
        "test_drop",
        "{metric} {loss}",
        "",
        noun="drop",
        opposite="gain",
        reference=0.0,
        compares="test_metric",
        data="test",
        show=Show("{loss}", places=("final",)),
        limit=_MAX_DROP,
    ),
    Quantity(
        "size_bytes",
        "File size",
        "B",
        better="smaller",
        worse="larger",
        exact=True,
        stands_in="onnx_size_bytes",
        show=Show(
            "File",
            "bytes of the file that ships; of the baseline, of its fp32 ONNX file where there is one",
            BYTES,
            ("figures", "candidates", "final", "terminal", "points"),
        ),
        limit=Limit(
            "max_size_mb",
            "MB",
            1e6,
            words="at most {limit} MB",
            option="--max-size",
            help="Size of the file in MB (10^6 bytes), at the most.",
        ),
    ),
    Quantity("onnx_size_bytes", "fp32 ONNX file", "B", exact=True, show=Show(scale=BYTES, places=())),
    Quantity(
        "packed_size_bytes",
        "Packed size",
        "B",
        optional=True,
        better="smaller",
        worse="larger",
        exact=True,
        stands_in="onnx_packed_size_bytes",
        show=Show(
            "Packed",
            "bytes of the .lac archive that ships; of the baseline, of its fp32 ONNX file packed likewise",
            BYTES,
            ("figures", "candidates", "final", "terminal", "points"),
        ),
        limit=Limit(
            "max_packed_mb",
            "MB",
            1e6,
            words="at most {limit} MB packed",
            option="--max-packed",
            help="Size of the .lac archive in MB (10^6 bytes), at the most.",
        ),
        objective=Objective("size", "of one size"),
    ),
    Quantity("onnx_packed_size_bytes", "fp32 ONNX file, packed", "B", optional=True, exact=True, show=Show(scale=BYTES, places=())),
    Quantity(
        "packed_cold_start_ms",
        "Cold start from the archive",
        "ms",
        optional=True,
        better="faster",
        worse="slower",
        show=Show(
            "Packed, cold start",
            "from starting a process to its first output, restoring the archive included",
            MILLISECONDS,
            ("candidates",),
        ),
    ),
    Quantity(
        "peak_memory_bytes",
        "Peak memory",
        "B",
        show=Show(hint="of a fresh process that loads and runs it", scale=BYTES, places=("figures", "candidates")),
        limit=Limit(
            "max_memory_mb",
            "MB",
            1e6,
            words="at most {limit} MB of memory",
            option="--max-memory",
            help="Peak memory in MB (10^6 bytes) of a fresh process that loads and runs it, at the most.",
        ),
        objective=Objective("memory", "of one need of memory"),
    ),
    Quantity(
        "macs",
        "Multiply-adds",
        "",
        noun="number of multiply-adds",
        optional=True,
        better="smaller",
        worse="larger",
        exact=True,
        show=Show("MACs", "multiply-adds of one example, counted in the graph; zeros count like other numbers", COUNTS, ("candidates",)),
        limit=Limit(
            "max_mmacs",
            "million multiply-adds",
            1e6,
            words="at most {limit} million multiply-adds",
            option="--max-mmacs",
            help="Multiply-adds of one example, in millions, at the most.",
        ),
        objective=Objective("macs", "of one number of multiply-adds"),
    ),
    Quantity(
        "flash_bytes",
        "Flash",
        "B",
        optional=True,
        better="smaller",
        worse="larger",
        exact=True,
        stands_in="onnx_size_bytes",
        show=Show(
            hint="weights and graph as they ship and lie there: the file that runs, with what lies beside it", scale=BYTES, places=()
        ),
        limit=Limit(
            "max_flash_kb",
            "kB",
            1e3,
            words="at most {limit} kB of flash",
            option="--max-flash-kb",
            help="Weights and graph as they ship, in kB (10^3 bytes), at the most.",
        ),
        objective=Objective("flash", "of one need of flash"),
    ),
    Quantity(
        "ram_bytes",
        "Static RAM",
        "B",
        optional=True,
        better="smaller",
        worse="larger",
        exact=True,
        show=Show(
            "RAM",
            "arena for one example, computed from what of the graph is alive when; scratch of kernels not counted",
            BYTES,
            ("candidates",),
        ),
        limit=Limit(
            "max_ram_kb",
            "kB",
            1e3,
            words="at most {limit} kB of static RAM",
            option="--max-ram-kb",
            help="Arena for the inputs, outputs and activations of one example in kB (10^3 bytes), computed from the graph, at the most.",
        ),
        objective=Objective("ram", "of one need of static RAM"),
    ),
    Quantity(
        "cold_start_ms",
        "Cold start",
        "ms",
        better="faster",
        worse="slower",
        show=Show(hint="from starting a process to its first output", scale=MILLISECONDS, places=("figures", "candidates")),
    ),
    Quantity(
        "whole_speedup",
        "Speed-up of the whole model",
        "x",
        "max",
        optional=True,
        better="faster",
        worse="slower",
        reference=1.0,
        compares="whole_latency_ms",
        show=Show(
            "Whole",
            "the whole model with the part in place against the model as it is; more is better",
            places=("figures", "final", "terminal"),
        ),
    ),
    Quantity(
        "whole_latency_ms",
        "Median latency of the whole model",
        "ms",
        noun="latency of the whole model",
        optional=True,
        better="faster",
        worse="slower",
        show=Show(
            "Whole, median", "median latency of one call of the whole model, the rest in PyTorch", MILLISECONDS, ("final", "terminal")
        ),
    ),
    Quantity(
        "whole_size_bytes",
        "Size of the whole model",
        "B",
        optional=True,
        better="smaller",
        worse="larger",
        exact=True,
        show=Show("Whole, bytes", "of the part's file and the weights of the rest", BYTES, ("final",)),
    ),
    Quantity(
        "throughput_per_s",
        "Throughput",
        "1/s",
        "max",
        timed=True,
        show=Show(hint="examples in a second", places=("candidates",)),
        limit=Limit(
            "min_throughput_per_s",
            "per s",
            words="at least {limit} examples in a second",
            option="--min-throughput",
            help="Examples in a second at the run's batch size, at the least.",
        ),
        objective=Objective("throughput", "of one throughput"),
    ),
)
QUANTITIES: dict[str, Quantity] = {row.name: row for row in (*_ROWS, *consumption.ROWS)}


@cache
def _outside() -> dict[str, Quantity]:
    """Return the rows of other packages."""
    rows = {name: row for name, row in extended(QUANTITIES, GROUP).items() if name not in QUANTITIES}
    known = dict(QUANTITIES)
    for name, row in rows.items():
        if not isinstance(row, Quantity) or row.name != name:
            raise BadInput(f"the entry point '{name}' of the group {GROUP} must name a laconic.Quantity called '{name}'; it names {row!r}")
        for what, word, others in (("limit", row.limit, _limit_names(known)), ("objective", row.objective, _objective_names(known))):
            if word is not None and word.name in others:
                raise BadInput(
                    f"the {what} '{word.name}' of '{name}' (group {GROUP}) is that of '{others[word.name]}'. Give it another name."
                )
        known[name] = row
    return rows


def _limit_names(rows: Mapping[str, Quantity]) -> dict[str, str]:
    """Return who has which limit; a budget's other words are taken too."""
    return {
        **dict.fromkeys(("objective", "confident", "limits"), "every budget"),
        **{row.limit.name: row.name for row in rows.values() if row.limit},
    }


def _objective_names(rows: Mapping[str, Quantity]) -> dict[str, str]:
    return {row.objective.name: row.name for row in rows.values() if row.objective}


def rows() -> dict[str, Quantity]:
    """Return all quantities by name, those of other packages included, in the order of columns."""
    return {**QUANTITIES, **_outside()}


def row(name: str, unit: str = "") -> Quantity:
    """Return the quantity of a name; a plain one with this unit where none is known, as in a result that another machine wrote."""
    known = rows().get(name)
    return known if known is not None else Quantity(name, name.replace("_", " ").capitalize(), unit)


def limits() -> dict[str, Limit]:
    """Return the limits that a budget may set, by name."""
    return {row.limit.name: row.limit for row in rows().values() if row.limit is not None}


def limited(name: str) -> list[Quantity]:
    """Return the quantities that a limit of this name holds for."""
    return [row for row in rows().values() if row.limit is not None and row.limit.name == name]


def objectives() -> dict[str, Quantity]:
    """Return what may be asked to be best, by the objective's name."""
    return {row.objective.name: row for row in rows().values() if row.objective is not None}


def as_measurement(name: str, value: Measurement | float) -> Measurement:
    """Return a measurement of a quantity; a bare number is exact and in the quantity's unit.

    Raises:
        BadInput: no quantity of that name is known, or the number is not finite.
    """
    if name not in rows():
        raise BadInput(
            f"'{name}' is no quantity.{nearest(name, list(rows()))} Add a row to laconic.core.quantities, or an entry point of the group {GROUP}."
        )
    if isinstance(value, Measurement):
        return value
    if not math.isfinite(value):
        raise BadInput(f"{name}: {value} is no measurement; leave out what was not measured")
    return Measurement(value, rows()[name].unit)
