"""Facts as one self-contained HTML file: styles, scripts and data inside, nothing fetched.

plotly.js travels inside the file whole (4.8 MB; the Python package ships no smaller bundle). A content policy written into the page names the
hash of each script that belongs to it: no other script runs, and no address is ever asked, whatever a task or a recipe may be called.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from laconic.core.errors import need
from laconic.core.files import write_whole
from laconic.report.charts import charts
from laconic.report.facts import Facts, facts

_TEMPLATES = Path(__file__).parent / "templates"


def page(result: Mapping[str, Any]) -> str:
    """Return the report of a run as HTML.

    Args:
        result: the content of the run's result.json.

    Raises:
        BadInput: see `facts`.
        MissingExtra: jinja2 or plotly is not installed.
    """
    return draw(facts(result))


def draw(facts: Facts, live: Any = None) -> str:
    """Return the page of these facts; the same facts always give the same bytes.

    Args:
        facts: of a result.
        live: `watching.State` of a run that goes on: its page says so, and reads itself again.
    """
    figures = charts(facts)
    more = {} if facts.axes is None or "frontier" not in figures else {"axes": asdict(facts.axes)}
    return render("page.html", figures, more, facts=facts, contents=contents(facts, set(figures)), live=live)


def contents(found: Facts, drawn: Collection[str]) -> list[tuple[str, str]]:
    """Return id and title of each section that the page has, in its order; the first lines and figures are no section."""
    every: list[tuple[str, str, Any]] = [
        ("ships", "What you ship", found.ships),
        ("budgets", "One run, several budgets", found.answered),
        ("frontier", "Frontier", "frontier" in drawn),
        ("candidates", "All candidates", True),
        ("techniques", "The best of each technique", len(found.techniques) > 1),
        ("payoff", "What each step gave", found.payoff),
        ("mattered", "What mattered", found.mattered),
        ("parallel", "Choices and what came of them", found.parallel),
        ("fallen", "What fell out, and why", found.fallen),
        ("changed", "Changed answers", found.changed),
        ("latency", "Latency, more closely", found.spread or found.curve),
        ("test", "On test data", True),
        ("layers", "The model, layer by layer", found.layers.rows),
        *((section.id, section.heading, True) for section in found.steps),
        ("training", "Training the baseline", found.training),
        ("time", "Where the time went", found.ledger),
        ("lineage", "How each artifact was made", True),
        ("machine", "The machine", found.environment),
        ("again", "Do it again", found.reproduce.command or found.reproduce.recipe_yaml),
    ]
    return [(id, title) for id, title, there in every if there]


def render(template: str, figures: Mapping[str, Any] | None, more: Mapping[str, Any] | None = None, **values: Any) -> str:
    """Return a template with styles, scripts and figures inside.

    Args:
        template: a file beside `page.html`.
        figures: by the id of their place; None of a page that never has any, and no plotting library.
        more: data of the page that is no figure.
        values: what else it names.
    """
    scripts = [*([] if figures is None else [_plotly()]), (_TEMPLATES / "page.js").read_text(encoding="utf-8")]
    compiled = _environment(need("jinja2")).get_template(template)
    made: str = compiled.render(
        style=(_TEMPLATES / "page.css").read_text(encoding="utf-8"),
        scripts=scripts,
        policy=_policy(scripts),
        drawn=set(figures or ()),
        data=_data({**(figures or {}), **(more or {})}),
        megabytes=f"{sum(len(script) for script in scripts) / 1e6:.1f}",
        **values,
    )
    return made


@functools.cache
def _environment(jinja2: Any) -> Any:
    """Return where templates come from; each is compiled once."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def write_page(result: Mapping[str, Any], path: Path) -> Path:
    """Write the page whole (aside, synced, renamed); returns its path.

    Raises:
        BadInput: see `facts`.
        LaconicError: the file cannot be written; what was there before stays.
    """
    return write_whole(Path(path), page(result))


def _plotly() -> str:
    script: str = need("plotly.offline").get_plotlyjs()
    return script.replace("\r\n", "\n").replace("\r", "\n")  # as a browser reads it: the hash is over these bytes


def _policy(scripts: list[str]) -> str:
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts)
    return f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"


def _data(figures: dict[str, Any]) -> str:
    """Write JSON that no markup can leave: `<`, `>` and `&` are written as escapes."""
    text = json.dumps(figures, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
