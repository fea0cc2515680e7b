"""What `samo analyze` leaves, on the page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from samo.analysis import (
    Agreement,
    Cosines,
    EstimatorQuality,
    Features,
    Landscape,
    Sharpness,
    Spectrum,
)
from samo.records import read_json
from samo.report.page import html_page
from tests.report import pages
from tests.report.test_page import EVIL, reader

TASKS = ("left", "right")


def analysed(run: Path, tasks: tuple[str, str] = TASKS, scale: float = 1.0) -> None:
    """Writes one result of each kind beside a run."""
    directory = run / "analysis"
    values = tuple(scale * v for v in (9.0, 4.0, 3.0, 2.0, 1.5))
    Spectrum(tasks, values, 30.0, 0.5, 100, 4).save(directory / "spectrum.json")
    Spectrum(tasks[:1], values, 25.0, 0.5, 100, 4).save(directory / "spectrum-left.json")
    matrix = ((1.0, -0.25), (-0.25, 1.0))
    cosines = Cosines(tasks, matrix, (1.0, 2.0), 1.0, matrix, 0.5, None, 4)
    cosines.save(directory / "cosines.json")
    sharpness = Sharpness(0.05, "Perturbation(rho=0.05)", tasks, (0.5, 0.6), (0.7, 0.9), 4)
    sharpness.save(directory / "sharpness.json")
    agreement = Agreement((0.2, 0.3), (0.1, 0.1))
    quality = EstimatorQuality(
        tasks, 0.5, 100, agreement, {"SPSA": agreement}, {"SPSA": agreement}, 4
    )
    quality.save(directory / "estimators.json")
    axis = tuple(np.linspace(-1, 1, 5).tolist())
    grid = tuple(tuple(x * x + y * y + 0.1 for x in axis) for y in axis)
    plane = "random directions, filter-normalised"
    ground = Landscape(plane, axis, axis, dict.fromkeys(tasks, grid), {"here": (0.0, 0.0)})
    ground.save(directory / "landscape.json")
    points = tuple((float(i % 5), float(i // 5)) for i in range(20))
    labels = tuple(tasks[i % 2] for i in range(20))
    Features(points, labels, 1.5, 0.2, 8, 5.0, 0).save(directory / "features.json")


def test_every_kind_is_drawn_and_the_spectra_are_in_a_table(tmp_path: Path) -> None:
    pages.finished(tmp_path / "run-0", pages.config())
    pages.finished(tmp_path / "run-1", pages.config(seed=1))
    plain = html_page(tmp_path).html.count("<svg")
    analysed(tmp_path / "run-0")
    analysed(tmp_path / "run-1", scale=1.5)
    page = html_page(tmp_path)
    assert page.faults == ()
    assert "cannot be drawn" not in page.html
    # One of spectra, cosines, sharpness and features; one of estimators and planes for each run.
    assert page.html.count("<svg") == plain + 4 + 2 * 2
    head, *rows = reader(page.html).tables["c1-spectra"]
    found = {(row[0], row[1]): dict(zip(head, row, strict=True)) for row in rows}
    assert found["ls erm, seed 1", "left, right"]["λ_max"] == "13.5"
    assert found["ls erm, seed 1", "left, right"]["λ_max / λ_5"] == "6"
    assert found["ls erm (left), seed 0", "left"]["trace"] == "25"


def test_harmful_names_in_analyses(tmp_path: Path) -> None:
    pages.finished(tmp_path / "run", pages.config())
    analysed(tmp_path / "run")
    exchanged = dict(zip(("left", "right", "SPSA", "here"), EVIL, strict=False))
    for file in (tmp_path / "run" / "analysis").iterdir():
        harmful = file.read_text()
        for word, text in exchanged.items():
            harmful = harmful.replace(f'"{word}"', json.dumps(text))
        assert harmful != file.read_text()
        pages.write(file, harmful)
    page = html_page(tmp_path)
    assert page.faults == ()
    assert "cannot be drawn" not in page.html
    assert page.html.count("<script") == 1
    assert not {"img", "b"} & {tag for tag, _ in reader(page.html).elements}


def test_what_is_no_analysis_is_named_and_left_out(tmp_path: Path) -> None:
    pages.finished(tmp_path / "run", pages.config())
    analysed(tmp_path / "run")
    directory = tmp_path / "run" / "analysis"
    good = read_json(directory / "spectrum.json")
    for i, wrong in enumerate(
        (
            [],
            {"kind": "virus", "format": 1},
            {**good, "format": 99},
            {**good, "eigenvalues": "many"},
            {**good, "eigenvalues": [float("nan")]},
            {key: value for key, value in good.items() if key != "trace"},
            "torn",
        )
    ):
        pages.write(directory / f"wrong-{i}.json", wrong)
    # Of the right types, and yet no matrix.
    cosines = read_json(directory / "cosines.json")
    pages.write(directory / "cosines.json", {**cosines, "matrix": [[1.0], [0.5, 0.5]]})
    page = html_page(tmp_path)
    assert page.faults == ()
    left_out = {row[0] for row in reader(page.html).tables["problems-table"][1:]}
    assert {f"run/analysis/wrong-{i}.json" for i in range(7)} <= left_out
    assert "cannot be drawn" in page.html or "run/analysis/cosines.json" in left_out
    assert page.html.count("<svg") >= 5
