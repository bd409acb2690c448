"""`python -m laconic`: the command line."""

from __future__ import annotations

from laconic.cli import main

if __name__ == "__main__":
    main()
