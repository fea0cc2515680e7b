"""The figures: what they show, and that they can be written whatever the comparison is."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from samo.report import Entry, delta_m, learning_curves, rho_grid, save, summarize, write
from samo.report.figures.style import LOOKS
from samo.training import PRESETS
from tests.report.crafted import comparison, entry, failed

CASES: dict[str, list[Entry]] = {
    "whole": comparison(),
    "one run": [entry("ls")],
    "one epoch": [entry("ls", seed=seed, epochs=1) for seed in (0, 1)],
    "no baselines": [e for e in comparison() if not e.baseline],
    "a failed arm": [*comparison(), failed("mgda", "samo", 0.05)],
    "lower is better": [
        entry("ls", "erm", seed=s, higher_is_better=False, test=(1.0, 2.0 + s)) for s in (0, 1)
    ],
    "rho from zero": [entry("ls", "gsam", rho) for rho in (0.0, 0.1)],
    "all presets": [
        entry("ls", name, None if name == "erm" else 0.1, seed)
        for name in PRESETS
        for seed in (0, 1)
    ],
}


@pytest.mark.parametrize("case", CASES)
def test_figures_can_be_drawn_whatever_the_comparison_is(case: str) -> None:
    summary = summarize(CASES[case])
    drawn = [learning_curves(summary), delta_m(summary)]
    if summary.grid:
        drawn.append(rho_grid(summary))
    for figure in drawn:
        figure.set_dpi(25)
        figure.draw_without_rendering()
        assert figure.legends


def test_figures_and_tables_are_written(tmp_path: Path) -> None:
    figures = write(summarize(comparison()), tmp_path)
    assert [path.name for path in figures] == ["learning_curves.png", "delta_m.png", "rho.png"]
    for path in figures:
        header = path.read_bytes()[:24]
        assert header.startswith(b"\x89PNG")
        width, height = struct.unpack(">II", header[16:24])
        assert width > 500
        assert height > 300
        assert "<svg" in path.with_suffix(".svg").read_text(encoding="utf-8")
    assert {path.name for path in tmp_path.glob("table.*")} == {"table.csv", "table.md"}
    assert (tmp_path / "differences.csv").exists()
    assert not list(tmp_path.glob("*.new"))


@pytest.mark.parametrize("case", ["nothing finished", "nothing but baselines"])
def test_there_are_no_figures_where_there_is_nothing_to_show(tmp_path: Path, case: str) -> None:
    entries = {
        "nothing finished": [failed("ls", "gsam", 0.1)],
        "nothing but baselines": [e for e in comparison() if e.baseline],
    }
    assert write(summarize(entries[case]), tmp_path) == []
    assert (tmp_path / "table.md").exists()


def test_equal_figures_give_equal_files(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg", "a.png", "b.png"):
        save(delta_m(summarize(comparison())), tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def curves(figure: Figure, title: str) -> dict[tuple[str, bool], np.ndarray]:
    (axis,) = [a for a in figure.axes if a.get_title() == title]
    names = {to_rgb(look.colour): name for name, look in LOOKS.items()}
    return {
        (names[to_rgb(line.get_color())], line.get_linewidth() > 1): np.asarray(line.get_ydata())
        for line in axis.get_lines()
    }


def test_learning_curves_are_means_over_the_seeds() -> None:
    figure = learning_curves(summarize(comparison()))
    found = curves(figure, "ls: left")
    assert set(found) == {(p, b) for p in ("erm", "gsam", "samo") for b in (True, False)}
    # Plain training: 89 in the mean; each epoch takes one from validation and gives it to training.
    np.testing.assert_allclose(found["erm", True], [88.0, 87.0, 86.0])
    np.testing.assert_allclose(found["erm", False], [90.0, 91.0, 92.0])
    assert len(figure.axes) == 4


def test_many_tasks_share_a_panel() -> None:
    one = entry("ls")
    assert one.results is not None
    names = [f"t{i}" for i in range(8)]

    def scores(epoch: int) -> dict[str, dict[str, float]]:
        return {name: {"accuracy": 10.0 * i + epoch} for i, name in enumerate(names)}

    about = dict.fromkeys(names, one.results["metrics"]["left"])
    history = [
        {"epoch": e, "train": scores(e), "validation": scores(-e), "score": 1.0} for e in (1, 2)
    ]
    selected = {**one.results["selected"], "test": scores(0)}
    results = {**one.results, "metrics": about, "history": history, "selected": selected}
    figure = learning_curves(summarize([Entry(one.config, False, results)]))
    assert len(figure.axes) == 1
    np.testing.assert_allclose(curves(figure, "ls: 8 tasks")["erm", True], [34.0, 33.0])


def test_the_marks_are_the_rows_of_the_table() -> None:
    summary = summarize(comparison())
    figure = delta_m(summary)
    assert "Δm" in figure.axes[0].get_ylabel()
    assert "accuracy (%)" in figure.axes[1].get_ylabel()
    for axis, name in zip(figure.axes, ("delta_m", "average"), strict=True):
        marks = sorted(
            float(np.ravel(container.lines[0].get_ydata())[0])
            for container in axis.containers
            if isinstance(container, ErrorbarContainer)
        )
        rows = [getattr(row, name) for row in summary.rows if row.method != "stl"]
        assert marks == pytest.approx(sorted(spread.mean for spread in rows))


def test_the_grid_of_rho_shows_every_value() -> None:
    figure = rho_grid(summarize(comparison()))
    for axis in figure.axes:
        assert [label.get_text() for label in axis.get_xticklabels()] == ["0.05", "0.2"]


def test_every_preset_looks_different_in_colour_and_without() -> None:
    assert set(PRESETS) <= set(LOOKS)
    looks = [LOOKS[name] for name in PRESETS]
    assert len({look.colour for look in looks}) == len(looks)
    assert len({look.marker for look in looks}) == len(looks)
    assert len({str(look.line) for look in looks}) == len(looks)
