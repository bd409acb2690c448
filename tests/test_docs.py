"""The documents name what is there, all of it, and their links lead somewhere."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

import laconic as lc
from laconic.cli import app
from laconic.core.quantities import QUANTITIES, limits, objectives
from laconic.deploy.runtime import TABLE as RUNTIMES
from laconic.run.runner import TABLE as STEPS
from laconic.search.levers import levers
from laconic.tasks.catalog import TASKS
from laconic.tasks.metrics import METRICS
from laconic.tasks.models import MODELS
from laconic.train.optim import OPTIMIZERS, SCHEDULES

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
COMMANDS = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
OPTIONS = [field.name for field in dataclasses.fields(lc.FitPlan)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert target.startswith("http") or (page.parent / target).exists(), target
    for target in re.findall(r"`((?:src|docs|tests|examples|benchmarks)/[\w/.]+\.\w+)`", page.read_text(encoding="utf-8")):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page: Path) -> None:
    for block in re.findall(r"```\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for command in re.findall(r"^laconic (\w+)", block, re.MULTILINE):
            assert command in COMMANDS


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("docs/runtimes.md", RUNTIMES),
        ("docs/recipes.md", STEPS),
        ("docs/levers.md", levers()),
        ("docs/tasks.md", [*TASKS, *METRICS, *MODELS]),
        ("docs/training.md", [*OPTIMIZERS, *SCHEDULES, *OPTIONS]),
        ("docs/budget.md", [field.name for field in dataclasses.fields(lc.Budget)]),
        ("docs/quantities.md", [*QUANTITIES, *limits(), *objectives()]),
        ("docs/README.md", [page.name for page in (ROOT / "docs").glob("*.md") if page.name != "README.md"]),
        ("docs/reference.md", [f"::: laconic.{name}\n" for name in lc.__all__]),
        ("mkdocs.yml", [page.name for page in (ROOT / "docs").glob("*.md")]),
        ("README.md", COMMANDS),
    ],
)
def test_a_page_names_all_there_is(page: str, names: list[str]) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert [name for name in names if name not in text] == []


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    """Unknown links, anchors and names of the reference are errors, as in `make docs`."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path / "site"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    assert done.returncode == 0, done.stderr
    assert 'id="laconic.optimize"' in (tmp_path / "site" / "reference" / "index.html").read_text(encoding="utf-8")
