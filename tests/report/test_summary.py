from __future__ import annotations

import io

import pytest
from rich.console import Console

from laconic.report.facts import facts
from laconic.report.text import summary
from tests.report.results import Json, measured, named, record


def told(result: Json, width: int = 120) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(summary(facts(result)))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.replace("\xa0", " ").splitlines())


def lines(text: str, start: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines() if line.startswith(start)]


def test_a_met_budget(met: Json) -> None:
    text = told(met)
    assert text.startswith("Budget met  6.9× faster than PyTorch eager")
    assert lines(text, "Speed-up ")[0] == "Speed-up 6.93× 95 %: 6.71 to 7.18 median 2.44 → 0.351 ms"
    assert lines(text, "File size")[0] == "File size 1.12 MB 1.20 → 1.12 MB; 1.08× smaller"
    assert lines(text, "OpenVINO · bf16 (best)")[0] == "OpenVINO · bf16 (best) passed 6.93 0.351 87.48 −0.04 1.12"
    assert lines(text, "torch.compile · fp32:")[0].endswith("the speed-up's interval contains 1: 1.02 (0.97 to 1.08)")
    assert "not available here: ONNX Runtime · bf16: CPUExecutionProvider has no bf16 kernels for Conv" in text


def test_a_missed_budget(missed: Json) -> None:
    text = told(missed)
    assert text.startswith("Budget not met  No candidate met the budget")
    assert lines(text, "missed")[1] == "missed Median latency at most 0.3 ms reached 0.351 ms"
    assert lines(text, "OpenVINO · bf16 (nearest miss)")


def test_a_verdict_that_opens_with_the_badge_is_not_said_twice(missed: Json) -> None:
    missed["verdict"] = "Budget not met (best latency): the nearest is 6.93× as fast."
    assert told(missed).startswith("Budget not met (best latency)")


def test_a_single_missing_figure_is_a_dash_with_its_reason(met: Json) -> None:
    del met["candidates"][0]["measured"]["size_bytes"]
    text = told(met)
    assert lines(text, "OpenVINO · bf16 (best)")[0].endswith("−0.04 –")
    assert "OpenVINO · bf16: file not measured: no reason was recorded" in text
    assert lines(text, "File size")[0].startswith("File size Not measured: no reason was recorded")


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_it_fits_the_terminal(any_result: Json, width: int) -> None:
    assert max(len(line) for line in told(any_result, width).splitlines()) <= width


def test_what_a_user_named_is_no_markup(met: Json) -> None:
    met["candidates"][0]["title"] = "[bold red]x[/bold red] [link=file:///]"
    met["verdict"] = "fast [/] [blink]"
    text = told(met)
    assert "[bold red]x[/bold red]" in text
    assert "fast [/] [blink]" in text


def test_a_long_run_is_cut_to_what_matters() -> None:
    met = named("met")
    extra = [
        record(f"c{i}", f"Extra {i}", "rejected", "torch", "fp32", **measured(3.0, (0.8, 0.7, 0.9), 87.0, (0.4, 0.3, 0.5), 9, 9, 9))
        for i in range(40)
    ]
    met["candidates"] = extra + met["candidates"]
    text = told(met)
    assert "24 more are in the report." in text
    for title in ("PyTorch eager · fp32", "OpenVINO · bf16 (best)", "TorchScript · fp32"):
        assert lines(text, title)
