"""Results on disk: round trips, and errors for invalid files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from samo.analysis import (
    Agreement,
    AnalysisError,
    Cosines,
    EstimatorQuality,
    Result,
    Sharpness,
    Spectrum,
)
from samo.records import read_json

RESULTS: list[Result] = [
    Spectrum(("a", "b"), (3.0, 1.0, -0.5), 4.0, 0.1, 9, 2),
    Cosines(
        ("a", "b"),
        ((1.0, 0.5), (0.5, 1.0)),
        (2.0, 3.0),
        0.0,
        ((1.0, -0.1), (-0.1, 1.0)),
        0.5,
        None,
        3,
    ),
    Cosines(("a",), ((1.0,),), (2.0,), None, ((1.0,),), None, "Perturbation(rho=0.1)", 1),
    Sharpness(0.1, "Perturbation(rho=0.1)", ("a",), (1.0,), (1.5,), 3),
    EstimatorQuality(
        ("a",),
        0.5,
        8,
        Agreement((0.5,), (0.1,)),
        {"x": Agreement((1.0,), (0.0,))},
        {"x": Agreement((0.9,), (0.0,))},
        3,
    ),
]


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: result.kind)
def test_saved_results_are_loaded(result: Result, tmp_path: Path) -> None:
    file = tmp_path / "deep" / "result.json"
    result.save(file)
    assert type(result).load(file) == result
    assert json.loads(file.read_text())["kind"] == result.kind
    assert [path.name for path in file.parent.iterdir()] == ["result.json"]


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: result.kind)
def test_every_field_is_checked(result: Result, tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    result.save(file)
    content = read_json(file)

    def fault(changed: Any) -> str:
        file.write_text(json.dumps(changed))
        with pytest.raises(AnalysisError) as caught:
            type(result).load(file)
        assert str(file) in str(caught.value)
        return str(caught.value)

    for name in content:
        assert name in fault({k: v for k, v in content.items() if k != name})
        assert name in fault({**content, name: {"no": ["such", "thing"]}})
    assert "extra" in fault({**content, "extra": 1})
    assert "JSON object" in fault([content])
    assert "format" in fault({**content, "format": 2})


@pytest.mark.parametrize("text", ["", "{", "NaN", "[" * 100_000, "\x00"])
def test_invalid_json_raises_an_error(text: str, tmp_path: Path) -> None:
    file = tmp_path / "spectrum.json"
    file.write_text(text)
    with pytest.raises(AnalysisError, match=r"spectrum\.json"):
        Spectrum.load(file)


def test_numbers_are_finite(tmp_path: Path) -> None:
    file = tmp_path / "spectrum.json"
    with pytest.raises(AnalysisError, match="cannot be written"):
        Spectrum(("a",), (math.nan,), 4.0, 0.1, 9, 2).save(file)
    assert not file.exists()
    good = Spectrum(("a",), (1.0,), 4.0, 0.1, 9, 2)
    good.save(file)
    for number in ("Infinity", "NaN", "1e999"):
        file.write_text(
            json.dumps({"kind": "spectrum", "format": 1, "tasks": ["a"]})[:-1]
            + (
                f', "eigenvalues": [1.0], "trace": {number}, "trace_error": 0.1, "parameters": 9, '
                f'"batches": 2}}'
            )
        )
        with pytest.raises(AnalysisError, match=r"spectrum\.json"):
            Spectrum.load(file)
    with pytest.raises(AnalysisError, match="cannot be read"):
        Spectrum.load(tmp_path / "nothing.json")
