"""The page of a run that goes on, as a browser shows it: it reads itself again, and is still when the run has ended."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from laconic.core.files import write_whole
from laconic.core.progress import silent
from laconic.report.watching import page, state
from laconic.run.live import Live
from laconic.run.store import RESULT, SO_FAR, RunStore
from tests.browser.visiting import Visit
from tests.report.results import named

pytestmark = pytest.mark.browser


def eventually(seen: Visit, expression: str) -> None:
    """Wait until an expression is true in a page that reads itself again meanwhile."""
    from playwright.sync_api import Error

    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(Error):  # of a page that is just being left
            if seen.page.evaluate(expression):
                return
        seen.page.wait_for_timeout(50)
    raise AssertionError(f"this never became true: {expression}")


def test_it_reads_itself_again_until_the_run_has_ended(show: Callable[..., Visit], tmp_path: Path) -> None:
    folder, path = tmp_path / "run", tmp_path / "watch.html"
    store = RunStore(folder, {"task": "t"})
    live = Live(silent, store)
    live.start("the baseline", 1)
    write_whole(path, page(state(folder, every_s=1)))
    seen = show(path, width=390, scheme="dark")
    store.write(SO_FAR, named("searched"))
    live.advance(candidate="a", status="passed", figure="2.00×", best="a, 2.00×", total=40)
    write_whole(path, page(state(folder, every_s=1)))
    # who types is not disturbed
    shown = "document.querySelector('aside.state')?.innerText.includes('1 of 40 candidates')"
    eventually(seen, f"{shown} && document.querySelector('#plot-parallel .main-svg') && (document.querySelector('#filter').focus(), true)")
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= 390
    store.write(RESULT, named("met"))
    live.end()
    store.close()
    write_whole(path, page(state(folder, every_s=1)))
    seen.page.wait_for_timeout(1200)
    assert seen.page.locator("aside.state").count() == 1
    seen.page.locator("#filter").evaluate("(field) => field.blur()")
    eventually(seen, "document.querySelector('aside.state') === null && document.querySelector('h1').innerText.includes('6.9× faster')")
    assert seen.page.evaluate("document.querySelector('main').dataset.again === undefined")
    assert seen.errors == []
