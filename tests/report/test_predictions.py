"""The picture of predictions beside what is true."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from samo.benchmarks import dense
from samo.report import DensePictures, predictions, save
from samo.report.figures._predictions import _CLASS_COLOURS


def pictures(n: int = 2, tasks: tuple[str, ...] = ("segmentation", "depth", "normals")):
    random = np.random.default_rng(0)
    shape = (n, 8, 12)
    normals = np.zeros((*shape, 3))
    normals[..., 2] = 1
    tilted = np.zeros((*shape, 3))
    tilted[..., 0], tilted[..., 2] = np.sin(np.radians(25)), np.cos(np.radians(25))
    depth = random.uniform(1, 4, shape)
    labels = random.integers(0, 3, shape)
    truth = {"segmentation": labels.copy(), "depth": depth.copy(), "normals": normals}
    truth["segmentation"][0, :2] = -1
    truth["depth"][0, :2] = 0
    wrong = labels.copy()
    wrong[:, -2:] = 3  # a quarter of the image; of the first, a third of what is not void
    predicted = {"segmentation": wrong, "depth": depth + 0.5, "normals": tilted}
    return DensePictures(
        random.random((*shape, 3)),
        {task: truth[task] for task in tasks},
        {task: predicted[task] for task in tasks},
        dense.NYUV2_CLASSES,
        "m",
    )


def test_truth_and_prediction_of_each_task_stand_side_by_side() -> None:
    given = pictures()
    figure = predictions(given, "a run")
    axes = np.array(figure.axes).reshape(2, 7)
    titles = [axis.get_title() for axis in axes[0]]
    assert titles == [
        "image", "segmentation", "predicted", "depth", "predicted", "normals", "predicted",
    ]  # fmt: skip
    for i, row in enumerate(axes):
        image, seg, seg_p, depth, depth_p, normals, normals_p = (
            np.ma.getdata(axis.images[0].get_array()) for axis in row
        )
        np.testing.assert_array_equal(image, given.images[i])
        assert seg.shape == seg_p.shape == (8, 12, 3)
        valid = given.truth["depth"][i] > 0
        np.testing.assert_array_equal(depth[valid], given.truth["depth"][i][valid])
        np.testing.assert_array_equal(depth_p, given.predicted["depth"][i])
        assert row[3].images[0].get_clim() == row[4].images[0].get_clim()
        np.testing.assert_allclose(normals, (given.truth["normals"][i] + 1) / 2)
        np.testing.assert_allclose(normals_p, (given.predicted["normals"][i] + 1) / 2)
    notes = [[axis.get_xlabel() for axis in row if axis.get_xlabel()] for row in axes]
    assert notes == [
        ["67 % right", "off by 0.5 m", "off by 25°"],
        ["75 % right", "off by 0.5 m", "off by 25°"],
    ]


def test_void_and_unmeasured_pixels_are_white_and_do_not_count() -> None:
    figure = predictions(pictures())
    axes = np.array(figure.axes).reshape(2, 7)
    segmentation = np.asarray(axes[0, 1].images[0].get_array())
    assert (segmentation[:2] == 1).all()
    assert not (segmentation[2:] == 1).all(axis=-1).any()
    depth = axes[0, 3].images[0].get_array()
    assert np.ma.getmaskarray(depth)[:2].all()


def test_the_legend_names_the_classes_that_occur() -> None:
    (legend,) = predictions(pictures()).legends
    assert [text.get_text() for text in legend.get_texts()] == list(dense.NYUV2_CLASSES[:4])
    assert not predictions(pictures(tasks=("depth",))).legends


def test_there_are_colours_for_all_classes_and_none_twice() -> None:
    assert len(_CLASS_COLOURS) == len(set(_CLASS_COLOURS)) >= len(dense.CITYSCAPES_CLASSES[19])


@pytest.mark.parametrize("kind", ["png", "svg", "jpg"])
def test_it_can_be_written(tmp_path: Path, kind: str) -> None:
    for name in ("a", "b"):
        save(predictions(pictures(1)), tmp_path / f"{name}.{kind}")
    first = (tmp_path / f"a.{kind}").read_bytes()
    assert first == (tmp_path / f"b.{kind}").read_bytes()
