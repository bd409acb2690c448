"""What the benchmarks with several parts share: a part by its name, and the machine on the first line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping

from laconic.measure.environment import environment


def command(description: str | None, parts: Mapping[str, Callable[[list[str]], None]]) -> None:
    """Parse the command line and run the part that it names with the names behind it."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=list(parts))
    parser.add_argument("names", nargs="*")
    given = parser.parse_args()
    found = environment(None)
    print(f"{found['processor']}, {found['cores']} cores: {', '.join(k for k, v in found['instructions'].items() if v)}", flush=True)
    parts[given.what](given.names)
