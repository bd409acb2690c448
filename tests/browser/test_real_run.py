"""The page of a real run, not of a made-up result."""

from __future__ import annotations

from pathlib import Path

import pytest

import laconic as lc
from tests.browser.visiting import Visitor
from tests.report.results import Json
from tests.run import tiny

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_the_page_of_a_real_run_shows_what_was_measured(visit: Visitor, tmp_path: Path) -> None:
    options = lc.Options(rounds=5, turn_seconds=0.02)
    result = lc.optimize(
        tiny.untrained(),
        out=tmp_path / "run",
        space=lc.SearchSpace(("onnxruntime", "openvino"), ("fp32",), threads=1, quantize=("static",), prune=(0.5,)),
        options=options,
    )

    def real(made_up: Json) -> None:
        made_up.clear()
        made_up.update(result.data)

    seen = visit("met", change=real)
    assert seen.errors == []
    assert seen.requests == [seen.path.as_uri()]
    assert result.data["headline"] in seen.page.locator("h1").inner_text().replace("\n", " ")
    keys = seen.page.eval_on_selector_all("#candidates tbody tr", "(rows) => rows.map((row) => row.dataset.key)")
    titles = {record["key"]: record["title"] for record in result.data["candidates"]}
    rounded = {key for key, title in titles.items() if title.startswith("quantize static")}
    pruned = {key for key, title in titles.items() if title.startswith("prune to 50 % of MACs")}
    assert (len(rounded), len(pruned)) == (2, 4)
    assert set(keys) == {"torch-fp32-1t", "onnxruntime-fp32-1t", "openvino-fp32-1t", *rounded, *pruned}
    for figure in ("frontier", "layers", "loss", "score", "ranges", "pruning", "prune-loss"):
        assert seen.page.locator(f"[data-figure={figure}] .main-svg").count() > 0, figure
    assert seen.page.locator("[data-figure=frontier] .scatterlayer .point").count() == 9
    assert seen.page.locator("#plot-pruning .y2tick text").count() == len(result.data["candidates"][-1]["outcomes"][0]["changed"]["groups"])
