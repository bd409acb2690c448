"""`python -m laconic.cli`; so does `python -m laconic`."""

from __future__ import annotations

from laconic.cli import main

if __name__ == "__main__":
    main()
