"""From a file to batches, compared with a naive reader of the same rows."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from sklearn import metrics as sk
from torch import Generator, Tensor

from samo.benchmarks import Tabular
from samo.training._evaluate import evaluate
from tests.benchmarks.tables import SPLITS, TASKS, Row, houses, whole, write_csv, write_parquet

few = settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
# With few rows there are few different prices, which would be taken for classes.
TYPES = {"price": "regression", "x": "numeric"}
numbers = st.floats(-1e6, 1e6, allow_subnormal=False).map(lambda x: round(x, 3))
rows_of_values = st.fixed_dictionaries(
    {
        "split": st.sampled_from(SPLITS),
        "x": st.none() | numbers,
        "city": st.none() | st.sampled_from(["Bonn", "Köln", 'a, "b"\nc', "Ulm"]),
        "price": st.none() | numbers,
        "garden": st.none() | st.sampled_from(["no", "yes"]),
        "heating": st.none() | st.sampled_from(["gas", "oil", "wood"]),
    }
)


def valid(drawn: list[Row]) -> list[Row]:
    """Rows with an unmistakable number each; in each split there are labels of all kinds."""
    sure = [
        {"split": s, "x": i, "city": "Ulm", "price": i, "garden": g, "heating": h}
        for s in SPLITS
        for i, (g, h) in enumerate([("no", "gas"), ("yes", "oil"), ("no", "wood")])
    ]
    rows = [*sure[:5], *drawn, *sure[5:]]
    return [{"key": 3 * i + i % 2, **row} for i, row in enumerate(rows)]


@few
@given(st.lists(rows_of_values, max_size=30))
def test_batches_have_the_content_of_the_file(tmp_path: Path, drawn: list[Row]) -> None:
    rows = valid(drawn)
    made = Tabular(
        data=write_csv(tmp_path / "t.csv", rows),
        tasks=TASKS,
        types=TYPES,
        split_column="split",
        seed=len(drawn),
    )
    labelled = [row for row in rows if any(row[task] is not None for task in TASKS)]
    train = [row for row in labelled if row["split"] == "train"]

    def scaled(name: str, row: Row) -> float:
        known = [r[name] for r in train if r[name] is not None]
        return (row[name] - statistics.fmean(known)) / statistics.pstdev(known)

    seen = {row["city"] for row in train}
    index: dict[Any, set[int]] = {}
    for split in SPLITS:
        x, cities, price, garden, heating = whole(made, split)
        expected = {scaled("key", row): row for row in labelled if row["split"] == split}
        assert len(x) == len(expected)
        for i in range(len(x)):
            # The key tells which row it is.
            key = min(expected, key=lambda k: abs(k - float(x[i, 0])))
            row = expected.pop(key)
            assert float(x[i, 0]) == pytest.approx(key, abs=1e-5)
            assert float(x[i, 1]) == pytest.approx(
                0 if row["x"] is None else scaled("x", row), 1e-4, 1e-5
            )
            if any(r["x"] is None for r in train):
                assert float(x[i, 2]) == (row["x"] is None)
            if len(seen) > 1:
                assert (int(cities[i, 0]) == 0) == (row["city"] not in seen)
                index.setdefault(row["city"] if row["city"] in seen else "?", set()).add(
                    int(cities[i, 0])
                )
            if row["price"] is None:
                assert math.isnan(float(price[i]))
            else:
                assert float(price[i]) == pytest.approx(scaled("price", row), 1e-4, 1e-5)
            assert int(garden[i]) == {None: -1, "no": 0, "yes": 1}[row["garden"]]
            assert int(heating[i]) == {None: -1, "gas": 0, "oil": 1, "wood": 2}[row["heating"]]
    assert all(len(codes) == 1 for codes in index.values())
    assert len({min(codes) for codes in index.values()}) == len(index)


@few
@given(st.lists(rows_of_values, max_size=20), st.lists(rows_of_values, max_size=20))
def test_training_data_does_not_depend_on_validation_and_test_rows(
    tmp_path: Path, drawn: list[Row], others: list[Row]
) -> None:
    train = [row for row in valid(drawn) if row["split"] == "train"]

    def training_data(rest: list[Row]) -> list[Tensor]:
        rest = [row for row in valid(rest) if row["split"] != "train"]
        made = Tabular(
            data=write_csv(tmp_path / "t.csv", [*train, *rest]),
            tasks=TASKS,
            types=TYPES,
            split_column="split",
        )
        scales = [metric.scale for of in made.metrics.values() for metric in of.values()]
        return [*whole(made, "train"), torch.tensor(scales)]

    for a, b in zip(training_data(drawn), training_data(others), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


@few
@given(st.lists(rows_of_values, max_size=20), st.integers(0, 3))
def test_csv_and_parquet_agree(tmp_path: Path, drawn: list[Row], seed: int) -> None:
    rows = [
        {k: float(v) if k in {"x", "price"} and v is not None else v for k, v in row.items()}
        for row in valid(drawn)
    ]
    files = [
        write_csv(tmp_path / "t.csv", rows),
        write_csv(tmp_path / "semicolon.csv", rows, delimiter=";"),
        write_csv(tmp_path / "tab.tsv", rows, delimiter="\t", lineterminator="\n"),
        write_parquet(tmp_path / "t.parquet", rows),
    ]
    made = [Tabular(data=f, tasks=TASKS, split_column="split", seed=seed) for f in files]
    for split in SPLITS:
        first, *others = [whole(benchmark, split) for benchmark in made]
        for other in others:
            for a, b in zip(first, other, strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    assert len({b.summary.partition(":")[2] for b in made}) == 1


@given(
    n=st.integers(5, 200),
    classes=st.integers(2, 4),
    missing=st.floats(0, 0.5),
    seed=st.integers(0, 5),
)
@few
def test_the_split_is_complete_disjoint_and_in_proportion(
    tmp_path: Path, n: int, classes: int, missing: float, seed: int
) -> None:
    random = np.random.default_rng(n)
    # Five rows of each class at least, so that each split has one.
    kinds = ["abcd"[i % classes] for i in range(5 * classes)] + random.choice(
        [*"abcd"[:classes]], n
    ).tolist()
    rows: list[Row] = [
        {
            "x": float(i * i),
            "kind": None if i >= 5 * classes and random.random() < missing else kind,
        }
        for i, kind in enumerate(kinds)
    ]
    path = write_csv(tmp_path / "t.csv", rows)
    made = Tabular(data=path, tasks="kind", seed=seed)
    share = {"train": 0.6, "validation": 0.2, "test": 0.2}
    labelled = [row for row in rows if row["kind"] is not None]
    counts = Counter(row["kind"] for row in labelled)
    keys: list[float] = []
    for split in SPLITS:
        x, _, kind = whole(made, split)
        assert len(x) == pytest.approx(share[split] * len(labelled), abs=1.5)
        for code, name in enumerate("abcd"[:classes]):
            assert int((kind == code).sum()) == pytest.approx(share[split] * counts[name], abs=2.5)
        keys += x[:, 0].tolist()
    assert len(set(keys)) == len(keys) == len(labelled)
    again, other = (
        Tabular(data=path, tasks="kind", seed=seed),
        Tabular(data=path, tasks="kind", seed=9),
    )
    assert torch.equal(whole(again, "test")[0], whole(made, "test")[0])
    assert not torch.equal(whole(other, "test")[0], whole(made, "test")[0])


def test_a_rare_class_of_any_task_is_in_every_split(tmp_path: Path) -> None:
    rows = [
        {
            "x": i % 17,
            "often": i % 2,
            "seldom": int(i % 40 == 7),
            "hardly": i if i % 20 == 3 else None,
        }
        for i in range(200)
    ]
    for seed in range(5):
        made = Tabular(
            data=write_csv(tmp_path / "t.csv", rows),
            tasks=["often", "seldom", "hardly"],
            types={"hardly": "regression"},
            seed=seed,
        )
        for split, n in zip(SPLITS, (3, 1, 1), strict=True):
            *_, seldom, hardly = whole(made, split)
            assert int((seldom == 1).sum()) == n
            assert int((~hardly.isnan()).sum()) >= 2


def test_a_split_column_without_validation_rows(tmp_path: Path) -> None:
    rows = [{**row, "part": "test" if i % 4 == 0 else "Train"} for i, row in enumerate(houses(80))]
    made = Tabular(data=write_csv(tmp_path / "t.csv", rows), tasks=TASKS, split_column="part")
    sizes = {split: len(whole(made, split)[0]) for split in SPLITS}
    labelled = [row for row in rows if any(row[task] is not None for task in TASKS)]
    assert sizes["test"] == sum(row["part"] == "test" for row in labelled)
    assert sizes["validation"] == pytest.approx(0.2 * (len(labelled) - sizes["test"]), abs=1)
    assert sum(sizes.values()) == len(labelled)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Tabular:
    return Tabular(
        data=write_csv(tmp_path_factory.mktemp("t") / "houses.csv", houses()), tasks=TASKS
    )


def test_batches_have_labels_of_the_requested_tasks(made: Tabular) -> None:
    for task in TASKS:
        column = 2 + TASKS.index(task)
        target = whole(made, "train", [task])[column]
        all_targets = whole(made, "train")[column]
        known = ~target.isnan() if task == "price" else target >= 0
        assert known.all()
        assert len(target) == int(
            (~all_targets.isnan() if task == "price" else all_targets >= 0).sum()
        )


def test_an_epoch_has_every_example_once_in_the_generator_s_order(made: Tabular) -> None:
    generator = Generator().manual_seed(0)
    batches = made.batches("train", TASKS, 8, generator)
    epochs = [torch.cat([x for x, *_ in batches]) for _ in range(2)]
    ordered = whole(made, "train")[0]
    assert not torch.equal(epochs[0], epochs[1])
    for epoch in epochs:
        assert sorted(map(tuple, epoch.tolist())) == sorted(map(tuple, ordered.tolist()))
    generator.manual_seed(0)
    assert torch.equal(torch.cat([x for x, *_ in batches]), epochs[0])


def test_losses_are_means_over_the_labelled_rows(made: Tabular) -> None:
    torch.manual_seed(0)
    model = made.model()
    absent = 0
    for batch in made.batches("train", TASKS, 2):
        x, c, price, garden, heating = batch
        losses = made.losses(model, batch, TASKS)
        expected: dict[str, list[Tensor]] = {task: [] for task in TASKS}
        for i in range(len(x)):
            out = model(x[i : i + 1], c[i : i + 1], TASKS)
            if not math.isnan(price[i]):
                expected["price"].append((out["price"][0] - price[i]) ** 2)
            if garden[i] >= 0:
                sign = 1 if garden[i] == 1 else -1
                expected["garden"].append(-F.logsigmoid(sign * out["garden"][0]))
            if heating[i] >= 0:
                expected["heating"].append(-out["heating"][0].log_softmax(0)[heating[i]])
        for task, terms in expected.items():
            assert (task in losses) == bool(terms)
            if terms:
                torch.testing.assert_close(losses[task], torch.stack(terms).mean())
            else:
                absent += 1
    assert absent > 0
    assert list(made.losses(model, batch, [TASKS[0]])) in ([TASKS[0]], [])


def test_metrics_agree_with_scikit_learn_in_the_units_of_the_columns(tmp_path: Path) -> None:
    rows = houses(200)
    made = Tabular(data=write_csv(tmp_path / "t.csv", rows), tasks=TASKS)
    torch.manual_seed(1)
    model = made.model()
    scores, _ = evaluate(made, model, TASKS, made.batches("test", TASKS, 9), torch.device("cpu"))
    x, c, price, garden, heating = whole(made, "test")
    out = {task: tensor.detach().double() for task, tensor in model(x, c, TASKS).items()}
    known = ~price.isnan()
    # Back to the unit of the file, by the range of all labels.
    in_file = sorted({row["price"] for row in rows if row["price"] is not None})
    standardised = torch.cat([whole(made, split, ["price"])[2] for split in SPLITS])
    scale = (in_file[-1] - in_file[0]) / float(standardised.max() - standardised.min())
    true, found = scale * price[known].double(), scale * out["price"][known]
    assert scores["price"]["R²"] == pytest.approx(100 * sk.r2_score(true, found), 1e-3)
    assert scores["price"]["MAE"] == pytest.approx(sk.mean_absolute_error(true, found), 1e-3)
    assert scores["price"]["RMSE"] == pytest.approx(sk.root_mean_squared_error(true, found), 1e-3)
    known = garden >= 0
    true, logits = garden[known], out["garden"][known]
    assert scores["garden"]["accuracy"] == pytest.approx(100 * sk.accuracy_score(true, logits > 0))
    assert scores["garden"]["AUROC"] == pytest.approx(100 * sk.roc_auc_score(true, logits))
    assert scores["garden"]["F1"] == pytest.approx(100 * sk.f1_score(true, logits > 0))
    known = heating >= 0
    true, found = heating[known], out["heating"][known].argmax(1)
    assert scores["heating"]["accuracy"] == pytest.approx(100 * sk.accuracy_score(true, found))
    assert scores["heating"]["macro F1"] == pytest.approx(
        100 * sk.f1_score(true, found, average="macro")
    )


def test_logits_in_0_to_1_are_not_treated_as_probabilities(made: Tabular) -> None:
    meter = made.metrics["garden"]["accuracy"].make()
    meter.update(torch.tensor([0.1, 0.2, 0.9]), torch.tensor([1, 1, 0]))
    assert float(meter.compute()) == pytest.approx(2 / 3)


def test_the_first_rows_of_a_split_have_every_class(tmp_path: Path) -> None:
    rows = [{"x": i % 7, "rare": int(i % 50 == 3), "y": i % 9 / 4} for i in range(500)]
    made = Tabular(data=write_csv(tmp_path / "t.csv", rows), tasks="rare,y")
    for split in SPLITS:
        *_, rare, y = next(iter(made.batches(split, made.tasks, 4)))
        assert set(rare.tolist()) == {0, 1}
        assert len(set(y.tolist())) > 1


def test_a_category_that_does_not_occur_in_training_adds_nothing(tmp_path: Path) -> None:
    rows = [
        {**row, "split": ("train", "test", "validation")[i // 20]}
        for i, row in enumerate(houses(60))
    ]
    for row in rows[20:]:
        row["city"] = "Rom"
    made = Tabular(data=write_csv(tmp_path / "t.csv", rows), tasks=TASKS, split_column="split")
    x, cities, *_ = whole(made, "test")
    assert (cities == 0).all()
    model = made.model()
    embedded = model.get_submodule("embedding")(cities)
    assert not embedded.any()
    assert model(x, cities, ["heating"])["heating"].isfinite().all()
