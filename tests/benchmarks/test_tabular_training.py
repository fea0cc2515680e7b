"""Training on tables, real ones among them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sklearn import datasets

from samo.benchmarks import Tabular
from samo.metrics import delta_m
from samo.training import RunError, configured, train
from tests.benchmarks.tables import TASKS, Row, houses, whole, write_csv


@pytest.mark.parametrize("sharpness", ["erm", "samo"])
def test_a_run_with_missing_labels(tmp_path: Path, sharpness: str) -> None:
    config = configured(
        benchmark="tabular",
        benchmark_options={
            "data": str(write_csv(tmp_path / "t.csv", houses())),
            "tasks": list(TASKS),
        },
        method="fairgrad",
        sharpness=sharpness,
        epochs=3,
        batch_size=3,  # so that tasks are absent from some batches
    )
    results = train(config, tmp_path / "run")
    assert results["tasks"] == list(TASKS)
    assert [record["epoch"] for record in results["history"]] == [1, 2, 3]
    for split in ("validation", "test"):
        scores = results["selected"][split]
        assert set(scores["price"]) == {"R²", "MAE", "RMSE", "loss"}
        assert set(scores["garden"]) == {"accuracy", "AUROC", "F1", "loss"}
        assert set(scores["heating"]) == {"accuracy", "macro F1", "loss"}
    first, last = (results["history"][i]["steps"] for i in (0, -1))
    assert sum(last[f"loss/{t}"] for t in TASKS) < sum(first[f"loss/{t}"] for t in TASKS)


def test_a_run_of_one_task(tmp_path: Path) -> None:
    """As a single-task baseline: the parameters of the other heads stay as they are."""
    config = configured(
        benchmark="tabular",
        benchmark_options={
            "data": str(write_csv(tmp_path / "t.csv", houses())),
            "tasks": "price,garden",
        },
        tasks=("garden",),
        epochs=1,
    )
    results = train(config, tmp_path / "run")
    assert list(results["selected"]["test"]) == ["garden"]


def test_an_invalid_file_ends_a_run_before_it_starts(tmp_path: Path) -> None:
    options = {"data": str(tmp_path / "no.csv"), "tasks": "y"}
    config = configured(benchmark="tabular", benchmark_options=options)
    with pytest.raises(RunError, match=r"benchmark 'tabular': .*no\.csv does not exist"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_decrease_of_a_negative_r_squared_counts_as_a_loss() -> None:
    """R² is the only metric here that can be negative: Δm must not count its decrease as a gain."""
    assert delta_m([-3.0], [-1.0], [True]) == pytest.approx(200)
    assert delta_m([1.0], [-1.0], [True]) == pytest.approx(-200)


def table_of(name: str) -> list[Row]:
    data = getattr(datasets, f"load_{name}")()
    return [
        {**dict(zip(data.feature_names, map(float, x), strict=True)), "target": y}
        for x, y in zip(data.data, data.target, strict=True)
    ]


@pytest.mark.parametrize(
    ("name", "tasks"),
    [
        ("wine", ["target", "alcohol"]),
        ("breast_cancer", ["target", "mean radius"]),
        ("diabetes", ["target", "bp"]),
    ],
)
def test_real_tables_are_learned_better_than_by_a_constant(
    tmp_path: Path, name: str, tasks: list[str]
) -> None:
    rows = table_of(name)
    for i, row in enumerate(rows):
        row[tasks[i % 2]] = None if i % 5 == 0 else row[tasks[i % 2]]
    path = write_csv(tmp_path / "t.csv", rows)
    config = configured(
        benchmark="tabular",
        benchmark_options={"data": str(path), "tasks": tasks},
        sharpness="gsam",
        epochs=12,
        lr=3e-3,
    )
    test = train(config, tmp_path / "run")["selected"]["test"]
    made = Tabular(data=path, tasks=tasks)
    for task, targets in zip(tasks, whole(made, "test")[2:], strict=True):
        if targets.is_floating_point():  # a constant has an R² of at most 0
            assert test[task]["R²"] > 15
        else:
            known = targets[targets >= 0]
            share = 100 * torch.bincount(known).max() / len(known)
            assert test[task]["accuracy"] > share + 10
