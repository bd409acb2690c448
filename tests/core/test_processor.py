from __future__ import annotations

from pathlib import Path

import pytest

from laconic.core import processor

X86 = "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2 avx512_vnni\n\nprocessor\t: 1\nflags\t\t: fpu\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp\nCPU part\t: 0xd0c\n"


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that stands for /proc/cpuinfo."""
    file = tmp_path / "cpuinfo"
    monkeypatch.setattr(processor, "Path", lambda _: file)
    monkeypatch.setattr(processor, "instructions", processor.instructions.__wrapped__)
    return file


@pytest.mark.parametrize(
    ("text", "expected"),
    [(X86, {"fpu", "avx2", "avx512_vnni"}), (ARM, {"fp", "asimd", "asimddp"}), ("machine : s390x\n", set())],
    ids=["x86", "arm", "no flags"],
)
def test_instructions_are_the_first_processors(given: Path, text: str, expected: set[str]) -> None:
    given.write_text(text)
    assert processor.instructions() == expected


def test_rows_keep_the_first_of_a_name(given: Path) -> None:
    given.write_text(X86)
    found = processor.cpuinfo()
    assert (found["processor"], found["model name"], found["flags"]) == ("0", "Some CPU", "fpu avx2 avx512_vnni")


def test_a_system_that_does_not_tell_has_no_instructions(given: Path) -> None:
    assert processor.cpuinfo() == {}
    assert processor.instructions() == frozenset()
