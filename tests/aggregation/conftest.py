"""The two libraries that the solvers work with."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from samo.aggregation.solvers import _arrays as arrays


@pytest.fixture(params=["numpy", "torch"])
def both_libraries(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Run a test with NumPy, and as if it were not installed."""
    if request.param == "torch":
        monkeypatch.setitem(sys.modules, "numpy", None)
    arrays.library.cache_clear()
    assert arrays.library().__name__ == request.param
    yield request.param
    monkeypatch.undo()
    arrays.library.cache_clear()
