"""Read YAML that somebody wrote by hand: plain values, no aliases, and no more than a person would write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from laconic.core.errors import BadInput, need

_LIMIT_BYTES = 1 << 20


def read_yaml(path: Path) -> Any:
    """Return the plain values in a YAML file.

    Aliases are refused: a dozen lines of them stand for more than any memory holds.

    Raises:
        BadInput: no YAML in UTF-8, aliases, nesting without end, or more than a megabyte.
    """
    yaml = need("yaml")

    class Loader(yaml.SafeLoader):  # type: ignore[name-defined]
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.MarkedYAMLError(
                    problem="aliases (*name) are not read; write the value again", problem_mark=self.peek_event().start_mark
                )
            return super().compose_node(parent, index)

    if path.stat().st_size > _LIMIT_BYTES:
        raise BadInput(f"{path} has {path.stat().st_size:,} bytes; a file that a person writes has no more than {_LIMIT_BYTES:,}")
    try:
        return yaml.load(path.read_text(encoding="utf-8-sig"), Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, no date, or a number of thousands of digits
        raise BadInput(f"{path} is not YAML: {str(error)[:500] or type(error).__name__}") from error
