from __future__ import annotations

import math

import pytest
from hypothesis import given as check
from hypothesis import strategies as st

from laconic.report import units

NARROW = "\u202f"
POSITIVE = st.floats(1e-9, 1e12, allow_nan=False)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.00244, "2.44 ms"),
        (0.000351, "351 µs"),
        (1.8, "1.80 s"),
        (4.2e-8, "42.0 ns"),
        (0.9996, "1.00 s"),
        (0.9994, "999 ms"),
        (0.0, "0.00 ns"),
    ],
)
def test_time_reads_in_its_own_unit(seconds: float, text: str) -> None:
    assert units.scaled(seconds, units.TIME).text.replace("\xa0", " ") == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (512, "512 B"), (1500, "1.50 kB"), (1_118_208, "1.12 MB"), (97_492_434, "97.5 MB"), (3e9, "3.00 GB")],
)
def test_bytes_are_binary(size: int, text: str) -> None:
    assert units.scaled(size, units.BYTES).text.replace("\xa0", " ") == text


@pytest.mark.parametrize(
    ("scale", "n", "text"),
    [
        (units.PARAMS, 25_557_032, "25.6 M params"),
        (units.PARAMS, 650, "650 params"),
        (units.MACS, 4_089_184_256, "4.09 G MACs"),
        (units.MACS, 40_551_040, "40.6 M MACs"),
    ],
)
def test_counts(scale: units.Scale, n: int, text: str) -> None:
    assert units.scaled(n, scale).text.replace("\xa0", " ") == text


@check(POSITIVE)
def test_a_text_says_its_value_to_three_digits(value: float) -> None:
    shown = float(units.number(value).replace(NARROW, "").replace("−", "-"))
    assert math.isclose(shown, value, rel_tol=0.0051)


@check(POSITIVE, st.sampled_from([units.TIME, units.BYTES, units.MACS]))
def test_a_scaled_value_is_the_raw_one_in_its_unit(raw: float, scale: units.Scale) -> None:
    amount = units.scaled(raw, scale)
    size = {unit: size for size, unit in scale}[amount.unit]
    value = float(amount.number.replace(NARROW, "").replace("−", "-"))
    assert value * size == pytest.approx(raw, rel=0.0051)
    assert value >= 0.995 or size == scale[0][0]


@pytest.mark.parametrize(
    ("values", "unit"),
    [([0.000351, 0.00244], "ms"), ([0.000012, 0.0024], "µs"), ([2.1, 34.0], "s"), ([None, 0.0], "ns"), ([], "ns")],
)
def test_a_column_shares_the_largest_unit_in_which_nothing_gets_tiny(values: list[float | None], unit: str) -> None:
    assert units.shared(units.TIME, values)[1] == unit


@pytest.mark.parametrize(
    ("value", "low", "high", "text"),
    [
        (6.93, 6.71, 7.18, "6.93 (6.71 to 7.18)"),
        (410.2, 405.1, 415.3, "410 (405 to 415)"),
        (0.00005, -0.00007, 0.00017, "0.00005 (−0.00007 to 0.00017)"),
        (7.12, 7.1182, 7.1223, "7.120 (7.118 to 7.122)"),
        (0.0, 0.0, 0.0, "0.00 (0.00 to 0.00)"),
        (12345.0, 12100.0, 12500.0, f"12{NARROW}345 (12{NARROW}100 to 12{NARROW}500)"),
    ],
)
def test_an_interval_has_the_digits_that_its_width_deserves(value: float, low: float, high: float, text: str) -> None:
    found = units.with_interval(value, low, high, "").full
    assert found == text


def test_given_decimals_are_kept_for_value_and_interval() -> None:
    amount = units.with_interval(0.05, -0.07, 0.17, "points", places=2)
    assert (amount.number, amount.interval, amount.unit) == ("0.05", "−0.07 to 0.17", "points")


@check(st.floats(-1e6, 1e6), st.floats(0, 1e5), st.floats(0, 1e5))
def test_an_interval_reads_in_order(value: float, below: float, above: float) -> None:
    amount = units.with_interval(value, value - below, value + above, "")
    low, high = (float(end.replace(NARROW, "").replace("−", "-")) for end in amount.interval.split(" to "))
    shown = float(amount.number.replace(NARROW, "").replace("−", "-"))
    assert low <= shown <= high


def test_missing_says_why_and_never_zero() -> None:
    assert units.missing("no counter").text == "Not measured: no counter"
    assert units.missing("").text == "Not measured: no reason was recorded"
    assert units.scaled(None, units.BYTES, "the process died").text == "Not measured: the process died"


@pytest.mark.parametrize("value", [None, True, "3", math.nan, math.inf, [1]], ids=str)
def test_what_is_not_a_finite_number_is_no_number(value: object) -> None:
    assert units.finite(value) is None


def test_what_rounds_to_zero_has_no_sign() -> None:
    assert units.fixed(-0.001, 2) == "0.00"
    assert units.fixed(-0.006, 2) == "−0.01"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.6, "600 ms"), (59.4, "59.4 s"), (59.6, "1 min 00 s"), (96.8, "1 min 37 s"), (3599.7, "1 h 00 min"), (7500, "2 h 05 min")],
)
def test_clock(seconds: float, text: str) -> None:
    assert units.clock(seconds).replace("\xa0", " ") == text
