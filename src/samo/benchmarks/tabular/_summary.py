"""Summarises the columns of a file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ._columns import Numbers
from ._inputs import Inputs
from ._labels import Labels
from ._split import Rows
from ._table import TableFile

_SHOWN = 6


def summary(table: TableFile, tasks: Sequence[Labels], inputs: Inputs, rows: Rows) -> str:
    """Formats the detected or declared types, and the use of each column."""
    sizes = ", ".join(f"{len(chosen):,} {split}" for split, chosen in rows.items())
    without = table.n_rows - sum(map(len, rows.values()))
    lines = [f"{table.path}: {table.n_rows:,} rows ({sizes}{_also(without)})"]
    lines += [f"  task {labels.task}: {labels.kind}, {_labels(labels)}" for labels in tasks]
    if inputs.numeric:
        lines.append(f"  numeric inputs: {', '.join(inputs.numeric)}")
    if inputs.categorical:
        counted = (f"{name} ({n} values)" for name, n in inputs.categorical.items())
        lines.append(f"  categorical inputs: {', '.join(counted)}")
    if inputs.left_out:
        reasons = (f"{name} ({reason})" for name, reason in inputs.left_out.items())
        lines.append(f"  left out: {', '.join(reasons)}")
    lines.append('  To change a type: types={"column": "type"}.')
    return "\n".join(lines)


def _also(without: int) -> str:
    return f", {without:,} without any label" if without else ""


def _labels(labels: Labels) -> str:
    column = labels.column
    n = int(column.present.sum())
    count = f"{n:,} labels" + (f" of {len(column.keys):,}" if n < len(column.keys) else "")
    if isinstance(column, Numbers):
        return f"{count}, {np.nanmin(column.keys):g} to {np.nanmax(column.keys):g}"
    shares = np.bincount(column.keys[column.present]) / n
    shown = [f"{t} ({p:.0%})" for t, p in zip(column.levels[:_SHOWN], shares, strict=False)]
    more = len(column.levels) - len(shown)
    return f"{count}, {', '.join(shown)}" + (f" and {more} more" if more else "")
