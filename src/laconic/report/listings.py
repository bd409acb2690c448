"""Tables for a terminal that no run is needed for: a model's layers, what a machine can do, the built-in tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from math import prod
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from laconic.core import quantities
from laconic.core.consumption import COST, ENERGY
from laconic.core.records import Measurement
from laconic.report.candidates import grouped
from laconic.report.units import BYTES, TIME, number, scaled

_SPARSE = 0.01  # of a layer's parameters: from here on zeros have a column
_SLICES = "Components are channels, heads or neurons; each goes with its slices in so many dimensions of tensors."


def _table(*columns: str, right: Sequence[str] = ()) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", no_wrap=column in right)
    return table


def layers(inspected: Mapping[str, Any]) -> RenderableType:
    """Return a task's model: inputs, outputs, layers, totals, what is not counted, what can be pruned, notes; see `run.inspect.inspect`."""
    head = Text.assemble((inspected["task"], "bold"), f"  {inspected['description']}")
    sides = [
        Text(f"{side:<7} {spec['name']}: {spec['dtype']} ({', '.join(map(str, spec['shape']))})")
        for side, specs in (("input", inspected["inputs"]), ("output", inspected["outputs"]))
        for spec in specs
    ]
    sparse = any(row["params"] and row.get("zeros", 0) >= _SPARSE * row["params"] for row in inspected["layers"])
    numbers = ("Parameters", *(["Zeros"] if sparse else []), "Multiply-adds", "Share")
    table = _table("Layer", "Type", *numbers, right=numbers)
    for row in inspected["layers"]:
        share = f"{100 * row['macs'] / inspected['macs']:.1f} %" if inspected["macs"] else "–"
        zeros = [_zeros(row["zeros"], row["params"])] if sparse else []
        table.add_row(Text(row["path"] or "(the model itself)"), Text(row["type"]), f"{row['params']:,}", *zeros, f"{row['macs']:,}", share)
    zeros = [_zeros(sum(row["zeros"] for row in inspected["layers"]), inspected["params"])] if sparse else []
    table.add_row("total", "", f"{inspected['params']:,}", *zeros, f"{inspected['macs']:,}", "", style="bold")
    notes = [f"{name} × {times}: its multiply-adds are not known and not counted" for name, times in inspected["unknown_operators"].items()]
    if not inspected["trained"]:
        notes.append("the model is untrained as it comes; `laconic optimize` trains it first")
    told = [Text(f"note: {note}", "dim") for note in [*notes, *inspected["notes"]]]
    return Group(head, *sides, Text(), table, *_pruning(inspected), *([Text(), *told] if told else []))


def _zeros(zeros: int, params: int) -> str:
    return f"{100 * zeros / params:.1f} %" if params else "–"


def _pruning(inspected: Mapping[str, Any]) -> Iterator[RenderableType]:
    """List what can be pruned and what cannot; nothing where it was not found, which a note tells."""
    if inspected["groups"] is None:
        return
    if inspected["groups"]:
        yield Text("\nWhat can be pruned", "bold")
        yield _groups(inspected)
        yield from (Text(f"note: {note}", "dim") for note in _captions(inspected))
    left = grouped([(row["name"], row["reason"]) for row in inspected["frozen"]])
    if left:
        yield Text("\nWhat stays", "bold")
        yield from (Text(f"{one.reason}: {one.told('dimension')}") for one in left)
    if inspected["no_rule"]:
        told = ", ".join(f"{name} × {times}" for name, times in inspected["no_rule"].items())
        yield Text(f"without a rule, so that what they read stays: {told}")
    free, total = inspected["prunable"]["channels"], inspected["prunable"]["of"]
    share = f"{100 * free / total:.1f} % of" if total else "no"
    yield Text(f"\n{share} output channels can be removed ({free:,} of {total:,})", "bold")


def _groups(inspected: Mapping[str, Any]) -> Table:
    """List groups in the order of the graph, with what the output keeps where that was measured."""
    columns = ["Group", "Components", "Slices"]
    if inspected["sensitivity"]:
        columns.append(f"Output with {_share(inspected['sensitivity']['share'])} gone")
    table = _table(*columns, right=columns[1:])
    for row in inspected["groups"]:
        last = [_loss(row)] if inspected["sensitivity"] else []
        table.add_row(Text(row["name"]), f"{row['components']:,}", f"{row['slices']:,}", *last)
    return table


def _captions(inspected: Mapping[str, Any]) -> Iterator[str]:
    """Return what the columns mean."""
    yield _SLICES
    if inspected["sensitivity"]:
        share, examples = _share(inspected["sensitivity"]["share"]), inspected["sensitivity"]["examples"]
        yield (
            f"Output: its power over that of the change, when {share} of this group alone is gone, those of least magnitude; the lower, the more it "
            f"hurts. Over {examples:,} example{'s' if examples != 1 else ''}."
        )


def _share(share: float) -> str:
    return "half" if share == 0.5 else f"{100 * share:g} %"


def _loss(row: Mapping[str, Any]) -> Text:
    """Write signal over change in dB; what did not change is told from what could not be tried."""
    if row["sqnr_db"] is not None:
        return Text(f"{number(row['sqnr_db'])} dB")
    return Text("no change") if row["removed"] else Text("–", "dim")


def health(machine: Mapping[str, Any]) -> RenderableType:
    """List what a machine can run, and why it cannot run the rest; see `deploy.runtime.matrix` and `measure.environment`."""
    env = machine["environment"]
    have = [name for name, there in env["instructions"].items() if there]
    lack = [name for name, there in env["instructions"].items() if not there]
    memory = "unknown" if env["memory_bytes"] is None else f"{env['memory_bytes'] / 1e9:.1f} GB"
    facts = _table("", "")
    facts.show_header = False
    for name, value in (
        ("processor", env["processor"]),
        ("cores", f"{env['cores']} (this process may use them)"),
        ("memory", memory),
        ("instructions", f"{', '.join(have) or 'none that matter'}" + (f"; not {', '.join(lack)}" if lack else "")),
        ("gpu", env["gpu"] or "none that PyTorch finds"),
        ("seen", "; ".join(f"{title}: {', '.join(there)}" for title, there in machine.get("devices", {}).items())),
        (
            "energy",
            "; ".join(f"{device}: {one['counters'] or 'unknown: ' + one['why']}" for device, one in machine.get("energy", {}).items()),
        ),
        ("load", ", ".join(map(str, env["load_average"])) + (" – busy: latencies measured now mean little" if busy(env) else "")),
        ("system", f"{env['os']}, Python {env['python']}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in env["versions"].items())),
        (
            "extras",
            "; ".join(
                f"{name}: {'lacks ' + ', '.join(lacking) if lacking else 'there'}" for name, lacking in machine.get("extras", {}).items()
            ),
        ),
    ):
        facts.add_row(Text(name, "dim"), Text(str(value)))
    table = _table("Runtime", "Name", "Precision", "Device", "", "Why not")
    rows = machine["runtimes"]
    devices = {row["device"] for row in rows if row["ready"]} | {"cpu"}
    for row in rows:
        if row["device"] not in devices:
            continue
        mark = Text("ready", "green") if row["ready"] else Text("no", "dim")
        untried = "nobody ran Laconic on it yet" if row["ready"] and row.get("unproven") else ""
        version = f"{row['title']} {row['version']}".strip()
        table.add_row(version, row["runtime"], row["precision"], row["device"], mark, Text(row["why"] or untried, "dim"))
    return Group(facts, Text(), table, Text(), *_absent([row for row in rows if row["device"] not in devices]))


def _absent(rows: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    """List the devices on which nothing runs here, with how each runtime would; alike reasons once."""
    if not rows:
        return []
    whys = {(row["title"], row["device"], row["why"]): "never run by us" if row.get("unproven") else "" for row in rows[::-1]}
    table = _table("Not here", "Would run", "Why not", "")
    for title, device, why in reversed(whys):
        table.add_row(device, title, Text(why, "dim"), Text(whys[title, device, why], "dim"))
    return [table]


def comparison(compared: Mapping[str, Any]) -> RenderableType:
    """List what `laconic bench` measured; the first candidate is what the others are compared with."""
    right = ("Batch", "Median", "p95", "p99", "Speed-up", "Per second")
    table = _table("Candidate", *right, right=right)
    about: dict[str, Text] = {}
    for row in compared["timings"]:
        ratio = row["speedup"]
        faster = Text(_faster(ratio)) if ratio else Text("reference", "dim")
        latencies = [scaled(1e-3 * row[name], TIME).text for name in ("p50_ms", "p95_ms", "p99_ms")]
        table.add_row(Text(row["name"]), str(row["batch"]), *latencies, faster, number(row["throughput_per_s"]["value"]))
        facts = (
            f"cold start {scaled(1e-3 * row['cold_start_ms'], TIME).text}",
            f"peak memory {scaled(row['peak_memory_bytes'], BYTES, 'unknown').text}",
            f"file {scaled(row['size_bytes'], BYTES).text}",
            f"static RAM {scaled(row['ram']['value'], BYTES, 'unknown').text}",
        )
        about[row["name"]] = Text(f"{row['name']}: {', '.join(facts)}")
    note = Text("Speed-up: the first one's latency over this one's, with the 95 % interval; they took turns.", "dim")
    marks = [
        Text(f"{row['name']}, batch {row['batch']}: {row['busy']}", "yellow")
        for row in compared["timings"]
        if row["speedup"] and row.get("busy")
    ]
    alone = [Text(compared["busy"], "yellow")] if compared.get("busy") and not marks else []
    return Group(table, Text(), *about.values(), *_consumed(compared), note, *marks, *alone)


def _consumed(compared: Mapping[str, Any]) -> list[Text]:
    """Return a line for the energy and the money of each candidate and batch size, where they were asked for; of several sizes the cheapest is told."""
    lines, timings = [], compared["timings"]
    for row, name in product(timings, (ENERGY, COST)):
        if (known := row.get(name)) is not None:
            one = Measurement.from_json(known)
            note = f"; {one.note}" if one.value is not None and one.note else ""
            lines.append(Text(f"{row['name']}, batch {row['batch']}: {_PER[name]} {quantities.row(name).described(one)}{note}"))
    several = len({row["batch"] for row in timings}) > 1
    cheapest = (compared.get("cheapest") or {}) if several else {}
    return lines + [Text(f"{name}: a million inferences cost least at batch {size}") for name, size in cheapest.items()]


_PER = {ENERGY: "an inference takes", COST: "a million inferences cost"}


def _faster(ratio: Mapping[str, Any]) -> str:
    interval = "" if ratio["low"] is None else f"\n{ratio['low']:.2f} to {ratio['high']:.2f}"
    return f"{ratio['value']:.2f}×{interval}"


def busy(environment: Mapping[str, Any]) -> bool:
    """Return whether so much else runs that latencies are not to be trusted: a load of more than half a core at rest."""
    load = environment.get("load_average") or [0.0]
    return bool(load[0] > 0.5 * environment["cores"])


def catalog(tasks: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Return the built-in tasks; see `tasks.catalog.describe`."""
    table = _table("Task", "What it is", "Models (the first by default)", "Data")
    for row in tasks:
        hub = f"; on the hub: {row['hub']}" if row["hub"] else ""
        data = Text("here", "green") if row["ready"] else Text(row["why"] + hub, "dim")
        table.add_row(Text(row["name"], "bold"), Text(row["title"]), Text(", ".join(row["models"])), data)
    return Group(table, Text("\nAnother model: TASK@MODEL. Your own task: module:attribute, see the README.", "dim"))


def levers(survey: Mapping[str, Any]) -> RenderableType:
    """List what can be tried, and for a task what is; see `search.survey.survey`. Names are never broken; sentences are, between words."""
    judged = survey["candidates"] is not None
    table = _table("Lever", "Stage", *(["Costs", "Where it is tried, or why not"] if judged else ["What it does"]))
    for column in table.columns[:-1]:
        column.no_wrap = True
    for row in survey["levers"]:
        for cells in _judged(row) if judged else [_described(row)]:
            table.add_row(*cells)
    told = "\nOnly some: --try LEVER,LEVER=SETTING. All but some: --without LEVER. See docs/levers.md."
    count = [Text(f"\n{len(survey['candidates'])} candidates; --json names them", "bold")] if judged else []
    return Group(table, *count, Text(told, "dim"))


def _described(row: Mapping[str, Any]) -> tuple[Text, ...]:
    labels = [setting["label"] for setting in row["settings"] if setting["label"] != row["name"]]
    own = [f"{row['name']}={row['value'].upper()}"] if row["value"] else []
    facts = [f"costs {row['cost']}", f"promise {row['promise']}", *([f"needs {row['needs']}"] if row["needs"] else [])]
    about = Text.assemble(row["about"], ("\n" + "; ".join(facts), "dim"))
    if settings := ", ".join([*labels, *own]):
        about.append(f"\nsettings {settings}")
    return Text(row["name"], "bold"), Text(row["stage"]), about


def _judged(row: Mapping[str, Any]) -> Iterator[tuple[Text, ...]]:
    for setting in row["settings"]:
        verdict = Text(", ".join(setting["where"]), "green") if setting["tried"] else Text("no", "dim")
        if setting["why"]:
            verdict.append(f"{'; ' if setting['tried'] else ': '}{setting['why']}", "dim")
        yield Text(setting["label"], "bold"), Text(row["stage"]), Text(setting["cost"]), verdict


def packed(archive: Mapping[str, Any]) -> RenderableType:
    """List what each tensor of an archive takes; see `storage.pack.Packed`."""
    right = ("Values", "Bits", "Order 0", "Bytes")
    table = _table("Tensor", "Kind", "Coding", *right, right=right)
    parts: Counter[str] = Counter()
    for row in archive["tensors"]:
        order = "–" if row["entropy_bits"] is None else f"{row['entropy_bits']:.2f}"
        values, size = (f"{number:,}" for number in (prod(row["shape"]), row["packed_bytes"]))
        table.add_row(Text(row["name"]), row["kind"], row["coding"], values, f"{row['bits_per_value']:.2f}", order, size)
        parts.update(row["parts"])
    total = sum(row["packed_bytes"] for row in archive["tensors"])
    table.add_row("all tensors", "", "", "", "", "", f"{total:,}", style="bold")
    split = "Of these bytes: " + ", ".join(f"{part} {size:,}" for part, size in parts.items() if size)
    before, after = (scaled(archive[name], BYTES).text for name in ("original_bytes", "packed_bytes"))
    told = (
        f"{before} → {after}, {archive['original_bytes'] / archive['packed_bytes']:.2f} times smaller; graph, names and header take "
        f"{archive['front_bytes']:,} bytes. Unpacking takes {scaled(archive['memory_bytes'], BYTES).text} of memory at the most."
    )
    note = "Bits: of a value in the archive. Order 0: those of a code that knows how often each value occurs and nothing else; its table not counted."
    lines = [Text(split)] * bool(total) + [Text(told), Text(note, "dim"), Text(f"Archive: {archive['file']}")]
    return Group(table, Text(), *lines)
