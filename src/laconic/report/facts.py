"""A run's result as facts: every number, unit and sentence of the report, before anything is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from laconic.core import quantities
from laconic.core.errors import BadInput
from laconic.report import chosen as of_chosen
from laconic.report import sections
from laconic.report.apart import told_apart
from laconic.report.axes import Choices, choices
from laconic.report.candidates import Candidate, candidate, measured_rows
from laconic.report.fallen import Fallen, fallen
from laconic.report.figures import Figure, figures
from laconic.report.frontier import Frontier, across, frontier
from laconic.report.limits import LimitLine, rules
from laconic.report.mattered import Mattered, mattered
from laconic.report.parallel import Parallel, parallel
from laconic.report.payoff import Payoff, payoff
from laconic.report.several import Answered, answered
from laconic.report.step_sections import StepSection, step_sections
from laconic.report.steps import mappings
from laconic.report.tables import Table, candidates_table, final_table
from laconic.report.timeline import Timeline, timeline
from laconic.report.units import finite, fixed
from laconic.report.waterfall import Waterfall, waterfalls
from laconic.report.words import Words, goal, placed, unknown

FORMAT = 2
BADGES = {
    "met": "Budget met",
    "improved": "Improved",
    "kept": "Baseline kept",
    "missed": "Budget not met",
    "nothing": "Nothing to hand over",
    "untried": "Nothing was tried",
}


@dataclass(frozen=True)
class Heading:
    """The first lines. `kind` is a key of BADGES; `verdict` is the first sentence of it, `certainty` those that say how sure it is, `whole` all of it;
    `lines` are label and text of what the run was about."""

    kind: str
    badge: str
    task: str
    verdict: str
    certainty: tuple[str, ...]
    whole: str
    reason: str
    notice: str
    lines: tuple[tuple[str, str], ...]
    finished: str
    laconic: str


@dataclass(frozen=True)
class Reproduce:
    """The command and the recipe that do it again."""

    command: str
    recipe_yaml: str


@dataclass(frozen=True)
class Facts:
    """All that the report says.

    `candidates` are the baselines and behind them the others; `table` shows them. `chosen` is the best, or the nearest miss, or None; `label` says which.
    `batch`: examples in a timed call, in words.
    """

    heading: Heading
    batch: str
    figures: tuple[Figure, ...]
    budget: tuple[LimitLine, ...]
    baseline: Candidate
    chosen: Candidate | None
    label: str
    words: Words
    candidates: tuple[Candidate, ...]
    frontier: Frontier
    axes: Choices | None
    answered: tuple[Answered, ...]
    answered_columns: tuple[str, ...]
    table: Table
    timing_note: str
    ships: of_chosen.Ships | None
    changed: of_chosen.Changed | None
    spread: of_chosen.Spread | None
    curve: of_chosen.Curve | None
    techniques: tuple[of_chosen.Technique, ...]
    technique_columns: tuple[str, ...]
    payoff: Payoff | None
    waterfalls: tuple[Waterfall, ...]
    unavailable: tuple[tuple[str, str], ...]
    mattered: Mattered | None
    parallel: Parallel | None
    fallen: tuple[Fallen, ...]
    final: Table
    final_note: str
    layers: sections.Layers
    steps: tuple[StepSection, ...]
    training: sections.Training | None
    ledger: sections.Ledger | None
    plan: tuple[str, ...]
    timeline: Timeline | None
    environment: tuple[sections.Feature, ...]
    reproduce: Reproduce


def facts(result: Mapping[str, Any]) -> Facts:
    """Read the content of a run's result.json.

    Fields that an older or unfinished run lacks are shown as not recorded.

    Raises:
        BadInput: not a result of Laconic, one of a newer format, or one whose best candidate is missing.
    """
    notice = _check(result)
    task, budget = result.get("task") or {}, result.get("budget") or {}
    spec = task.get("metric") or {}
    words, records = Words.of(spec), _records(result)
    everyone, measured = tuple(candidate(record) for record in records), measured_rows(records)
    baseline, candidates = everyone[0], everyone[1 + len(result.get("other_baselines") or ()) :]
    chosen = _chosen(result, everyone)
    label = "Best" if result.get("best") else "Nearest miss"
    key = chosen.key if chosen else ""
    short = [row for row in placed("terminal", budget, measured) if row.name != "metric"]
    shipped = [row for row in placed("final", budget, measured) if row.name != "test_metric"]
    gave = payoff(records, everyone, chosen, placed("figures", budget, measured))
    weights = mattered(result, candidates, goal(budget), words)
    return Facts(
        heading=_heading(result, chosen, everyone[1:], notice),
        batch=_batch(result),
        figures=figures(baseline, chosen, words, budget, measured),
        budget=rules(result, chosen, words),
        baseline=baseline,
        chosen=chosen,
        label=label,
        words=words,
        candidates=everyone,
        frontier=frontier(everyone, spec, words, budget, measured, key),
        axes=choices(everyone, words, measured, across(budget).name, "metric"),
        answered=answered(result, everyone, [row.name for row in shipped]),
        answered_columns=tuple(words.heading(row) for row in shipped),
        table=candidates_table(everyone, words, budget, measured, (key, label)),
        timing_note=_timing_note(everyone),
        ships=of_chosen.ships(result, chosen),
        changed=of_chosen.changed(result) if chosen else None,
        spread=of_chosen.spread(result, baseline, chosen),
        curve=of_chosen.curve(result, baseline, chosen),
        techniques=of_chosen.techniques(candidates, chosen, words, short),
        technique_columns=tuple(words.heading(row) for row in short),
        payoff=gave,
        waterfalls=waterfalls(gave, words),
        unavailable=tuple((c.title, c.why or "no reason was recorded") for c in everyone if c.status == "unavailable"),
        mattered=weights,
        parallel=parallel(result, candidates, [one.name for one in weights.weights] if weights else (), goal(budget), words, key),
        fallen=fallen(everyone),
        final=final_table(everyone, words, budget, measured, (key, label)),
        final_note=_final_note(task, baseline, chosen),
        layers=sections.layers(result),
        steps=step_sections(result, candidates, chosen, words.metric, str(spec.get("unit") or "")),
        training=sections.training(result, words.metric, str(spec.get("unit") or "")),
        ledger=sections.ledger(result),
        plan=tuple(str(said.get("text") or "") for said in mappings(result.get("plan"))),
        timeline=timeline(result, everyone),
        environment=sections.environment(result),
        reproduce=Reproduce(*(str((result.get("reproduce") or {}).get(name) or "") for name in ("command", "recipe_yaml"))),
    )


def _records(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return all records, the baseline first; where there are several baselines, each title says with how many threads."""
    bases = [{**record, "status": "baseline"} for record in (result.get("baseline") or {}, *(result.get("other_baselines") or ()))]
    records = [*bases, *told_apart(result.get("candidates") or ())]
    if len(bases) == 1:
        return records
    titles = {record.get("key"): _with_threads(record) for record in records}
    return [{**record, "title": titles[record.get("key")], "against": titles.get(record.get("baseline"), "")} for record in records]


def _with_threads(record: Mapping[str, Any]) -> str:
    threads = finite(((record.get("recipe") or {}).get("deploy") or {}).get("threads"))
    told = "all cores" if threads is None else f"{threads:.0f} thread{'s' if threads != 1 else ''}"
    title = str(record.get("title") or record.get("key"))
    return title if title.endswith(told) else f"{title} · {told}"


def _check(result: Any) -> str:
    """Return a notice on an older format, or nothing; refuses what this version cannot read."""
    if not isinstance(result, Mapping) or isinstance(result.get("format"), bool) or not isinstance(result.get("format"), int):
        raise BadInput(
            "a report is made from a run's result.json, whose 'format' is a whole number; this has none. Give the folder of a finished run."
        )
    version = result["format"]
    if version > FORMAT:
        raise BadInput(
            f"this result has format {version} (written by Laconic {result.get('laconic') or 'unknown'}), and this Laconic reads formats up to {FORMAT}. "
            "Upgrade: pip install --upgrade laconic"
        )
    kinds = {"task": Mapping, "budget": Mapping, "baseline": Mapping, "candidates": list, "layers": list}
    wrong = [name for name, kind in kinds.items() if result.get(name) is not None and not isinstance(result[name], kind)]
    if wrong:
        raise BadInput(
            f"this result.json is not one that Laconic wrote: {', '.join(wrong)} should hold tables. Run the optimization again."
        )
    if version < FORMAT:
        return f"Written in format {version}, older than {FORMAT}: what that format lacks is shown as not recorded."
    return ""


def _chosen(result: Mapping[str, Any], candidates: Sequence[Candidate]) -> Candidate | None:
    key = result.get("best") or result.get("nearest")
    if not key:
        return None
    record = next((c for c in candidates if c.key == key), None)
    if record is None:
        names = ", ".join(c.key for c in candidates)
        raise BadInput(
            f"the result names '{key}' as its best or nearest, which is not among its candidates ({names}). Run the optimization again."
        )
    return record if record.status != "baseline" else None


def _heading(result: Mapping[str, Any], chosen: Candidate | None, others: Sequence[Candidate], notice: str) -> Heading:
    task, budget = result.get("task") or {}, result.get("budget") or {}
    limited = any(budget.get(name) is not None for name in (*quantities.limits(), *(name for name, _ in unknown(budget))))
    if chosen is None:
        kind = "kept" if result.get("met") else "nothing" if any(one.tried for one in others) else "untried"
    else:
        kind = ("met" if limited else "improved") if result.get("met") else "missed"
    whole = str(
        result.get("verdict")
        or (f"{chosen.title} is what this run found." if chosen else "This run found nothing better than the baseline.")
    )
    lines = [
        ("Task", str(task.get("description") or "")),
        ("Data", str(task.get("dataset_note") or "")),
        ("Examples", _examples(task)),
        ("Inputs", "; ".join(_input(i) for i in task.get("inputs") or ())),
        *(("Note", str(note)) for note in result.get("notes") or ()),
    ]
    reason = str(result.get("reason") or "")
    return Heading(
        kind=kind,
        badge=BADGES[kind],
        task=str(task.get("name") or "task"),
        verdict=str(result.get("headline") or whole),
        certainty=tuple(str(text) for text in result.get("certainty") or ()),
        whole=whole,
        reason="" if reason in whole else reason[:1].upper() + reason[1:],
        notice=notice,
        lines=tuple((label, text) for label, text in lines if text),
        finished=_date(result.get("finished")) or "not finished",
        laconic=str(result.get("laconic") or "of unknown version"),
    )


def _final_note(task: Mapping[str, Any], baseline: Candidate, chosen: Candidate | None) -> str:
    n = finite(task.get("n_test"))
    if baseline.amount("test_metric").raw is None:
        return "The test data was not used in this run."
    anew = chosen is not None and chosen.comparison == "published"
    timings = "Timings were measured anew after the choice." if anew else "Timings are those of the run."
    return f"{fixed(n, 0) if n else 'The'} test examples, used once, after everything had been chosen on validation data. {timings}"


def _timing_note(candidates: Sequence[Candidate]) -> str:
    """Return which figures of time come from which comparison; empty where all were timed alike."""
    others = [one for one in candidates if one.status != "baseline"]
    published, finalists = ([one.title for one in others if one.comparison == name] for name in ("published", "finalists"))
    parts = []
    if published:
        parts.append(
            f"Figures of time of {', '.join(published)} and of the baseline come from a comparison made anew, of these alone, in fresh processes, after the "
            "choice: the best of many looks faster than it is in the comparison that chose it."
        )
    if finalists:
        parts.append(f"Those of {', '.join(finalists)} come from the comparison of finalists, which gave the order.")
    if parts:
        parts.append("All others were timed with the baseline alone.")
    busy = next((one.busy.partition("; by processor time")[0] for one in others if one.busy), "")
    return " ".join([*parts, *([f"{busy[:1].upper()}{busy[1:]}."] if busy else [])])


def _examples(task: Mapping[str, Any]) -> str:
    parts = [(finite(task.get("n_valid")), "validation"), (finite(task.get("n_test")), "test")]
    return ", ".join(f"{fixed(n, 0)} {name}" for n, name in parts if n is not None)


def _input(spec: Mapping[str, Any]) -> str:
    shape = " × ".join(str(size) for size in spec.get("shape") or ())
    return f"{spec.get('name', 'input')}: {shape} {spec.get('dtype', '')}".strip()


def _batch(result: Mapping[str, Any]) -> str:
    """Return what one timed call holds.

    >>> _batch({"batch": 1}), _batch({"batch": 8}), _batch({})
    ('one example', '8 examples', 'one batch')
    """
    size = finite(result.get("batch"))
    return "one batch" if size is None else "one example" if size == 1 else f"{fixed(size, 0)} examples"


def _date(text: object) -> str:
    try:
        moment = datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    except ValueError:
        return str(text or "")
    zone = " UTC" if moment.utcoffset() is not None and not moment.utcoffset() else moment.strftime(" %z").rstrip()
    return f"{moment.day} {moment:%b %Y, %H:%M}{zone}"
