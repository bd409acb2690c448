"""What is typed, made into what the library takes."""

from __future__ import annotations

from typing import Any

from laconic.core.errors import BadInput


def given_limits(
    max_drop: str | None,
    min_speedup: float | None,
    max_latency: float | None,
    max_size: float | None,
    objective: str | None,
    confident: bool,
) -> dict[str, Any]:
    """Return the limits that were given; a recipe's own may stand beside them."""
    given = {
        "max_drop": _drop(max_drop),
        "min_speedup": min_speedup,
        "max_latency_ms": max_latency,
        "max_size_mb": max_size,
        "objective": objective,
        "confident": confident or None,
    }
    return {name: value for name, value in given.items() if value is not None}


def _drop(text: str | None) -> float | str | None:
    try:
        return text if text in (None, "any") else float(text)
    except ValueError as error:
        raise BadInput(f"--max-drop: {text!r} is not a number, nor 'any', which sets no limit") from error


def giga(value: float | None) -> int | None:
    """Turn GB into bytes."""
    return None if value is None else int(value * 1e9)


def split(text: str | None) -> tuple[str, ...] | None:
    """Split what is separated by commas; ``none`` is nothing."""
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip() not in ("", "none"))


def count(option: str, text: str) -> int:
    """Read a whole number of 1 or more.

    Raises:
        BadInput: it is none.
    """
    if not text.strip().isdigit() or int(text) < 1:
        raise BadInput(f"{option}: {text!r} is not a whole number of 1 or more")
    return int(text)


def named_size(text: str) -> tuple[str, int]:
    """Read ``NAME=SIZE``.

    Raises:
        BadInput: it is written otherwise.
    """
    name, equals, size = text.partition("=")
    if not equals:
        raise BadInput(f"--length: {text!r}; write NAME=SIZE, e.g. length=64")
    return name, count("--length", size)
