"""Files of prices."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from laconic.core.errors import BadInput
from laconic.measure.cost import Price
from laconic.run.prices import read_prices

TOML = 'currency = "EUR"\n[server]\nper_hour = 0.34\nsource = "our contract, 2026"\n[rack]\nper_kwh = 0.28\ncurrency = "CHF"\n'
YAML = "currency: EUR\nserver: {per_hour: 0.34, source: 'our contract, 2026'}\nrack: {per_kwh: 0.28, currency: CHF}\n"


@pytest.mark.parametrize(
    "name", [pytest.param("p.toml", marks=pytest.mark.skipif(sys.version_info < (3, 11), reason="no tomllib")), "p.yaml"]
)
def test_prices_are_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(TOML if name.endswith("toml") else YAML, encoding="utf-8")
    assert read_prices(tmp_path / name) == {
        "server": Price(0.34, None, "EUR", "server", "our contract, 2026"),
        "rack": Price(None, 0.28, "CHF", "rack"),
    }


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("server: {per_huor: 1}\nrack: 3\n", r"server.per_huor: unknown entry. Did you mean 'per_hour'(?s:.*)rack: must be a table"),
        ("server: {per_hour: -1}\n", "server.per_hour: -1 must be more than 0"),
        ("currency: EUR\n", "has no prices. Write currency"),
        ("currency: 3\nserver: {per_hour: 1}\n", "has no prices"),
        ("[1, 2]", "has no prices"),
    ],
    ids=["entries", "negative", "nothing", "currency", "a list"],
)
def test_what_is_wrong_is_told(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "p.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match=why):
        read_prices(tmp_path / "p.yaml")


def test_a_file_that_is_not_there_or_no_toml_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        read_prices(tmp_path / "none.yaml")
    (tmp_path / "p.toml").write_text("server = [", encoding="utf-8")
    with pytest.raises(BadInput, match="is not TOML|reads no TOML"):
        read_prices(tmp_path / "p.toml")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"Write the same as YAML, in a file that ends in \.yaml"):
        read_prices(tmp_path / "p.toml")
