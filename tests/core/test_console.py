"""What is made to be printed can be printed, whatever letters the console has."""

from __future__ import annotations

import io
import sys

import pytest

from laconic.core.console import for_console


@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", "2x <= 3 us ?"), ("cp1252", "2× <= 3 µs ß"), ("cp437", "2x ≤ 3 µs ß"), ("utf-8", "2× ≤ 3 µs ß")]
)
def test_a_letter_that_is_not_there_has_another(encoding: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", out)
    print(for_console("2× ≤ 3 µs ß"), flush=True)
    assert out.buffer.getvalue().decode(encoding).rstrip() == shown  # type: ignore[attr-defined]


def test_a_stream_without_an_encoding_takes_every_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert for_console("2×") == "2×"
    monkeypatch.setattr(sys, "stdout", None)
    assert for_console("2×") == "2×"
