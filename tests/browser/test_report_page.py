"""The report as a browser shows it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.browser.visiting import Visit, Visitor
from tests.report.results import RESULTS, Json

pytestmark = pytest.mark.browser

MUTED = {"light": "rgb(89, 97, 109)", "dark": "rgb(162, 171, 183)"}

# WCAG 2.1, "contrast ratio": every text that is seen, in HTML and in the plots, against the nearest background that is painted behind it.
CONTRASTS = """() => {
  const channels = (color) => (color.match(/[\\d.]+/g) ?? []).map(Number);
  const linear = (value) => value / 255 <= 0.03928 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const painted = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = channels(getComputedStyle(at).backgroundColor);
      if (color.length === 3 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, element = node.parentElement;
    if (!node.textContent.trim() || !element.checkVisibility() || element.closest('.hidden, script, style, noscript')) continue;
    const style = getComputedStyle(element);
    const [one, two] = [luminance(channels(element.closest('svg') ? style.fill : style.color)), luminance(painted(element))].sort((a, b) => b - a);
    found.push([(one + 0.05) / (two + 0.05), node.textContent.trim().slice(0, 40)]);
  }
  return found;
}"""


def count(seen: Visit, selector: str) -> int:
    return int(seen.page.locator(selector).count())


def value(seen: Visit, selector: str, name: str) -> str:
    return str(seen.page.locator(selector).first.evaluate(f"(element) => getComputedStyle(element).{name}"))


def order(seen: Visit) -> list[str]:
    return list(seen.page.eval_on_selector_all("#candidates tbody tr", "(rows) => rows.map((row) => row.dataset.key)"))


@pytest.mark.parametrize("name", RESULTS)
def test_it_renders_without_an_error_and_asks_nothing_of_any_network(visit: Visitor, name: str) -> None:
    seen = visit(name)
    seen.page.emulate_media(color_scheme="dark")
    seen.page.set_viewport_size({"width": 375, "height": 700})
    assert seen.page.locator("h1").is_visible()
    assert seen.errors == []
    assert seen.requests == [seen.path.as_uri()]
    assert seen.dialogs == []


def test_every_plot_has_its_marks(visit: Visitor) -> None:
    seen = visit("met")
    assert count(seen, "#plot-frontier .scatterlayer .points path") == 7
    assert count(seen, "#plot-frontier .scatterlayer .errorbar") == 6 + 1  # all but the baseline, which has bars of no length
    assert count(seen, "#plot-frontier .shapelayer path") == 1
    assert count(seen, "#plot-layers .barlayer .point") == 2 * 20
    assert count(seen, "#plot-loss .points path") == 8
    assert count(seen, "#plot-score .points path") == 8
    assert all(
        box["height"] > 200 and box["width"] > 300 for box in (one.bounding_box() for one in seen.page.locator("[data-figure]").all())
    )


def test_the_plots_of_a_quantization_have_their_bars(visit: Visitor) -> None:
    seen = visit("quantized")
    assert count(seen, "#plot-ranges .barlayer .point") == 73
    assert count(seen, "#plot-sensitivity .barlayer .point") == 4
    assert seen.page.locator("#plot-sensitivity .textpoint").all_text_contents() == [" kept float"] * 2


def test_the_plot_of_a_pruning_has_a_pale_and_a_strong_bar_for_each_group(visit: Visitor) -> None:
    for width in (1280, 375):
        seen = visit("pruned", width=width)
        assert count(seen, "#plot-pruning .barlayer .point") == 2 * 12
        assert seen.page.locator("#plot-pruning .y2tick text").all_text_contents()[:2] == ["16 → 13", "16 → 5"]
        assert value(seen, "#plot-pruning .barlayer .point path", "fill") == "rgb(182, 213, 207)"
        # the counts are within the plot, whatever its width
        right = seen.page.locator("#plot-pruning").bounding_box()
        ends = [box["x"] + box["width"] for box in (one.bounding_box() for one in seen.page.locator("#plot-pruning .y2tick text").all())]
        assert max(ends) <= right["x"] + right["width"]
        assert count(seen, "#plot-prune-loss .points path") == 3


def test_hovering_shows_the_recipe(visit: Visitor) -> None:
    seen = visit("met")
    place = seen.page.locator("#plot-frontier")
    place.scroll_into_view_if_needed()
    best = min((mark.bounding_box() for mark in seen.page.locator("#plot-frontier .points path").all()), key=lambda box: box["x"])
    seen.page.mouse.move(best["x"] + best["width"] / 2, best["y"] + best["height"] / 2)
    seen.page.wait_for_selector("#plot-frontier .hoverlayer .hovertext")
    text = seen.page.locator("#plot-frontier .hoverlayer").text_content()
    assert "OpenVINO · bf16" in text
    assert "Recipe: fold_batch_norm → OpenVINO bf16, 2 threads" in text


def test_a_click_sorts_and_what_was_not_measured_stays_last(visit: Visitor) -> None:
    seen = visit("met")
    original = order(seen)
    unmeasured = ["onnxruntime-bf16", "torchscript-bf16"]
    head = seen.page.get_by_role("button", name="Median", exact=True)
    head.click()
    slow_first = order(seen)
    assert slow_first == [
        "torch-bf16",
        "baseline",
        "torch.compile-fp32",
        "torchscript-fp32",
        "openvino-fp32",
        "onnxruntime-fp32",
        "openvino-bf16",
        *unmeasured,
    ]
    assert seen.page.locator("#candidates th[aria-sort=descending]").inner_text().startswith("Median")
    head.click()
    assert order(seen) == [*slow_first[:-2][::-1], *unmeasured]
    head.click()
    assert order(seen) == original
    assert count(seen, "#candidates th[aria-sort=none]") == 12


def test_sorting_by_words_and_with_the_keyboard(visit: Visitor) -> None:
    seen = visit("met")
    seen.page.get_by_role("button", name="Candidate", exact=True).focus()
    seen.page.keyboard.press("Enter")
    titles = seen.page.locator("#candidates tbody .title").all_inner_texts()
    assert titles == [
        "ONNX Runtime · bf16", "ONNX Runtime · fp32", "OpenVINO · bf16", "OpenVINO · fp32", "PyTorch · bf16", "PyTorch eager · fp32",
        "torch.compile · fp32", "TorchScript · bf16", "TorchScript · fp32",
    ]  # fmt: skip


def test_filtering_with_the_keyboard_says_how_many_are_left(visit: Visitor) -> None:
    seen = visit("met")
    field = seen.page.get_by_role("searchbox", name="Show only")
    field.press_sequentially("REJECTED torch")
    shown = seen.page.locator("#candidates tbody tr:visible .title").all_inner_texts()
    assert shown == ["PyTorch · bf16", "torch.compile · fp32"]
    assert seen.page.locator("#shown").inner_text() == "2 of 9 shown"
    assert seen.page.locator("#shown").get_attribute("role") == "status"
    seen.page.get_by_role("button", name="Speed-up", exact=True).click()
    assert seen.page.locator("#candidates tbody tr:visible .title").all_inner_texts() == shown[::-1]
    field.fill("")
    assert count(seen, "#candidates tbody tr:visible") == 9
    assert seen.page.locator("#shown").inner_text() == ""


# Boxes of words that lie over each other by more than a hair, in one pane: a table's names stand still while its figures scroll under them.
OVERLAPS = """() => {
  const boxes = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, element = node.parentElement;
    if (!node.textContent.trim() || !element.checkVisibility() || element.closest('.hidden, script, style, noscript, svg')) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const pane = element.closest('.scroll, pre, body');
    const limits = pane.getBoundingClientRect();
    for (const box of range.getClientRects()) {
      if (box.left >= limits.right || box.width < 1) continue;
      const text = node.textContent.trim().slice(0, 40);
      boxes.push({left: box.left, right: Math.min(box.right, limits.right), top: box.top + 2, bottom: box.bottom - 2, text});
    }
  }
  const found = [];
  boxes.sort((a, b) => a.top - b.top);
  for (let i = 0; i < boxes.length; i++) {
    for (let j = i + 1; j < boxes.length && boxes[j].top < boxes[i].bottom; j++) {
      const [a, b] = [boxes[i], boxes[j]];
      if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 && Math.min(a.bottom, b.bottom) - b.top > 1) found.push([a.text, b.text]);
    }
  }
  return found;
}"""


def long_names(result: Json) -> None:
    """Names as a search makes them: several steps, a runtime, numerics."""
    for one in result["candidates"]:
        one["title"] = f"student resnet20x0.5 · fit · prune to 50 % of MACs · quantize static · {one['title']}"


def six_figures(result: Json) -> None:
    result["budget"]["max_latency_ms"] = 5.0
    long_names(result)


def fits(width: int) -> str:
    """Whether every figure ends within the page, but those that scroll inside."""
    outside = "[...document.querySelectorAll('[data-figure] .main-svg')].filter((svg) => !svg.closest('.scroll'))"
    return f"{outside}.every((svg) => svg.getBoundingClientRect().right <= {width})"


@pytest.mark.parametrize("name", ["not-met", "pruned"])
def test_no_text_lies_over_another_and_nothing_scrolls_sideways(visit: Visitor, name: str) -> None:
    seen = visit(name, change=six_figures)
    for width in (1280, 390):
        seen.page.set_viewport_size({"width": width, "height": 900})
        seen.until(fits(width))
        assert seen.page.evaluate(OVERLAPS) == []
        assert seen.page.evaluate("document.scrollingElement.scrollWidth") <= width


def test_the_contents_lead_to_every_section(visit: Visitor) -> None:
    seen = visit("pruned")
    links = seen.page.locator("nav[aria-label=Contents] a")
    names = links.all_inner_texts()
    headings = seen.page.locator("section > h2").all_inner_texts()
    assert names == headings[1:]  # the first is that of the figures, right below
    assert names[0] == "What you ship"
    links.nth(3).click()
    assert seen.page.evaluate("document.querySelector(location.hash).getBoundingClientRect().top") < 900


def test_a_reference_sorts_as_one(visit: Visitor) -> None:
    seen = visit("met")
    seen.page.get_by_role("button", name="Speed-up", exact=True).click()
    assert order(seen)[4:7] == ["torch.compile-fp32", "baseline", "torch-bf16"]


def test_dark_is_followed_while_the_page_is_open(visit: Visitor) -> None:
    seen = visit("met")
    places = {
        "body": "backgroundColor",
        "h1": "color",
        "#plot-frontier .xtick text": "fill",
        "#plot-frontier .points path": "stroke",
        "#plot-layers .barlayer .point path": "fill",
        "#plot-loss .lines path": "stroke",
    }
    light = {selector: value(seen, selector, name) for selector, name in places.items()}
    seen.page.emulate_media(color_scheme="dark")
    seen.until(f"getComputedStyle(document.querySelector('#plot-frontier .xtick text')).fill !== '{light['#plot-frontier .xtick text']}'")
    dark = {selector: value(seen, selector, name) for selector, name in places.items()}
    assert not {selector for selector in places if light[selector] == dark[selector]}
    assert count(seen, "#plot-frontier .scatterlayer .points path") == 7
    seen.page.emulate_media(color_scheme="light")
    seen.until(f"getComputedStyle(document.querySelector('#plot-frontier .xtick text')).fill === '{light['#plot-frontier .xtick text']}'")
    assert {selector: value(seen, selector, name) for selector, name in places.items()} == light


@pytest.mark.parametrize("name", ["met", "not-met", "quantized", "pruned", "hostile"])
def test_the_page_never_scrolls_sideways(visit: Visitor, name: str) -> None:
    seen = visit(name)
    for width in (1280, 768, 375, 320):
        seen.page.set_viewport_size({"width": width, "height": 900})
        seen.until(fits(width))
        assert seen.page.evaluate("document.scrollingElement.scrollWidth") <= width


def test_on_a_phone_the_table_scrolls_inside_and_keeps_its_names_in_sight(visit: Visitor) -> None:
    seen = visit("met", width=375)
    inside = seen.page.locator(".scroll").first
    assert inside.evaluate("(box) => box.scrollWidth > box.clientWidth")
    inside.evaluate("(box) => { box.scrollLeft = 400; }")
    name = seen.page.locator("#candidates tbody th").first.bounding_box()
    assert 0 <= name["x"] < 30
    assert 130 < name["width"] < 200  # wide enough for a word, and figures beside it
    # no name is broken inside a word: each word is one box
    broken = """() => [...document.querySelectorAll('#candidates .title')].filter((title) => {
      const text = title.firstChild, range = document.createRange();
      return [...text.textContent.matchAll(/[\\w.]+/g)].some((word) => {
        range.setStart(text, word.index);
        range.setEnd(text, word.index + word[0].length);
        return range.getClientRects().length > 1;
      });
    }).length"""
    assert seen.page.evaluate(broken) == 0


@pytest.mark.parametrize("name", ["met", "not-met", "all-failed", "quantized", "pruned"])
def test_every_text_stands_out(visit: Visitor, name: str) -> None:
    seen = visit(name)
    seen.page.eval_on_selector_all("details", "(all) => all.forEach((one) => { one.open = true; })")
    for scheme in ("light", "dark"):
        seen.page.emulate_media(color_scheme=scheme)
        seen.until(f"[...document.querySelectorAll('.ytick text')].every((text) => getComputedStyle(text).fill === {MUTED[scheme]!r})")
        found = seen.page.evaluate(CONTRASTS)
        assert len(found) > 100
        assert [pair for pair in found if pair[0] < 4.5] == []


def test_user_text_runs_nothing_and_makes_nothing(visit: Visitor) -> None:
    seen = visit("hostile")
    seen.page.locator("#plot-frontier").scroll_into_view_if_needed()
    for mark in seen.page.locator("#plot-frontier .points path").all():
        box = mark.bounding_box()
        seen.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        seen.page.wait_for_timeout(60)
    assert (seen.dialogs, seen.errors, seen.requests) == ([], [], [seen.path.as_uri()])
    assert count(seen, "script:not([type])") == 2
    assert count(seen, "img, iframe, main i, svg script, svg image") == 0
    assert "<script>alert(1)</script>" in seen.page.locator("h1").inner_text()


def test_the_policy_stops_a_script_that_got_in_all_the_same(visit: Visitor) -> None:
    seen = visit("met")
    seen.page.evaluate("document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.broken = 1'}))")
    seen.page.evaluate("document.body.append(Object.assign(new Image(), {src: 'https://example.org/x.png'}))")
    assert seen.page.evaluate("window.broken") is None
    assert len(seen.errors) == 2
    assert all("Content Security Policy" in text for text in seen.errors)
    seen.page.wait_for_timeout(200)
    assert seen.refused == ["https://example.org/x.png csp"]


@pytest.mark.parametrize(
    ("label", "start"), [("the command", "laconic optimize mypkg.tasks:cifar"), ("the recipe", "format: 1\nsteps:\n- fold")]
)
def test_copying(visit: Visitor, label: str, start: str) -> None:
    seen = visit("met", permissions=["clipboard-read", "clipboard-write"])
    button = seen.page.get_by_role("button", name=f"Copy {label}")
    button.click()
    seen.until("document.getElementById('said').textContent === 'Copied'")
    assert seen.page.evaluate("navigator.clipboard.readText()").startswith(start)
    assert button.inner_text() == "Copied"


def test_without_scripts_the_numbers_are_all_there(visit: Visitor) -> None:
    seen = visit("met", java_script_enabled=False)
    assert seen.page.locator("#candidates tbody tr").count() == 9
    assert "Drawing it needs JavaScript" in seen.page.locator("noscript").first.inner_text()


def test_a_figure_that_is_not_measured_says_so(visit: Visitor) -> None:
    def change(result: Json) -> Any:
        del result["candidates"][0]["measured"]["peak_memory_bytes"]
        return None

    seen = visit("met", change=change)
    assert seen.page.locator(".figure.peak_memory_bytes").inner_text().split("\n") == [
        "Peak memory",
        "Not measured",
        "no reason was recorded",
        "before: 283\xa0MB",
    ]


def test_the_frontier_of_other_quantities(visit: Visitor) -> None:
    seen = visit("searched")
    first = seen.page.locator("#plot-frontier .xtitle").text_content()
    seen.page.select_option("#axis-x", "size_bytes")
    seen.page.select_option("#axis-y", "drop")
    seen.until("document.querySelector('#plot-frontier .xtitle').textContent === 'File size, MB (lower is better)'")
    marks = "document.querySelectorAll('#plot-frontier .scatterlayer .points path').length"
    assert seen.page.evaluate(marks) == 31  # all that were measured, and the baseline
    steps = seen.page.evaluate("document.querySelector('#plot-frontier').data[0].y")
    assert steps == sorted(steps, reverse=True)  # larger files lose less, and what loses more is left out
    assert len(steps) > 20
    seen.page.select_option("#axis-x", "latency_ms")
    seen.page.select_option("#axis-y", "metric")
    seen.until(f"document.querySelector('#plot-frontier .xtitle').textContent === {first!r}")
    assert count(seen, "#plot-frontier .shapelayer path") == 1  # the budget is back
    assert seen.errors == []
