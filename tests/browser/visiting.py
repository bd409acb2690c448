"""What a test knows of an open page."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Visit:
    """One open page and what happened in it."""

    page: Any
    path: Path
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)

    def until(self, expression: str) -> None:
        """Wait until a JavaScript expression is true (Playwright's own waiting evaluates text in the page, which the page's policy forbids)."""
        deadline = time.monotonic() + 30
        while not self.page.evaluate(expression):
            if time.monotonic() > deadline:
                raise AssertionError(f"this never became true: {expression}")
            self.page.wait_for_timeout(50)


Visitor = Callable[..., Visit]
