from __future__ import annotations

import base64
import hashlib
import html.parser
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

from laconic.core.errors import BadInput, LaconicError
from laconic.report.page import page, write_page
from tests.report.results import Json, named


class Reader(html.parser.HTMLParser):
    """Tags with their attributes, the text that is seen, and the scripts, as the standard library's parser reads them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.seen = ""
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.seen += data

    def of(self, tag: str) -> list[dict[str, Any]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def whole() -> str:
    return page(named("met"))


def words(text: str) -> str:
    return re.sub(r"\s+", " ", text.replace("\xa0", " "))


def test_every_result_makes_a_page(any_result: Json) -> None:
    read = Reader(page(any_result))
    assert len(read.of("h1")) == 1
    assert len(read.scripts) == 3


def test_the_page_says_what_was_found(whole: str) -> None:
    text = words(Reader(whole).seen)
    for expected in [
        "6.9× faster than PyTorch eager at no measurable loss of accuracy",
        "Budget met",
        "95 %: 6.71 to 7.18",
        "Best: OpenVINO · bf16 against PyTorch eager · fp32",
        "the speed-up's interval contains 1: 1.02 (0.97 to 1.08)",
        "CPUExecutionProvider has no bf16 kernels for Conv",
        "Not measured: the throughput round ran out of time (30 s)",
        "10\u202f000 test examples, used once".replace("\u202f", " "),
        "aten.grid_sampler_2d",
        "269 k params and 40.6 M MACs",
        "Laconic itself, without running the model: 4.30 s",
        "laconic optimize mypkg.tasks:cifar --max-drop 0.5 --seed 0",
        "a call with one example",
        "fetches nothing and works offline; 4.8 MB",
    ]:
        assert expected in text, expected


def test_a_missed_budget_is_told_plainly(missed: Json) -> None:
    text = words(Reader(page(missed)).seen)
    assert "Budget not met" in text
    assert "Nearest miss: OpenVINO · bf16" in text
    assert "Missed Speed-up at least 8×, also by the lower end of its interval reached 6.93× (6.71 to 7.18)" in text
    assert "The fastest candidate reaches 6.93×" in text


def test_what_a_figure_comes_from_is_told(met: Json) -> None:
    """The counter, the meter or the price, by name."""
    known = met["candidates"][0]["measured"]
    known["energy_mj"] = {
        "value": 3.0,
        "low": 2.5,
        "high": 3.5,
        "unit": "mJ",
        "n": 10,
        "note": "measured by powercap package-0; 10 windows of 5 s",
    }
    known["cost_per_million"] = {
        "value": 0.2,
        "low": None,
        "high": None,
        "unit": "EUR",
        "n": 9,
        "note": "at 0.34 EUR an hour of server (<b>contract</b>)",
    }
    made = page(met)
    assert "measured by powercap package-0; 10 windows of 5 s" in made
    assert "at 0.34 EUR an hour of server (&lt;b&gt;contract&lt;/b&gt;)" in made


def test_nothing_is_blank_or_zero_where_nothing_was_measured() -> None:
    read = Reader(page(named("all-failed")))
    assert "Not measured: crash: killed by signal 11" in words(read.seen)
    assert "nothing was measured" in read.seen


def test_the_page_asks_no_address(any_result: Json) -> None:
    read = Reader(page(any_result))
    inside = [attrs["href"] for attrs in read.of("a")]
    assert all(href.startswith("#h-") and href[1:] in {attrs.get("id") for _, attrs in read.tags} for href in inside)
    assert not [attrs for tag, attrs in read.tags for name in ("src", "href", "srcset", "action", "data") if name in attrs and tag != "a"]
    assert not read.of("link") + read.of("img") + read.of("iframe")
    policy = next(attrs["content"] for attrs in read.of("meta") if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "http" not in policy


def test_the_policy_lets_only_the_pages_own_scripts_run(whole: str) -> None:
    read = Reader(whole)
    policy = next(attrs["content"] for attrs in read.of("meta") if attrs.get("http-equiv") == "Content-Security-Policy")
    _, plotly, own = read.scripts
    hashes = {f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}" for script in (plotly, own)}
    assert set(re.findall(r"'(sha256-[^']+)'", policy)) == hashes
    assert "unsafe-inline" not in policy.split("script-src")[1].split(";")[0]


def test_plotly_is_inside_once(whole: str) -> None:
    assert whole.count("plotly.js v") == 1
    assert len(whole) < 5_200_000


def test_what_a_user_named_stays_text() -> None:
    made = page(named("hostile"))
    read = Reader(made)
    assert len(read.scripts) == 3
    assert not read.of("img") + read.of("i")
    assert not [name for _, attrs in read.tags for name in attrs if name.startswith("on")]
    assert "<script>alert(1)</script>" in read.seen
    assert "<b>slow</b>" in read.seen
    figures = json.loads(read.scripts[0])
    assert (
        "&lt;script&gt;alert(4)&lt;/script&gt;".replace("&lt;script", "&lt;/script&gt;&lt;script")
        in figures["layers"]["data"][0]["customdata"][0]
    )


def test_tables_and_headings_can_be_read_aloud(whole: str) -> None:
    read = Reader(whole)
    assert all(attrs.get("scope") in ("col", "row") for attrs in read.of("th"))
    assert len(read.of("table")) == len(read.of("caption"))
    levels = [int(tag[1]) for tag, _ in read.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    plots = [attrs for attrs in read.of("div") if "data-figure" in attrs]
    assert [attrs["data-figure"] for attrs in plots] == ["frontier", "parallel", "spread", "curve", "layers", "loss", "score"]
    assert all(attrs["role"] == "img" and len(attrs["aria-label"]) > 40 for attrs in plots)
    assert read.of("html")[0]["lang"] == "en"


def test_identifiers_are_unique(whole: str) -> None:
    names = [attrs["id"] for _, attrs in Reader(whole).tags if attrs.get("id")]
    assert len(names) == len(set(names))


def test_the_same_result_gives_the_same_bytes(whole: str) -> None:
    assert page(named("met")) == whole


def test_the_page_is_written_whole(tmp_path: Path, met: Json, whole: str) -> None:
    place = tmp_path / "new" / "report.html"
    assert write_page(met, place) == place
    assert place.read_text(encoding="utf-8") == whole
    assert [p.name for p in place.parent.iterdir()] == ["report.html"]


def test_a_refused_result_leaves_the_old_page(tmp_path: Path, met: Json) -> None:
    place = tmp_path / "report.html"
    place.write_text("old")
    met["format"] = 99
    with pytest.raises(BadInput, match="format 99"):
        write_page(met, place)
    assert place.read_text() == "old"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, met: Json) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LaconicError, match=r"file/report\.html"):
        write_page(met, tmp_path / "file" / "report.html")


def test_a_long_verdict_is_set_smaller(met: Json) -> None:
    assert "class" not in Reader(page(met)).of("h1")[0]
    met["verdict"] = "Budget not met: " + "word " * 40
    assert Reader(page(met)).of("h1")[0]["class"] == "long"
