"""Entry points as rows of a table: read late, and refused by the name of what brings them."""

import importlib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from laconic.core.errors import BadInput
from laconic.core.extensions import extended


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """A function that installs a distribution with entry points of the group `laconic.examples`."""

    def install(name: str, *entries: str) -> None:
        info = tmp_path / name / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
        (info / "entry_points.txt").write_text("\n".join(["[laconic.examples]", *entries]), encoding="utf-8")
        (tmp_path / name / f"{name}.py").write_text("row = 2\n", encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path / name)
        importlib.invalidate_caches()

    return install


def test_rows_of_other_packages_come_behind_the_tables_own(install) -> None:  # type: ignore[no-untyped-def]
    install("bringer", "theirs = bringer:row")
    assert list(extended({"ours": 1}, "laconic.examples").items()) == [("ours", 1), ("theirs", 2)]


def test_the_table_itself_is_left_alone(install) -> None:  # type: ignore[no-untyped-def]
    install("bringer", "theirs = bringer:row")
    table = {"ours": 1}
    extended(table, "laconic.examples")
    assert table == {"ours": 1}


def test_a_row_may_be_read_without_importing_anything(install) -> None:  # type: ignore[no-untyped-def]
    install("bringer", "theirs = not_there:Config,function")

    def text(entry: EntryPoint) -> str:
        return entry.value

    assert extended({}, "laconic.examples", text) == {"theirs": "not_there:Config,function"}


def test_a_name_of_the_table_is_refused_with_who_brings_it_again(install) -> None:  # type: ignore[no-untyped-def]
    install("bringer", "ours = bringer:row")
    with pytest.raises(BadInput, match="the package bringer adds 'ours' to the group laconic.examples, where that name is taken"):
        extended({"ours": 1}, "laconic.examples")


def test_two_packages_with_one_name_are_refused(install) -> None:  # type: ignore[no-untyped-def]
    install("bringer", "theirs = bringer:row")
    install("other", "theirs = other:row")
    with pytest.raises(BadInput, match="the package (bringer|other) adds 'theirs'"):
        extended({}, "laconic.examples")


@pytest.mark.parametrize("value", ["not_there:row", "bringer:not_there"], ids=["no module", "no attribute"])
def test_what_cannot_be_loaded_names_its_package(install, value: str) -> None:  # type: ignore[no-untyped-def]
    install("bringer", f"theirs = {value}")
    with pytest.raises(BadInput, match=f"'theirs' of the package bringer in the group laconic.examples cannot be loaded from '{value}'"):
        extended({}, "laconic.examples")
