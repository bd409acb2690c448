"""The options of a budget come from the rows of quantities; what was typed reaches the budget."""

from __future__ import annotations

from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from laconic.cli import app
from laconic.cli.budget import BudgetOptions, takes_budget
from laconic.core import quantities
from laconic.core.quantities import QUANTITIES
from laconic.search.budget import Budget
from tests.quantities import CARBON


def typed(*arguments: str) -> tuple[dict[str, Any], int]:
    """What a command with these arguments received, and its exit code."""
    received: list[dict[str, Any]] = []
    probe = typer.Typer()

    @probe.command()
    @takes_budget
    def command(budget: BudgetOptions, seed: int = 0) -> None:
        received.append({**budget, "seed": seed})

    done = CliRunner().invoke(probe, arguments)
    return (received[0] if received else {}), done.exit_code


def test_every_limit_of_the_table_has_its_option_in_every_command_that_takes_a_budget() -> None:
    options = {row.limit.option for row in QUANTITIES.values() if row.limit is not None}
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for name in ("optimize", "run", "levers"):
        known = {option for parameter in commands[name].params for option in parameter.opts}
        assert {*options, "--limit", "--objective", "--confident"} <= known


@pytest.mark.parametrize(
    ("arguments", "received"),
    [
        ((), {"seed": 0}),
        (("--max-drop", "any", "--seed", "3"), {"max_drop": "any", "seed": 3}),
        (
            ("--max-drop", "0.5", "--min-speedup", "2", "--max-latency", "3", "--max-size", "4", "--confident", "--objective", "size"),
            {
                "max_drop": 0.5,
                "min_speedup": 2.0,
                "max_latency_ms": 3.0,
                "max_size_mb": 4.0,
                "confident": True,
                "objective": "size",
                "seed": 0,
            },
        ),
        (("--limit", "max_carbon_mg=5", "--limit", "max_size_mb = 1"), {"max_carbon_mg": 5.0, "max_size_mb": 1.0, "seed": 0}),
        (("--limit", "max_carbon_mg"), {"max_carbon_mg": "", "seed": 0}),
        (("--max-size", "small"), {"max_size_mb": "small", "seed": 0}),
    ],
    ids=["nothing", "any", "all", "by name", "no number", "a word"],
)
def test_what_is_typed_reaches_the_command(arguments: tuple[str, ...], received: dict[str, Any]) -> None:
    assert typed(*arguments) == (received, 0)


def test_a_limit_of_another_package_reaches_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(quantities.QUANTITIES, CARBON.name, CARBON)
    received, _ = typed("--limit", "max_carbon_mg=5", "--objective", "carbon", "--max-drop", "1")
    received.pop("seed")
    assert Budget.from_plain(received) == Budget(max_drop=1, objective="carbon", limits={"max_carbon_mg": 5})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--limit", "max_carbn_mg=5"), "budget.max_carbn_mg: unknown limit"),
        (("--limit", "max_size_mb"), "max_size_mb: '' is not a number"),
        (("--max-size", "small"), "max_size_mb: 'small' is not a number"),
        (("--objective", "beauty"), "objective: 'beauty'; choose from latency, p95, size, memory, macs, flash, ram, throughput"),
    ],
    ids=["unknown", "no number", "a word", "objective"],
)
def test_what_makes_no_sense_is_bad_input(arguments: tuple[str, ...], words: str) -> None:
    done = CliRunner().invoke(app, ["levers", *arguments])
    assert done.exit_code == 2
    assert words in done.output
