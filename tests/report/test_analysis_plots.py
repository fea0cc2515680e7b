"""The figures of analyses: their data is what was given, equal data gives equal files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from samo import report
from samo.analysis import (
    Agreement,
    Cosines,
    EstimatorQuality,
    Features,
    History,
    Landscape,
    Sharpness,
    Spectrum,
    Trajectory,
)
from samo.report.figures.style import LOOKS, looks

PLANE = "some plane"


def spectra() -> dict[str, Spectrum | list[Spectrum]]:
    def one(*values: float) -> Spectrum:
        return Spectrum(("a", "b"), values, 3.0, 0.1, 100, 2)

    return {"erm": [one(8, 4, 3, 2.5, 2, -1), one(12, 6, 3, 2.5, 2)], "odd $x^{": one(5, 1)}


def cosines(n: int = 3) -> Cosines:
    rows = np.cos(np.add.outer(np.arange(n), np.arange(n)) + 1.5 * np.eye(n)) * 0.5
    np.fill_diagonal(rows, 1.0)
    table = tuple(tuple(row) for row in rows.tolist())
    tasks = tuple(f"t{i}" for i in range(n))
    return Cosines(tasks, table, tuple(1.5 * i for i in range(n)), 0.3, table, 0.3, None, 2)


def sharpness(rise: float) -> Sharpness:
    return Sharpness(0.05, "p", ("a", "b"), (1.0, 2.0), (1.0 + rise, 2.0 + 2 * rise), 2)


def quality() -> EstimatorQuality:
    one, two = Agreement((0.1, 0.2), (0.01, 0.02)), Agreement((0.5, 0.6), (0.0, 0.1))
    return EstimatorQuality(("a", "b"), 0.5, 400, two, {"SPSA": one}, {"SPSA": two}, 3)


def ground(plane: str = PLANE, factor: float = 1.0) -> Landscape:
    x, y = np.linspace(-1, 1, 6), np.linspace(0, 2, 5)
    grid = factor * (x[None] ** 2 + y[:, None])
    rows = tuple(tuple(row) for row in grid.tolist())
    gap = ((None, *rows[0][1:]), *rows[1:])
    points = {"one": (0.0, 1.0)}
    return Landscape(plane, tuple(x.tolist()), tuple(y.tolist()), {"a": rows, "b": gap}, points)


def way(plane: str = PLANE) -> Trajectory:
    return Trajectory(plane, ((-0.5, 1.5), (0.1, 1.0), (0.5, 0.2)), 0.9)


def embedded() -> Features:
    points = tuple((float(i), float(i % 4)) for i in range(12))
    labels = tuple(str(i % 3) for i in range(12))
    return Features(points, labels, 12.34, 0.5, 7, 5.0, 0)


def past(*values: float, at: tuple[int, ...] = (10, 20, 30), unit: str = "step") -> History:
    columns = {
        "conflicts": values,
        **{f"gradient_norm/{t}": tuple(s * v for v in values) for t, s in (("a", 1.0), ("b", 9.0))},
        **{f"weight/{t}": tuple(s * v for v in values) for t, s in (("a", 0.5), ("b", 2.0))},
    }
    return History(unit, at, columns)


def many(n: int) -> History:
    columns = {f"gradient_norm/t{i}": (1.0 + i, 2.0 + i) for i in range(n)}
    return History("epoch", (1, 2), columns)


DRAWN: dict[str, Callable[[], Figure]] = {
    "spectrum": lambda: report.spectrum(spectra()),
    "cosines": lambda: report.cosines({"erm": cosines(), "samo": cosines()}),
    "cosines of many": lambda: report.cosines({"erm": cosines(30)}),
    "cosines of one": lambda: report.cosines({"erm": cosines(1)}),
    "sharpness": lambda: report.sharpness({"erm": [sharpness(1.0), sharpness(3.0)]}),
    "estimators": lambda: report.estimators(quality()),
    "loss planes": lambda: report.loss_planes({"": ground()}, {"erm": way(), "x": way()}),
    "loss planes, two": lambda: report.loss_planes({"erm": ground(), "samo": ground("other", 2)}),
    "features": lambda: report.features({"erm": embedded(), "samo": embedded()}),
    "conflicts": lambda: report.conflicts({"erm": past(0.5, 0.25, 0.0), "samo": past(0.1, 0, 0)}),
    "gradient norms": lambda: report.gradient_norms({"erm": past(0.5, 0.25, 0.1)}),
    "gradient norms of many": lambda: report.gradient_norms({"erm": many(12)}),
    "task weights": lambda: report.task_weights({"erm": past(0.5, 0.25, 0.1)}),
}


@pytest.mark.parametrize("name", DRAWN)
def test_figures_are_written_without_a_date(name: str, tmp_path: Path) -> None:
    report.save(DRAWN[name](), tmp_path / "one.svg")
    content = (tmp_path / "one.svg").read_bytes()
    assert b"<svg" in content
    assert b"<dc:date>" not in content


# Lines and bars, an image, contours with colours, points.
@pytest.mark.parametrize("name", ["spectrum", "cosines", "loss planes", "features"])
def test_equal_data_gives_equal_files(name: str, tmp_path: Path) -> None:
    for file in ("one.svg", "other.svg"):
        report.save(DRAWN[name](), tmp_path / file)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "other.svg").read_bytes()


def bars(axis: Axes) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The values and the ends of their bars, a mark or line each."""
    found = []
    for container in axis.containers:
        assert isinstance(container, ErrorbarContainer)
        data, _, segments = container.lines
        middle = np.asarray(data.get_ydata())
        ends = np.array([s[:, 1] for s in segments[0].get_segments()]) if segments else None
        found.append((middle, *(ends.T if ends is not None else (middle, middle))))
    return found


def test_the_spectra_are_those_given() -> None:
    figure = report.spectrum(spectra())
    one, other = bars(figure.axes[0])
    np.testing.assert_allclose(one[0], [10, 5, 3, 2.5, 2])  # as many as both seeds have
    np.testing.assert_allclose(one[1], [8, 4, 3, 2.5, 2])
    np.testing.assert_allclose(one[2], [12, 6, 3, 2.5, 2])
    np.testing.assert_allclose(other[0], [5, 1])
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["erm: λ_max = 10, λ_max / λ_5 = 5", r"odd \$x^{: λ_max = 5"]


def test_the_cosines_are_those_given() -> None:
    figure = report.cosines({"erm": cosines(), "samo": cosines()})
    for axis in figure.axes[:2]:
        (image,) = (child for child in axis.get_children() if isinstance(child, AxesImage))
        values = image.get_array()
        assert values is not None
        shown = np.ma.filled(values, np.nan)
        expected = np.array(cosines().matrix)
        np.fill_diagonal(expected, np.nan)
        np.testing.assert_allclose(shown, expected)
        low, high = image.get_clim()
        assert low == -high  # nothing is drawn in the middle colour but 0
        texts = {text.get_text() for text in axis.texts}
        assert {f"{expected[0, 1]:.2f}", f"{expected[0, 2]:.2f}".replace("-", "−")} <= texts
        assert "‖g‖\n1.5" in texts


def test_conflicts_are_marked_where_numbers_have_no_room() -> None:
    axis = report.cosines({"erm": cosines(30)}).axes[0]
    (dots,) = axis.lines
    marked = {(int(y), int(x)) for x, y in np.asarray(dots.get_xydata())}
    matrix = np.array(cosines(30).matrix)
    assert marked == {(i, j) for i in range(30) for j in range(30) if matrix[i, j] < 0}


def test_the_sharpness_is_that_given() -> None:
    figure = report.sharpness({"erm": [sharpness(1.0), sharpness(3.0)], "samo": sharpness(0.5)})
    one, other = bars(figure.axes[0])
    np.testing.assert_allclose(one, [[2, 4], [1, 2], [3, 6]])
    np.testing.assert_allclose(other[0], [0.5, 1.0])
    assert "ρ = 0.05" in figure.axes[0].get_ylabel()
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["a", "b"]


def test_the_estimators_are_those_given() -> None:
    figure = report.estimators(quality())
    left, right = (bars(axis) for axis in figure.axes)
    np.testing.assert_allclose(left[0][0], [0.5, 0.6])
    np.testing.assert_allclose(left[1], [[0.1, 0.2], [0.09, 0.18], [0.11, 0.22]])
    np.testing.assert_allclose(right[1], [[0.5, 0.6], [0.5, 0.5], [0.5, 0.7]])
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["mean gradient", "SPSA"]


def test_the_planes_and_trajectories_are_those_given() -> None:
    figure = report.loss_planes({"": ground()}, {"erm": way()})
    titles = {axis.get_title(): axis for axis in figure.axes if axis.get_title()}
    assert list(titles) == ["mean loss", "a", "b"]
    for axis in titles.values():
        ways = [np.asarray(line.get_xydata()) for line in axis.lines]
        assert any(np.array_equal(w, way().points) for w in ways)
        assert any(np.array_equal(w, [[0.0, 1.0]]) for w in ways)  # the point of the plane
        assert axis.get_xlim() == (-1, 1)
        assert axis.get_ylim() == (0, 2)
        assert "one" in [text.get_text() for text in axis.texts]


def test_the_rows_of_loss_planes_have_the_same_levels() -> None:
    figure = report.loss_planes({"erm": ground(), "samo": ground("other", 5)}, tasks=["a"])
    panels = [axis for axis in figure.axes if axis.get_title() == "a"]
    levels = [axis.collections[0].levels for axis in panels]  # type: ignore[attr-defined]
    np.testing.assert_array_equal(*levels)
    assert levels[0][0] == pytest.approx(0.04)  # the least of both
    assert levels[0][-1] == pytest.approx(15)
    assert [axis.get_ylabel() for axis in figure.axes if axis.get_title() == "mean loss"] == [
        "erm",
        "samo",
    ]


def test_the_features_are_those_given() -> None:
    figure = report.features({"erm": embedded()})
    axis = figure.axes[0]
    labels = np.array(embedded().labels)
    for drawn, name in zip(axis.collections, "012", strict=True):
        expected = np.array(embedded().points)[labels == name]
        np.testing.assert_array_equal(drawn.get_offsets(), expected)
    assert "distance 12.3, silhouette 0.50" in [text.get_text() for text in axis.texts]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["0", "1", "2"]


def test_conflicts_are_means_over_the_seeds_that_came_so_far() -> None:
    nan = float("nan")
    two = [past(0.5, 0.25, nan), past(0.1, 0.05, at=(10, 20))]
    figure = report.conflicts({"erm": two, "none": past(nan, nan, nan)})
    (line,) = figure.axes[0].lines
    np.testing.assert_allclose(np.asarray(line.get_xydata())[:2], [[10, 30], [20, 15]])
    assert np.isnan(np.asarray(line.get_ydata(), dtype=float)[2])
    assert figure.axes[0].get_xlabel() == "step"


def test_norms_and_weights_are_those_of_each_task() -> None:
    history = past(0.5, 0.25, 0.125)
    for draw, name in ((report.gradient_norms, "gradient_norm"), (report.task_weights, "weight")):
        figure = draw({"erm": history})
        lines = [np.asarray(line.get_ydata()) for line in figure.axes[0].lines]
        np.testing.assert_allclose(lines, list(history.by_task(name).values()))
        assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


def test_of_many_tasks_the_spread_is_drawn() -> None:
    figure = report.gradient_norms({"erm": many(11)})
    (line,) = figure.axes[0].lines
    np.testing.assert_allclose(np.asarray(line.get_ydata()), [6.0, 7.0])
    outer = figure.axes[0].collections[0].get_paths()[0].vertices
    assert (np.asarray(outer)[:, 1].min(), np.asarray(outer)[:, 1].max()) == (1.0, 12.0)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: report.spectrum({}), "spectra is empty"),
        (lambda: report.cosines({}), "found is empty"),
        (lambda: report.sharpness({}), "found is empty"),
        (lambda: report.features({}), "found is empty"),
        (lambda: report.conflicts({}), "found none"),
        (lambda: report.conflicts({"a": many(2)}), "none of the histories has conflicts"),
        (lambda: report.task_weights({"a": many(2)}), "none of the histories has weight"),
        (lambda: report.conflicts({"a": many(2), "b": past(1.0)}), "epoch and step"),
        (lambda: report.loss_planes({}), "found none"),
        (lambda: report.loss_planes({"a": ground()}, tasks=["c"]), r"\['a', 'b'\]; found \['c'\]"),
        (lambda: report.loss_planes({"a": ground()}, {"erm": way("odd")}), "another plane"),
    ],
)
def test_bad_data(draw: Callable[[], Figure], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw()


def test_looks_can_be_told_apart() -> None:
    names = ["samo", *(f"task {i}" for i in range(18)), "erm"]
    found = looks(names)
    assert list(found) == names
    assert found["samo"] == LOOKS["samo"]
    assert found["erm"] == LOOKS["erm"]
    assert len({(look.colour, look.marker) for look in found.values()}) == len(names)
