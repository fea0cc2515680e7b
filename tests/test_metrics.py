"""Δm against published tables and against cases worked out by hand."""

from __future__ import annotations

import re

import pytest

from samo.metrics import delta_m

# mIoU, pixel accuracy, absolute and relative depth error.
CITYSCAPES_STL = [74.01, 93.16, 0.0125, 27.77]
CITYSCAPES_UP = [True, True, False, False]
# The same, then angles: mean, median, within 11.25, 22.5 and 30 degrees.
NYU_STL = [38.30, 63.76, 0.6754, 0.2780, 25.01, 19.21, 30.14, 57.20, 69.15]
NYU_UP = [True, True, False, False, False, False, True, True, True]


@pytest.mark.parametrize(
    ("values", "published"),
    [
        ([73.77, 93.12, 0.0129, 27.44], 0.67),  # F-MGDA
        ([75.77, 93.67, 0.0144, 39.60], 13.65),  # F-PCGrad
        ([76.02, 93.72, 0.0134, 34.64], 7.25),  # F-CAGrad
        ([76.63, 93.76, 0.0124, 31.17], 1.87),  # F-IMTL
    ],
)
def test_cityscapes_as_published(values: list[float], published: float) -> None:
    # The absolute error is printed with three digits: ± 0.4 % of it, a quarter of that in Δm.
    assert delta_m(values, CITYSCAPES_STL, CITYSCAPES_UP) == pytest.approx(published, abs=0.11)


@pytest.mark.parametrize(
    ("values", "published"),
    [
        ([26.42, 58.78, 0.6078, 0.2353, 24.34, 18.45, 31.64, 58.86, 70.50], -0.33),  # F-MGDA
        ([40.05, 65.42, 0.5429, 0.2243, 27.38, 23.00, 23.47, 49.35, 62.74], 3.14),  # F-PCGrad
        ([40.93, 66.68, 0.5285, 0.2162, 25.43, 20.39, 27.99, 54.82, 67.56], -3.78),  # F-CAGrad
        ([40.42, 65.61, 0.5389, 0.2121, 25.03, 19.75, 28.90, 56.19, 68.72], -4.77),  # F-IMTL
    ],
)
def test_nyu_v2_as_published(values: list[float], published: float) -> None:
    assert delta_m(values, NYU_STL, NYU_UP) == pytest.approx(published, abs=0.02)


def test_the_sign_says_better_whichever_direction_a_metric_has() -> None:
    assert delta_m([50.0], [100.0], [True]) == 50.0
    assert delta_m([50.0], [100.0], [False]) == -50.0
    assert delta_m([100.0], [100.0], [True]) == 0.0


def test_names_decide_and_not_the_order() -> None:
    values = {"a": 1.0, "b": 4.0}
    baseline = {"b": 2.0, "a": 1.0}
    assert delta_m(values, baseline, {"b": False, "a": False}) == 50.0


@pytest.mark.parametrize(
    ("values", "baseline", "up", "message"),
    [
        ([1.0], [0.0], [True], "baseline[0] is 0"),
        ({"a": 1.0}, {"b": 1.0}, {"a": True}, "values and baseline must have the same metrics"),
        ([1.0], [1.0, 2.0], [True], "only one of them has 1"),
        ([1.0], [1.0], [True, True], "values and higher_is_better must have the same metrics"),
        ([], [], [], "at least one metric"),
        ([float("nan")], [1.0], [True], "values[0] must be finite; found nan"),
        ([1.0], [float("inf")], [True], "baseline[0] must be finite; found inf"),
    ],
)
def test_bad_input(values, baseline, up, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        delta_m(values, baseline, up)


def test_mappings_and_sequences_do_not_mix() -> None:
    with pytest.raises(TypeError, match="all mappings or all sequences"):
        delta_m({0: 1.0}, [1.0], [True])
