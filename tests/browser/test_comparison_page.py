"""The page of a comparison as a browser shows it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from laconic.report.comparison import write_page
from tests.browser.visiting import Visit
from tests.report.test_comparison import FOUND

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_draws_its_curves_and_asks_nothing_of_any_network(show: Callable[..., Visit], tmp_path: Path, scheme: str) -> None:
    path = write_page(FOUND, tmp_path / "page.html")
    seen = show(path, scheme=scheme, width=375)
    assert seen.errors == []
    assert [address for address in seen.requests if not address.startswith("data:")] == [path.as_uri()]
    assert seen.page.locator("[data-figure] .main-svg").count() > 0
    assert (
        seen.page.locator(".pictures img").evaluate_all("(images) => images.map((i) => [i.naturalWidth, i.naturalHeight])") == [[2, 2]] * 2
    )
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= 375
