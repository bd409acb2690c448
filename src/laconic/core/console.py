"""Text for consoles that have not got every letter (a code page, the locale C): another letter is shown instead of an error."""

from __future__ import annotations

import codecs
import sys

# Letters that figures and sentences are written with, and what stands for them on a console that has not got them; others become a question mark.
_PLAIN = {"−": "-", "–": "-", "—": "-", "‑": "-", "×": "x", "·": "|", "→": "->", "…": "...", "µ": "u", "≥": ">=", "≤": "<=", "±": "+-", "“": '"', "”": '"',
          "‘": "'", "’": "'", "\u00a0": " ", "\u202f": " ", "⁶": "^6", "━": "-", "╸": "-", "╺": "-"}  # fmt: skip
PLAIN = "laconic.plain"  # how streams are told to do so: `stream.reconfigure(errors=PLAIN)`


def _plainly(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_PLAIN.get(letter, "?") for letter in error.object[error.start : error.end]), error.end


codecs.register_error(PLAIN, _plainly)


def for_console(text: str) -> str:
    """Return a text as standard output can show it, for what is made to be printed."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, PLAIN).decode(encoding)
