"""What is typed, made into what the library takes."""

from __future__ import annotations

from laconic.core.errors import BadInput


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
