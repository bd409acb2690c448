from __future__ import annotations

from pathlib import Path

import pytest

from laconic.core.errors import BadInput
from laconic.run.recipe import read_recipe
from laconic.run.yaml_file import read_yaml

LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))


def test_plain_values(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("steps: [prune: {macs: 0.5}]\nversion: 1\n", encoding="utf-8")
    assert read_yaml(tmp_path / "a.yaml") == {"steps": [{"prune": {"macs": 0.5}}], "version": 1}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (LAUGHS, r"aliases \(\*name\) are not read"),
        ("a: &a [*a]", r"aliases \(\*name\) are not read"),
        ("[" * 5000, "is not YAML"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("a: " + "1" * 10_000, "is not YAML"),
        ("a: 2001-99-99", "is not YAML"),
        ("a: x\n" * 300_000, "a person writes"),
        ("\udcff", "is not YAML"),
    ],
    ids=["laughs", "itself", "deep", "object", "digits", "date", "long", "bytes"],
)
def test_what_is_no_file_of_a_person_is_refused_by_name(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "a.yaml").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(BadInput, match=said) as refused:
        read_recipe(tmp_path / "a.yaml")
    assert "a.yaml" in str(refused.value)
    assert len(str(refused.value)) < 1000
