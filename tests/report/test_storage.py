"""The section on the archive: data first."""

from __future__ import annotations

from typing import Any

from laconic.report.facts import facts
from laconic.report.page import page
from tests.report.results import Json, named

PARTS = {"mask": 100, "codebook": 20, "codes": 700, "tables": 30, "rest": 50}
PACKED: Json = {
    "original_bytes": 12_000,
    "packed_bytes": 1_200,
    "front_bytes": 300,
    "tensors": [
        {
            "name": "fc.<b>", "kind": "float32", "shape": [30, 10], "coding": "mask", "original_bytes": 1200, "packed_bytes": 900, "parts": PARTS,
            "bits_per_value": 24.0, "entropy_bits": 2.5,
        },
        {"name": "bias", "shape": [7], "coding": "raw", "packed_bytes": 0, "parts": {}, "bits_per_value": 1.0, "entropy_bits": None},
    ],
}  # fmt: skip


def section(result: Json) -> Any:
    return next((one for one in facts(result).steps if one.name == "storage"), None)


def test_bytes_are_told_by_part_and_by_tensor() -> None:
    result = named("met")
    assert section(result) is None
    result["candidates"][0]["packed"] = PACKED
    found = section(result).facts
    assert "1.20\xa0kB, 10.0 times smaller" in found.lead
    assert {one.label: one.share for one in found.shares} == {
        "Mask": 100 / 1200, "Codebook": 20 / 1200, "Codes": 700 / 1200, "Tables": 30 / 1200, "Rest": 50 / 1200, "Graph": 300 / 1200,
    }  # fmt: skip
    assert sum(one.share for one in found.shares) == 1
    first, second = found.rows
    assert (first.values, first.bits, first.entropy) == ("300", "24.00", "2.50")
    assert second.entropy == "–"
    assert "fc.&lt;b&gt;" in page(result)


def test_what_was_not_recorded_is_a_dash() -> None:
    result = named("met")
    result["candidates"][0]["packed"] = {"packed_bytes": 10, "tensors": [{}]}
    assert section(result).facts.rows[0].bits == "–"
    assert "entropy" not in section(result).facts.lead


def test_bits_of_all_tensors_of_few_values_stand_beside_their_entropy() -> None:
    result = named("met")
    other = {"name": "conv", "shape": [100], "packed_bytes": 100, "entropy_bits": 6.5}  # 300 numbers in 900 bytes, 100 in 100: 20 bits each
    result["candidates"][0]["packed"] = {**PACKED, "tensors": [*PACKED["tensors"], other]}
    told = (
        "The 400 numbers of tensors with few distinct values take 20.00 bits each with their tables, of an entropy of order zero of 3.50."
    )
    assert section(result).facts.lead.endswith(told)
