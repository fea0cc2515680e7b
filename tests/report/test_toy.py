"""The figures of the toy problems."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from samo import toy
from samo.report import landscape, loss_space, toy_table, write_toy
from samo.report.figures.style import LOOKS

METHODS = ("ls", "mgda", "cagrad", "upgrad")


def descents(problem: str, methods: tuple[str, ...] = METHODS) -> list[toy.Trajectory]:
    known = toy.PROBLEMS[problem]
    return [
        toy.run(toy.setting(known, method=method, sharpness=preset, start=start, steps=3))
        for method in methods
        for preset in ("erm", "gsam")
        for start in known.starts
    ]


def lines(figure: Figure) -> list[tuple[str, np.ndarray]]:
    return [
        (to_hex(line.get_color()), np.asarray(line.get_xydata()))
        for axis in figure.axes
        if axis.get_visible()
        for line in axis.lines
        if len(np.asarray(line.get_xydata())) == 4
    ]


@pytest.mark.parametrize("problem", toy.PROBLEMS)
def test_every_trajectory_is_drawn_in_its_presets_colour(problem: str) -> None:
    trajectories = descents(problem)
    for figure, ways in (
        (landscape(trajectories), [t.points for t in trajectories]),
        (loss_space(trajectories), [t.losses for t in trajectories]),
    ):
        shown = [axis for axis in figure.axes if axis.get_visible()]
        assert [axis.get_title() for axis in shown] == list(METHODS)
        drawn = lines(figure)
        assert len(drawn) == len(ways)
        for (colour, way), trajectory, expected in zip(drawn, trajectories, ways, strict=True):
            assert colour == LOOKS[trajectory.setting.sharpness].colour.lower()
            np.testing.assert_array_equal(way, expected)
        labels = [text.get_text() for text in figure.legends[0].get_texts()]
        assert labels[:3] == ["erm", f"gsam, ρ = {toy.PROBLEMS[problem].rho:g}", "start"]
        assert labels[3].startswith("Pareto")


def test_the_legend_lies_below_all_panels() -> None:
    for methods in (("ls",), METHODS):
        figure = landscape(descents("front", methods))
        figure.draw_without_rendering()
        top = figure.legends[0].get_window_extent().y1
        for axis in figure.axes:
            if axis.get_visible():
                box = axis.get_tightbbox()
                assert box is not None
                assert box.y0 >= top - 1


def test_one_problem_at_a_time() -> None:
    mixed = [toy.run(toy.setting(problem, steps=1)) for problem in toy.PROBLEMS]
    for draw in (landscape, loss_space):
        with pytest.raises(ValueError, match="valley, front"):
            draw(mixed)
        with pytest.raises(ValueError, match="no trajectory"):
            draw([])


def test_tables_and_figures_are_written(tmp_path: Path) -> None:
    trajectories = descents("valley", ("ls", "mgda"))
    figures = write_toy(trajectories, tmp_path)
    assert [path.name for path in figures] == ["landscape.png", "loss_space.png"]
    for path in figures:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert "<svg" in path.with_suffix(".svg").read_text(encoding="utf-8")
    with (tmp_path / "table.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["sharpness"], row["rho"]) for row in rows] == [
        ("ls", "erm", ""),
        ("ls", "gsam", "1.5"),
        ("mgda", "erm", ""),
        ("mgda", "gsam", "1.5"),
    ]
    assert float(rows[1]["lambda_max"]) == trajectories[1].sharpness
    assert float(rows[1]["end_x1"]) == trajectories[1].points[-1, 0]
    assert toy_table(trajectories).row_count == 4
