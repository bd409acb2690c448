"""The ends of an interval that must hold its value."""

from __future__ import annotations

from laconic.core.records import Measurement


def ends(found: Measurement) -> tuple[float, float]:
    assert found.value is not None
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.value <= found.high
    return found.low, found.high
