"""What a parser raises becomes the named error, with the file; named errors and interrupts pass."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import pytest

from laconic.core.errors import BadInput, CorruptFile
from laconic.core.reading import reads, told


@reads("a poem", "Write another.")
def read(path: Path, error: BaseException | None) -> str:
    if error is not None:
        raise error
    return "read"


class Wordless(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


@pytest.mark.parametrize(
    "error",
    [
        KeyError("x"),
        RecursionError(),
        MemoryError(),
        struct.error("short"),
        zipfile.BadZipFile(),
        AssertionError(),
        StopIteration(),
        Wordless(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_is_raised_becomes_the_named_error(error: Exception) -> None:
    with pytest.raises(
        CorruptFile, match=rf"^here/a.txt is not a poem that can be read \({type(error).__name__}.*line \d+\)\. Write another\.$"
    ) as caught:
        read(Path("here/a.txt"), error)
    assert caught.value.__cause__ is error


def test_what_the_system_says_is_told_in_its_words() -> None:
    with pytest.raises(CorruptFile, match="^a.txt cannot be read: Permission denied. Write another.$"):
        read(Path("a.txt"), PermissionError(13, "Permission denied"))


@pytest.mark.parametrize("error", [BadInput("as it is"), KeyboardInterrupt()], ids=["named", "interrupt"])
def test_named_errors_and_interrupts_pass(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        read(Path("a.txt"), error)
    assert caught.value is error
    assert read(Path("a.txt"), None) == "read"


def test_an_error_is_told_in_one_line() -> None:
    assert told(ValueError("first\nsecond")) == "ValueError: first"
    assert len(told(ValueError("x" * 9999))) < 250
