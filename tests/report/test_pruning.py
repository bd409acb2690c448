from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

import pytest

from laconic.report.charts import charts
from laconic.report.facts import facts
from laconic.report.page import page
from laconic.report.pruning import Pruning
from tests.report.results import Json, measured, named, pruned_outcome, reason, record, section
from tests.report.test_page import Reader, words


@pytest.fixture
def result() -> Json:
    return named("pruned")


def found(result: Json) -> Pruning:
    made: Pruning = section(result, "pruning")
    return made


def drawn(result: Json) -> dict[str, Json]:
    return charts(facts(result))


def with_outcomes(*outcomes: Json) -> Json:
    """A run whose best candidate has these outcomes."""
    made = named("met")
    made["candidates"][0]["outcomes"] = list(outcomes)
    return made


def step(skipped: list[Json] | None = None, **changed: Any) -> Json:
    return {"step": "prune", "section": "pruning", "changed": changed, "skipped": skipped or [], "notes": []}


def group(name: str, before: float | None, after: float | None, slices: int | None = 4) -> Json:
    return {"name": name, "slices": slices, "before": before, "after": after}


def plain(text: str) -> str:
    return text.replace("\xa0", " ").replace("\u202f", " ")


class TestWhose:
    def test_the_chosen_is_shown_though_another_is_faster(self, result: Json) -> None:
        result["candidates"][-1]["measured"]["speedup"]["value"] = 30.0
        title = "prune to 50 % of MACs · quantize static · OpenVINO · fp32"
        assert found(result).lead == f"{title}: 188 of 448 components are gone, from 12 of 12 groups; 2 places are listed as what stayed."

    def test_where_the_chosen_has_none_it_is_the_fastest_that_has_one(self, result: Json) -> None:
        result["best"] = "openvino-int8"
        assert found(result).title == "prune to 50 % of MACs · quantize static · OpenVINO · fp32"
        assert found(result).lead.endswith(" It was not chosen; it is shown as the fastest that passed with such a step.")
        result["candidates"][-1]["measured"]["speedup"]["value"] = 30.0
        assert found(result).title == "prune to 50 % of MACs · OpenVINO · fp32"

    def test_one_that_was_rejected_is_shown_only_where_none_passed(self, result: Json) -> None:
        result["best"] = "openvino-int8"
        fast = result["candidates"][-1]
        fast["measured"]["speedup"]["value"] = 30.0
        fast.update(status="rejected", reasons=[reason("budget:max_drop", "it loses 3 points")])
        assert found(result).title == "prune to 50 % of MACs · quantize static · OpenVINO · fp32"
        for one in result["candidates"][-2:]:
            one.update(status="rejected", reasons=[reason("budget:max_drop", "it loses 3 points")])
        assert found(result).lead.endswith(
            " None with such a step passed; it is shown as the fastest of those with such a step: it loses 3 points."
        )

    def test_what_was_never_timed_is_not_called_fast(self) -> None:
        result = named("all-failed")
        result["candidates"][1]["outcomes"] = [pruned_outcome()]
        assert found(result).lead.endswith(
            "it is shown as the first of those with such a step, none of which was timed: memory: more than 4.0 GB."
        )
        slow = measured(3.0, (0.8, 0.7, 0.9), 87.0, (0.4, 0.3, 0.5), 9, 9, 9)
        result["candidates"].append(record("p", "Timed", "rejected", "openvino", "fp32", outcomes=[pruned_outcome()], **slow))
        assert found(result).title == "Timed"

    @pytest.mark.parametrize("name", ["met", "not-met", "all-failed", "only-baseline", "quantized"])
    def test_a_run_that_pruned_nothing_has_no_section(self, name: str) -> None:
        assert "pruning" not in [one.name for one in facts(named(name)).steps]
        assert "h-pruning" not in page(named(name))

    @pytest.mark.parametrize(
        ("groups", "said"),
        [
            ([group("a", 2, 1)], "1 of 2 components is gone, from 1 of 1 group; nothing is listed"),
            ([group("a", 2, 1), group("b", 8, 8.0)], "1 of 10 components is gone, from 1 of 2 groups"),
            ([group("a", 2, 1), group("b", None, 8)], "1 of 2 components is gone, from 1 of 1 group"),
            ([group("a", None, None)], "how many components are gone was not recorded"),
            (None, "how many components are gone was not recorded"),
        ],
        ids=["one", "untouched", "partly unknown", "unknown", "absent"],
    )
    def test_how_many_are_gone(self, groups: Any, said: str) -> None:
        assert said in found(with_outcomes(step(groups=groups))).lead


class TestSettings:
    def test_all_of_a_record(self, result: Json) -> None:
        assert [(label, plain(text)) for label, text in found(result).settings] == [
            ("Step", "prune"),
            ("Asked to keep", "50 % of the multiply-adds"),
            ("Criterion", "group_l2"),
            ("Allocation", "global: components of all groups are ranked together"),
            ("Multiply-adds", "40.8 → 20.2 M MACs for one example: 49.6 % kept"),
            ("Parameters", "0.272 → 0.121 M params: 44.4 % kept"),
            (
                "Equivalence",
                "3.1e−7 of the largest output: the largest difference that removing components made to outputs with those components at zero, before "
                "recovery; up to 1e−4 passes",
            ),
            ("Loss before recovery", "0.211 → 0.483 on examples of the train data"),
            ("Recovery", "3 epochs of training"),
        ]

    def test_an_old_record_says_what_it_lacks(self) -> None:
        made = found(with_outcomes({"step": "prune", "section": "pruning"}))
        assert [text for _, text in made.settings] == ["prune", *["not recorded"] * 8]
        assert (made.left, made.cuts.rows, made.epochs) == ((), (), None)
        assert made.cuts.note == "No groups were recorded."

    @pytest.mark.parametrize(
        ("changed", "label", "text"),
        [
            ({"goal": "params", "share": 0.3}, "Asked to keep", "30 % of the parameters"),
            ({"goal": "latency", "share": 0.125}, "Asked to keep", "12.5 % of the layers' measured time on the target"),
            ({"goal": "params"}, "Asked to keep", "a share that was not recorded of the parameters"),
            ({"share": 0.5}, "Asked to keep", "50 % of what was not recorded"),
            ({"goal": "atoms", "share": 0.5}, "Asked to keep", "50 % of atoms"),
            ({"allocation": "uniform"}, "Allocation", "uniform: the same share of every group"),
            ({"allocation": "latency"}, "Allocation", "latency: the least score for the time it saves"),
            ({"allocation": "own"}, "Allocation", "own"),
            ({"keep": {"a": 12, "b": 6}, "allocation": "given"}, "Asked to keep", "18 components in 2 groups, and all of the others"),
            ({"allocation": "given"}, "Allocation", "given: so many components for each group that was named"),
            ({"loss": [0.2, math.nan]}, "Loss before recovery", "not recorded"),
            ({"macs": [100, 50]}, "Multiply-adds", "100 → 50 MACs for one example: 50.0 % kept"),
            ({"macs": [0, 0]}, "Multiply-adds", "0 → 0 MACs for one example"),
            ({"params": [1000]}, "Parameters", "not recorded"),
            ({"params": [1000, None]}, "Parameters", "not recorded"),
            ({"difference": 2e-4}, "Equivalence", "more than the 1e−4 that passes"),
            ({"difference": math.nan}, "Equivalence", "not recorded"),
            ({"difference": 0.0, "groups": [group("a", 4, 4.0)]}, "Equivalence", "nothing was removed, and nothing compared"),
            ({"difference": 0.0, "groups": [group("a", 4, 2.0)]}, "Equivalence", "up to 1e−4 passes"),
            ({"epochs": []}, "Recovery", "no training followed"),
            ({"epochs": [{"epoch": 1, "loss": 1.0}]}, "Recovery", "1 epoch of training"),
            ({"epochs": [{"epoch": 1, "round": 1}, {"epoch": 1, "round": 2}]}, "Recovery", "2 epochs of training in 2 rounds"),
        ],
    )
    def test_each(self, changed: Json, label: str, text: str) -> None:
        shown = plain(dict(found(with_outcomes(step(**changed))).settings)[label])
        assert shown.endswith(text) if label == "Equivalence" else shown == text


class TestSeveralSteps:
    def made(self) -> Json:
        first = step(
            [{"name": "x", "reason": "early"}], goal="macs", share=0.7, criterion="l2", allocation="global", params=[100, 60], macs=[1000, 700],
            difference=1e-7, groups=[group("a", 16, 12.0), group("b", 8, 1.0)], epochs=[{"epoch": 1, "loss": 2.0, "round": 1}],
        )  # fmt: skip
        second = step(
            [{"name": "y", "reason": "late"}], goal="macs", share=0.5, criterion="l2", allocation="uniform", params=[60, 30], macs=[700, 350],
            difference=3e-7, groups=[group("a", 12, 6.0)], epochs=[{"epoch": 1, "loss": 1.0, "round": 1}],
        )  # fmt: skip
        return with_outcomes(first, step_between(), second)

    def test_from_the_first_to_the_last(self) -> None:
        made = found(self.made())
        shown = {label: plain(text) for label, text in made.settings}
        assert shown["Steps"] == "prune → prune"
        assert shown["Asked to keep"] == "70 % of the multiply-adds, then 50 % of the multiply-adds"
        assert shown["Criterion"] == "l2"
        assert shown["Multiply-adds"] == "1.00 → 0.350 k MACs for one example: 35.0 % kept"
        assert shown["Parameters"] == "100 → 30 params: 30.0 % kept"
        assert shown["Equivalence"].startswith("3.0e−7 of")
        assert shown["Recovery"] == "2 epochs of training in 2 rounds"
        assert [(row.name, row.before, row.after) for row in made.cuts.rows] == [("a", 16.0, 6.0), ("b", 8.0, 1.0)]
        assert [left.reason for left in made.left] == ["late"]

    def test_epochs_go_on(self) -> None:
        made = found(self.made()).epochs
        assert made is not None
        assert [(epoch.epoch, epoch.loss) for epoch in made.epochs] == [(1, 2.0), (2, 1.0)]


def step_between() -> Json:
    return {"step": "fold_batch_norm", "changed": {}, "skipped": [], "notes": []}


class TestGroups:
    def test_rows(self, result: Json) -> None:
        rows = found(result).cuts.rows
        assert [(row.name, row.before_text, row.after_text, plain(row.kept_text), row.slices_text) for row in rows[:2]] == [
            ("conv1", "16", "13", "81.2 %", "30"),
            ("layer1.0.conv1", "16", "5", "31.2 %", "4"),
        ]
        assert found(result).cuts.alt == (
            "Components before and after pruning, in 12 groups. The largest share is gone from layer1.0.conv1: 16 to 5."
        )

    def test_what_is_missing_is_not_zero(self) -> None:
        made = found(with_outcomes(step(groups=[group("a", 8, 4), group("b", 8, None), {"slices": None}, group("z", 0, 0)]))).cuts
        assert [(row.name, row.after_text, plain(row.kept_text)) for row in made.rows] == [
            ("a", "4", "50.0 %"),
            ("b", "not recorded", "not recorded"),
            ("unnamed", "not recorded", "not recorded"),
            ("z", "0", "not recorded"),
        ]
        assert [row.name for row in made.drawn] == ["a"]
        assert made.note == "Not drawn, because a count was not recorded: 3 of 4."

    def test_two_groups_of_one_name_stay_two(self) -> None:
        rows = found(with_outcomes(step(groups=[group("lstm", 8, 4), group("lstm", 16, 12)]))).cuts.rows
        assert [(row.before, row.after) for row in rows] == [(8.0, 4.0), (16.0, 12.0)]

    def test_at_most_forty_are_drawn_those_that_lost_most(self) -> None:
        groups = [group(f"g{i}", 100, float(i)) for i in range(60, 0, -1)]
        made = found(with_outcomes(step(groups=groups))).cuts
        assert [row.name for row in made.drawn] == [f"g{i}" for i in range(40, 0, -1)]
        assert len(made.rows) == 60
        assert made.note == "Drawn are the 40 of 60 groups that lost the largest share, in the order of the table; the table has all."
        figure = drawn(with_outcomes(step(groups=groups)))["pruning"]
        assert len(figure["layout"]["yaxis"]["ticktext"]) == 40
        assert figure["layout"]["yaxis"].get("showticklabels", True)

    def test_pale_before_and_strong_after_with_the_counts_beside(self, result: Json) -> None:
        figure = drawn(result)["pruning"]
        before, after = figure["data"]
        assert [(trace["name"], trace["marker"]["color"]) for trace in (before, after)] == [
            ("Before", "var(--pale)"),
            ("After", "var(--accent)"),
        ]
        assert before["x"] == [100.0] * 12
        assert after["x"][:2] == [81.25, 31.25]
        assert (before["yaxis"], after["yaxis"], figure["layout"]["yaxis2"]["overlaying"]) == ("y", "y2", "y")
        assert figure["layout"]["yaxis"]["ticktext"][:2] == ["conv1", "layer1.0.conv1"]
        assert figure["layout"]["yaxis2"]["ticktext"][:2] == ["16 → 13", "16 → 5"]
        assert figure["layout"]["yaxis"]["range"] == figure["layout"]["yaxis2"]["range"]
        assert plain(before["customdata"][0]) == "<b>conv1</b><br>16 → 13<br>81.2 % kept"

    def test_nothing_to_draw_draws_nothing(self) -> None:
        assert "pruning" not in drawn(with_outcomes(step(groups=[group("a", None, 3)])))
        assert "pruning" not in drawn(with_outcomes(step()))


def test_recovery_is_drawn_beside_the_training_of_the_baseline(result: Json) -> None:
    figures = drawn(result)
    assert figures["prune-loss"]["data"][0]["y"] == [0.4, 0.2, 0.4 / 3]
    assert "prune-score" not in figures
    epochs = result["candidates"][-2]["outcomes"][0]["changed"]["epochs"]
    epochs[2]["metric"] = 84.0
    assert drawn(result)["prune-score"]["data"][0]["y"] == [None, None, 84.0]
    assert "Accuracy 84.00\xa0% after the last epoch" in page(result)
    epochs.clear()
    assert "prune-loss" not in drawn(result)
    assert "<h3>Recovery</h3>" not in page(result)


class TestPage:
    def test_it_says_all_of_it(self, result: Json) -> None:
        read = Reader(page(result).replace("</t", " </t"))  # a space between cells
        text = plain(words(read.seen))
        for expected in [
            "188 of 448 components are gone, from 12 of 12 groups; 2 places are listed as what stayed.",
            "50 % of the multiply-adds",
            "40.8 → 20.2 M MACs for one example: 49.6 % kept",
            "up to 1e−4 passes",
            "Table of 12 groups",
            "layer1.0.conv1 16 5 31.2 % 4",
            "an output of the model: 1 place: fc.weight[0]",
            "has no rule, so what it reads stays: 1 place: aten.grid_sampler_2d.default",
        ]:
            assert expected in text, expected
        plots = {attrs["data-figure"]: attrs["aria-label"] for attrs in read.of("div") if "data-figure" in attrs}
        assert list(plots) == ["frontier", "parallel", "spread", "curve", "layers", "pruning", "prune-loss", "ranges", "loss", "score"]
        assert set(json.loads(read.scripts[0])) == {*plots, "axes"}

    def test_an_old_record_is_a_page_with_no_empty_part(self) -> None:
        made = page(with_outcomes({"step": "prune", "section": "pruning"}))
        section = words(Reader(made[made.index('id="h-pruning"') : made.index('id="h-training"')]).seen)
        assert "Nothing was listed." in section
        assert "No groups were recorded." in section
        assert "Table of" not in section
        assert "Recovery" in section  # among the settings alone
        assert "<h3>Recovery</h3>" not in made

    def test_few_names_need_no_second_list(self) -> None:
        few = [{"name": name, "reason": "odd"} for name in "abc"]
        assert "All that stayed, by name" not in page(with_outcomes(step(few)))
        assert "All that stayed, by name" in page(with_outcomes(step([*few, {"name": "d", "reason": "odd"}])))

    def test_what_a_user_named_stays_text(self) -> None:
        read = Reader(page(named("hostile")))
        section = read.seen[read.seen.rindex("\nPruning\n") : read.seen.rindex("\nQuantization\n")]
        assert section.count("<script>alert(1)</script>") >= 4
        assert 'onerror="alert(2)"' in section
        figure = json.dumps(json.loads(read.scripts[0])["pruning"])
        assert set(re.findall(r"<[^>]*>", figure)) <= {"<b>", "</b>", "<br>", "<extra>", "</extra>"}
        assert "&lt;script&gt;" in figure
        assert "&quot;" not in figure  # Plotly would show it as written


@pytest.mark.parametrize("name", ["goal", "share", "criterion", "allocation", "groups", "params", "macs", "difference", "epochs"])
@pytest.mark.parametrize(
    "change", [lambda made, name: made.pop(name, None), lambda made, name: made.update({name: None})], ids=["absent", "null"]
)
def test_any_key_may_be_missing(name: str, change: Callable[[Json, str], Any]) -> None:
    outcome = pruned_outcome()
    change(outcome["changed"], name)
    made = page(with_outcomes(outcome))
    section = Reader(made[made.index('id="h-pruning"') : made.index('id="h-training"')]).seen
    assert "None" not in section
    assert "not recorded" in section or "No groups were recorded." in section


@pytest.mark.parametrize("name", ["changed", "skipped", "notes"])
def test_any_part_of_an_outcome_may_be_missing(name: str) -> None:
    for outcome in ({**pruned_outcome(), name: None}, {k: v for k, v in pruned_outcome().items() if k != name}):
        assert 'id="h-pruning"' in page(with_outcomes(outcome))
