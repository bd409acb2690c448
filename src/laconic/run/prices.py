"""Read prices that somebody wrote down: TOML, or YAML where Python has no reader of TOML (3.10)."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from laconic.core.errors import BadInput, Mistakes, nearest
from laconic.core.fields import hints_of
from laconic.measure.cost import Price
from laconic.run.yaml_file import read_yaml

_MOST_BYTES = 1 << 20
_SHAPE = 'Write currency = "EUR" and for each machine a table: [server] per_hour = 0.34, source = "our contract, 2026"; or per_kwh.'


def read_prices(path: str | Path) -> dict[str, Price]:
    """Return the prices in a file, by the names of their tables: ``per_hour`` or ``per_kwh`` or both, and ``source``; ``currency`` stands at the top.

    Raises:
        BadInput: the file cannot be read, or an entry makes no sense; everything that is wrong is told.
    """
    file = Path(path)
    plain = _plain(file)
    currency = plain.pop("currency", "USD") if isinstance(plain, dict) else None
    if not isinstance(currency, str) or not plain:
        raise BadInput(f"{file} has no prices. {_SHAPE}")
    known = [name for name in hints_of(Price) if name != "name"]
    prices, mistakes = dict[str, Price](), list[str]()
    for name, entry in plain.items():
        if not isinstance(entry, Mapping):
            mistakes.append(f"{name}: must be a table with per_hour or per_kwh; it is {entry!r}")
        elif unknown := [str(key) for key in entry if key not in known]:
            mistakes.append(f"{name}.{unknown[0]}: unknown entry.{nearest(unknown[0], known)}")
        else:
            try:
                prices[str(name)] = Price(**{"currency": currency, **entry}, name=str(name))
            except Mistakes as error:
                mistakes += [f"{name}.{mistake}" for mistake in error.mistakes]
    if mistakes:
        raise Mistakes(f"{file}: the prices make no sense:", mistakes)
    return prices


def _plain(file: Path) -> Any:
    try:
        if file.suffix.lower() in (".yaml", ".yml"):
            return read_yaml(file)
        if importlib.util.find_spec("tomllib") is None:
            raise BadInput(f"{file}: this Python reads no TOML (3.11 does). Write the same as YAML, in a file that ends in .yaml.")
        if file.stat().st_size > _MOST_BYTES:
            raise BadInput(f"{file} has {file.stat().st_size:,} bytes; a file that a person writes has no more than {_MOST_BYTES:,}")
        return importlib.import_module("tomllib").loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise BadInput(f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:  # no TOML, or no UTF-8
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"{file} is not TOML: {error}") from error
