"""The mutants of `benchmarks/mutants.py` change lines that are there: a renamed line would make one silently useless."""

import pytest
from benchmarks.mutants import MUTANTS, ROOT


@pytest.mark.parametrize("name", MUTANTS)
def test_the_line_that_a_mutant_changes_is_there_once(name: str) -> None:
    mutant = MUTANTS[name]
    assert (ROOT / "src" / "laconic" / mutant.file).read_text(encoding="utf-8").count(mutant.before) == 1
    assert all((ROOT / test).exists() for test in mutant.tests.split())
