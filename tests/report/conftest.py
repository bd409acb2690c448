"""Results for the report's tests; `results.py` says what is in them."""

from __future__ import annotations

import pytest

from tests.report.results import RESULTS, Json, named


@pytest.fixture
def met() -> Json:
    return named("met")


@pytest.fixture
def missed() -> Json:
    return named("not-met")


@pytest.fixture(params=list(RESULTS))
def any_result(request: pytest.FixtureRequest) -> Json:
    return named(request.param)
