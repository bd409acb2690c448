"""The parity rule: the worst output decides, and one channel is enough to lose."""

from __future__ import annotations

import math
from typing import Any

import pytest

from laconic.run.gate import TOLERANCES, parity


def output(name: str, rel: float = 1e-6, decibels: float = 90.0, **more: Any) -> dict[str, Any]:
    return {"name": name, "max_abs": rel, "max_rel": rel, "sqnr_db": decibels, "n": 100, **more}


def channel(decibels: float, dead: tuple[int, ...] = ()) -> dict[str, Any]:
    return {"channel_axis": 1, "channels": 8, "worst_channel": 5, "worst_channel_db": decibels, "dead_channels": list(dead)}


def found(*outputs: dict[str, Any]) -> dict[str, Any]:
    return {"outputs": list(outputs), **{name: outputs[0][name] for name in ("max_abs", "max_rel", "sqnr_db", "n")}}


GOOD = output("boxes", **channel(80.0))


@pytest.mark.parametrize(
    ("bad", "kind", "said"),
    [
        (
            output("scores", rel=2e-3),
            ("fp32", False),
            "its output 'scores' differs from the program's: by 0.002 of the largest value; 0.001 is allowed",
        ),
        (output("scores", rel=0.2), ("bf16", False), "'scores' differs from the program's: by 0.2 of"),
        (output("scores", rel=math.inf, decibels=-math.inf), ("fp32", False), "by inf of the largest value"),
        (
            output("scores", decibels=-29.0),
            ("fp32", True),
            "'scores' differs from the rounded program's: signal to noise is -29 dB; at least 12 dB",
        ),
        (
            output("scores", **channel(19.0)),
            ("fp32", False),
            "signal to noise of channel 5 of dimension 1 is 19 dB; at least 20 dB is asked for",
        ),
        (output("scores", **channel(5.0)), ("bf16", False), "channel 5 of dimension 1 is 5 dB; at least 6 dB"),
        (output("scores", decibels=18.0, **channel(2.0)), ("fp32", True), "channel 5 of dimension 1 is 2 dB; at least 3 dB"),
        (
            output("scores", **channel(54.0, dead=(5, 6))),
            ("fp32", True),
            "channel 5, 6 of dimension 1 is constant in the file and varies in the program",
        ),
        (
            output("ids", rel=1.0, decibels=3.0, equal=0.98),
            ("fp32", False),
            "98 % of its whole numbers are equal; at least 99 % is asked for",
        ),
        (output("ids", rel=1.0, decibels=3.0, equal=0.7), ("fp32", True), "70 % of its whole numbers are equal; at least 75 %"),
    ],
    ids=[
        "fp32",
        "bf16",
        "not finite",
        "rounded",
        "channel",
        "bf16 channel",
        "rounded channel",
        "dead",
        "whole numbers",
        "rounded whole numbers",
    ],
)
@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
def test_one_bad_output_is_enough_and_is_named(bad: dict[str, Any], kind: tuple[str, bool], said: str, first: bool) -> None:
    evidence, reason = parity(found(bad, GOOD) if first else found(GOOD, bad), *kind)
    assert reason is not None
    assert said in reason.text
    assert evidence["worst"] == bad["name"]
    assert parity(found(GOOD, GOOD), *kind)[1] is None


@pytest.mark.parametrize(
    ("fine", "kind"),
    [
        (output("ids", rel=1.0, decibels=3.0, equal=0.995), ("fp32", False)),
        (output("scores", rel=0.5, decibels=12.0, **channel(3.0)), ("fp32", True)),
        (output("scores", rel=9e-4, decibels=40.0, **channel(20.0)), ("fp32", False)),
        (output("scores", rel=9e-2, decibels=20.0, **channel(6.0)), ("bf16", False)),
    ],
    ids=["ids", "rounded", "fp32", "bf16"],
)
def test_what_is_within_the_tolerance_passes(fine: dict[str, Any], kind: tuple[str, bool]) -> None:
    evidence, reason = parity(found(GOOD, fine), *kind)
    assert reason is None
    assert evidence["worst"] == fine["name"]
    assert evidence["tolerance_channel_db"] == TOLERANCES["rounded" if kind[1] else kind[0]].channel_db


def test_a_file_with_other_outputs_is_refused() -> None:
    nothing = {"outputs": [], "max_abs": math.inf, "max_rel": math.inf, "sqnr_db": -math.inf, "n": 0}
    for rounded in (False, True):
        assert parity(nothing, "fp32", rounded)[1] is not None
