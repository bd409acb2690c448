"""A real headless Chromium, cut off from every network, that opens report pages from disk."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from laconic.report.page import write_page
from tests.browser.visiting import Visit, Visitor
from tests.report.results import named

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
NAMES = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str:
    """The browser's path, or "" where there is none."""
    return os.environ.get("LACONIC_CHROMIUM") or next((path for path in map(shutil.which, NAMES) if path), "")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("playwright is not installed: pip install playwright (no browser download needed)")
    if not chromium():
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is on the path, and LACONIC_CHROMIUM is not set")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        yield running
        running.close()


@pytest.fixture
def visit(show: Callable[..., Visit], tmp_path: Path) -> Visitor:
    """visit("met", scheme="dark", width=375, …) opens the page of that result and waits until its plots are drawn."""

    def go(name: str, change: Callable[[Any], None] | None = None, **options: Any) -> Visit:
        result = named(name)
        if change is not None:
            change(result)
        return show(write_page(result, tmp_path / f"{name}.html"), **options)

    return go


@pytest.fixture
def show(browser: Any) -> Iterator[Callable[..., Visit]]:
    """show(path, scheme="dark", width=375, …) opens any page and waits until its plots are drawn."""
    contexts: list[Any] = []

    def go(path: Path, scheme: str = "light", width: int = 1280, **options: Any) -> Visit:
        context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        made = Visit(context.new_page(), path)
        _listen(context, made)
        made.page.goto(path.as_uri())
        if options.get("java_script_enabled", True):
            made.until("[...document.querySelectorAll('[data-figure]')].every((place) => place.querySelector('.main-svg'))")
        return made

    yield go
    for context in contexts:
        context.close()


def _listen(context: Any, made: Visit) -> None:
    context.route("**/*", lambda route: route.continue_() if route.request.url.startswith("file:") else route.abort())
    made.page.on("request", lambda request: made.requests.append(request.url))
    made.page.on("requestfailed", lambda request: made.refused.append(f"{request.url} {request.failure}"))
    made.page.on("console", lambda message: made.errors.append(message.text) if message.type in ("error", "warning") else None)
    made.page.on("pageerror", lambda error: made.errors.append(str(error)))
    made.page.on("dialog", lambda dialog: (made.dialogs.append(dialog.message), dialog.dismiss()))
