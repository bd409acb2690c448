"""The section on weights of few values: what steps told, in words; what they left out is said so."""

from __future__ import annotations

from typing import Any

import pytest

from laconic.report.page import page
from tests.report.results import Json, section
from tests.report.test_page import Reader, words
from tests.report.test_step_sections import with_outcomes

WEIGHTS = [
    {
        "name": "fc.weight",
        "numbers": 1000,
        "nonzero": 100,
        "values": 15,
        "low": -0.25,
        "high": 0.5,
        "entropy_bits": 0.8,
        "coded_bits": 0.6,
        "sqnr_db": 21.5,
    },
    {
        "name": "head.weight",
        "numbers": 20,
        "nonzero": 20,
        "values": 4,
        "low": -1.0,
        "high": 1.0,
        "entropy_bits": 2.0,
        "coded_bits": None,
        "sqnr_db": None,
    },
]


def told(**more: Any) -> Json:
    changed = {
        "grid": "uniform", "slope": 1e-6, "bits_per_weight": 0.7, "numbers": 1020, "nonzero": 120, "entropy_bits": 0.82, "weights": WEIGHTS,
        "epochs": [{"epoch": 1, "loss": 0.5, "lr": 1e-4, "metric": None, "seconds": 2.0}], **more,
    }  # fmt: skip
    skipped = [{"name": "conv", "reason": "asked to be kept"}]
    return {
        "step": "rate_distortion",
        "title": "rate distortion",
        "section": "sharing",
        "changed": changed,
        "skipped": skipped,
        "notes": [],
    }


def test_it_says_what_each_weight_takes() -> None:
    found = section(with_outcomes(told()), "sharing")
    assert found.lead == "OpenVINO · bf16: 1\u202f020 numbers of weights take 0.820 bits each in a code without context, of 32 before."
    assert dict(found.settings) == {
        "Step": "rate_distortion", "Grid": "uniform", "A bit is worth": "1.00e\u22126\u00a0of loss", "With context": "0.700\u00a0bits a weight",
        "Not zero": "120 of 1\u202f020 (11.8\u00a0%)", "Fine-tuning": "1 epoch",
    }  # fmt: skip
    one, other = found.weights
    assert (one.numbers, one.nonzero, one.values, one.span, one.bits, one.coded, one.sqnr) == (
        "1\u202f000", "10.0\u00a0%", "15", "\u22120.250 to 0.500", "0.800", "0.600", "21.5\u00a0dB",
    )  # fmt: skip
    assert (other.coded, other.sqnr) == ("not tried", "no change")
    assert [(left.reason, left.names) for left in found.left] == [("asked to be kept", ("conv",))]


@pytest.mark.parametrize(
    "changed", [{"weights": [{}], "numbers": None, "nonzero": None, "epochs": None}, {"weights": None}], ids=["nothing", "no weights"]
)
def test_what_was_not_recorded_is_said(changed: Json) -> None:
    text = words(Reader(page(with_outcomes(told(**changed)))).seen)
    assert "Weights of few values" in text
    assert ("not recorded" in text) is bool(changed["weights"])


def test_it_is_on_the_page() -> None:
    text = words(Reader(page(with_outcomes(told()))).seen)
    assert all(part in text for part in ("Weights of few values", "fc.weight", "21.5", "asked to be kept"))
