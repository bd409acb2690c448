"""What the archive of the delivered artifact holds: bytes by part and by tensor, and bits per weight beside the entropy of order zero."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from laconic.report.candidates import Candidate
from laconic.report.steps import mapping, mappings
from laconic.report.units import BYTES, finite, fixed, number, scaled

PARTS = {
    "mask": "where a value is zero",
    "codebook": "the distinct values",
    "codes": "which of them each value is; exponents",
    "tables": "frequencies, lengths of codes",
    "rest": "mantissas and what no coding shortens; digests",
}


@dataclass(frozen=True)
class Share:
    """One part of the archive and its share of the whole (0 to 1)."""

    label: str
    about: str
    text: str
    share: float


@dataclass(frozen=True)
class PackedRow:
    """One tensor; what was not recorded is a dash."""

    name: str
    coding: str
    values: str
    bits: str
    entropy: str
    size: str
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Storage:
    """The section. `named` are the parts in the order of `PackedRow.parts`."""

    lead: str
    shares: tuple[Share, ...]
    named: tuple[str, ...]
    rows: tuple[PackedRow, ...]


def storage(result: Mapping[str, Any], candidates: Sequence[Candidate], chosen: Candidate | None, metric: str, unit: str) -> Storage | None:
    """Return what the chosen candidate's archive holds; None where none was packed. Arguments as of `step_sections`."""
    records = [record for record in result.get("candidates") or () if chosen is not None and record.get("key") == chosen.key]
    told = mapping(records[0].get("packed")) if records else {}
    whole = finite(told.get("packed_bytes"))
    if not whole:
        return None
    rows = mappings(told.get("tensors"))
    sums = {part: sum(finite(mapping(row.get("parts")).get(part)) or 0.0 for row in rows) for part in PARTS}
    shares = [Share(part.capitalize(), about, scaled(sums[part], BYTES).text, sums[part] / whole) for part, about in PARTS.items()]
    front = finite(told.get("front_bytes")) or 0.0
    shares.append(Share("Graph", "graph, names, settings, small tensors, header", scaled(front, BYTES).text, front / whole))
    before = finite(told.get("original_bytes"))
    ratio = "" if before is None else f", {number(before / whole)} times smaller than the {scaled(before, BYTES).text} of the file in it"
    lead = f"The archive takes {scaled(whole, BYTES).text}{ratio}, and gives it back bit by bit."
    return Storage(lead + _against_entropy(rows), tuple(shares), tuple(part.capitalize() for part in PARTS), tuple(map(_row, rows)))


def _against_entropy(rows: Sequence[Mapping[str, Any]]) -> str:
    """Say what a number takes in the tensors of few distinct values, all together, beside their entropy of order zero; empty where there are none."""
    few = [(_values(row), finite(row.get("entropy_bits")), finite(row.get("packed_bytes"))) for row in rows]
    known = [(values, entropy, size) for values, entropy, size in few if entropy is not None and size is not None]
    total = sum(values for values, _, _ in known)
    if not total:
        return ""
    bits, entropy = sum(8 * size for _, _, size in known) / total, sum(values * entropy for values, entropy, _ in known) / total
    return (
        f" The {fixed(total, 0)} numbers of tensors with few distinct values take {fixed(bits, 2)} bits each with their tables, of an entropy of order zero of "
        f"{fixed(entropy, 2)}."
    )


def _values(row: Mapping[str, Any]) -> float:
    return math.prod(finite(size) or 0.0 for size in row.get("shape") or ())


def _row(row: Mapping[str, Any]) -> PackedRow:
    parts = mapping(row.get("parts"))
    values = _values(row)
    return PackedRow(
        str(row.get("name") or "–"),
        str(row.get("coding") or "–"),
        fixed(values, 0),
        _bits(row.get("bits_per_value")),
        _bits(row.get("entropy_bits")),
        _bytes(row.get("packed_bytes")),
        tuple(_bytes(parts.get(part)) for part in PARTS),
    )


def _bits(value: Any) -> str:
    known = finite(value)
    return "–" if known is None else fixed(known, 2)


def _bytes(value: Any) -> str:
    known = finite(value)
    return "–" if known is None else scaled(known, BYTES).text
