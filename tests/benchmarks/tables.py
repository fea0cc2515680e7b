"""Tables for the tests of ``tabular``, and a naive reader of them."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from samo.benchmarks import Split, Tabular

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
Row = dict[str, Any]


def write_csv(path: Path, rows: Sequence[Row], **options: Any) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, **options)
        writer.writerow(rows[0])
        values = ([row[name] for name in rows[0]] for row in rows)
        writer.writerows(["" if v is None else v for v in row] for row in values)
    return path


def write_parquet(path: Path, rows: Sequence[Row], types: Mapping[str, Any] | None = None) -> Path:
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    arrays = {name: pa.array(v, type=(types or {}).get(name)) for name, v in columns.items()}
    pq.write_table(pa.table(arrays), path)
    return path


def whole(benchmark: Tabular, split: Split, tasks: Sequence[str] | None = None) -> list[Tensor]:
    """Concatenates the small batches of a split: numbers, categories, targets."""
    batches = list(benchmark.batches(split, tasks or benchmark.tasks, 7))
    return [torch.cat(tensors) for tensors in zip(*batches, strict=True)]


def houses(n: int = 60) -> list[Row]:
    """Rows with every type of column, and labels missing here and there."""
    return [
        {
            "area": None if i % 11 == 5 else 40.0 + 7 * i % 50 + i / 8,
            "city": None if i % 13 == 7 else ("Bonn", "Köln", "Ulm")[i % 3],
            "price": None if i % 5 == 4 else 1000.0 + 13 * i % 97,
            "garden": None if i % 7 == 6 else ("no", "yes")[i // 3 % 2],
            "heating": None if i % 4 == 3 else ("gas", "oil", "wood")[(i * i + i // 30) % 3],
        }
        for i in range(n)
    ]


TASKS = ("price", "garden", "heating")
