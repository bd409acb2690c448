"""Budgets about energy and money: refused at the start where nothing tells them, on the command line too, and each option changes that."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import laconic as lc
from laconic.cli import app
from laconic.core.errors import BadInput
from laconic.measure import counters
from laconic.measure.cost import Price
from laconic.measure.energy import Metering
from laconic.run.options import Options
from laconic.search.given import check_told

COST, JOULES = "no price is known. Give one: --prices FILE.toml", "energy is unknown here: there is no counter of the processor's energy"


@pytest.fixture(autouse=True)
def _no_counter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counters, "POWERCAP", tmp_path / "none")


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A powercap tree whose counter moves with the clock."""
    zone = tmp_path / "tree/intel-rapl:0"
    zone.mkdir(parents=True)
    for name, text in (("name", "package-0"), ("energy_uj", "1"), ("max_energy_range_uj", "262143328850")):
        (zone / name).write_text(text, encoding="utf-8")
    read = Path.read_text

    def grown(self: Path, *args: Any, **more: Any) -> str:
        return str(int(1e6 * time.monotonic())) if self == zone / "energy_uj" else read(self, *args, **more)

    monkeypatch.setattr(Path, "read_text", grown)
    monkeypatch.setattr(counters, "POWERCAP", tmp_path / "tree")
    return zone


@pytest.fixture
def meter(tmp_path: Path) -> Path:
    """A file that a meter writes now."""
    file = tmp_path / "m.csv"
    file.write_text("time,power_w\n" + "".join(f"{time.time() + i - 3:.3f},10\n" for i in range(3)), encoding="utf-8")
    return file


@pytest.fixture
def prices(tmp_path: Path) -> Path:
    file = tmp_path / "prices.yaml"
    file.write_text("currency: EUR\nserver: {per_hour: 0.34}\nrack: {per_kwh: 0.28}\n", encoding="utf-8")
    return file


@pytest.mark.parametrize("budget", [lc.Budget(limits={"max_cost": 1}), lc.Budget(objective="cost")], ids=["limit", "objective"])
def test_money_wants_a_price_and_by_the_kilowatt_hour_a_counter_too(budget: lc.Budget, meter: Path) -> None:
    with pytest.raises(BadInput, match=r"no price is known\. Give one: --prices FILE.toml"):
        check_told(budget, Options(), ["cpu"])
    check_told(budget, Options(price=Price(per_hour=1.0)), ["cpu"])
    with pytest.raises(BadInput, match="energy is unknown here"):
        check_told(budget, Options(price=Price(per_kwh=1.0)), ["cpu"])
    check_told(budget, Options(price=Price(per_kwh=1.0), metering=Metering(meter=str(meter))), ["cpu"])


@pytest.mark.parametrize("budget", [lc.Budget(limits={"max_energy_mj": 1}), lc.Budget(objective="energy")], ids=["limit", "objective"])
def test_energy_wants_a_counter_of_each_device(budget: lc.Budget, tree: Path) -> None:
    check_told(budget, Options(), ["cpu"])
    with pytest.raises(BadInput, match="no counter of the device 'xla:tpu' is known"):
        check_told(budget, Options(), ["cpu", "xla:tpu"])
    counters.POWERCAP = tree / "none"
    with pytest.raises(BadInput, match="energy is unknown here"):
        check_told(budget, Options(), ["cpu"])


def test_a_budget_about_neither_wants_neither() -> None:
    check_told(lc.Budget(), Options(), ["cpu"])
    check_told(lc.Budget(), Options(price=Price(per_kwh=1.0)), ["cpu"])  # told as unknown, and not asked for


@pytest.mark.parametrize("command", ["optimize", "run"])
@pytest.mark.parametrize(
    ("asked", "why", "mend"),
    [
        (("--max-cost", "1"), COST, ("--prices", "PRICES", "--price", "server")),
        (("--objective", "cost"), COST, ("--price", "t3.large")),
        (("--objective", "cost", "--prices", "PRICES", "--price", "rack"), JOULES, ("--meter", "METER")),
        (("--max-energy-mj", "5"), JOULES, ("--meter", "METER")),
        (("--objective", "energy"), JOULES, ("--meter", "METER")),
    ],
    ids=["max cost", "cost", "cost by energy", "max energy", "energy"],
)
def test_the_command_refuses_at_once_and_says_what_helps(
    command: str,
    asked: tuple[str, ...],
    why: str,
    mend: tuple[str, ...],
    tmp_path: Path,
    meter: Path,
    prices: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("task: digits\nsteps: []\ndeploy: {runtime: onnxruntime}\n", encoding="utf-8")
    names = {"METER": str(meter), "PRICES": str(prices)}
    argv = [command, "digits" if command == "optimize" else str(recipe), "--quiet", "--out", str(tmp_path / "run")]

    def called(*more: str) -> Any:
        return CliRunner().invoke(app, [*argv, *(names.get(word, word) for word in more)])

    refused = called(*asked)
    assert refused.exit_code == 2
    assert why in " ".join(refused.output.split())
    assert not (tmp_path / "run").exists()

    def past(*_: Any, **__: Any) -> None:
        raise BadInput("past the check")

    monkeypatch.setattr("laconic.search.optimize.as_task", past)
    assert "past the check" in called(*asked, *mend).output


def test_doctor_names_the_counters_or_why_there_are_none(tree: Path, tmp_path: Path) -> None:
    from laconic.measure.energy import told_of

    assert told_of(["cpu"]) == {"cpu": {"counters": "powercap package-0", "why": ""}}
    counters.POWERCAP = tmp_path / "none"
    (told,) = told_of(["cpu"]).values()
    assert told["counters"] == ""
    assert told["why"].startswith("there is no counter of the processor's energy")
