"""Published results in the columns of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...benchmarks import PublishedTable, published
from ._rows import Column, Quoted, Summary


def with_published(summary: Summary) -> Summary:
    """Adds the published results of the benchmark, if there are any.

    They are taken from the tables with most of the comparison's metrics, or from all tables if none
    has any. A method that is in several tables of a paper is taken once.

    Args:
        summary: The comparison.

    Returns:
        The comparison with published results.
    """
    tables = published(summary.benchmark)
    keys = {column.key for column in summary.columns}
    matches = {t.name: len(keys & {(c.task, c.metric) for c in t.columns}) for t in tables}
    most = max(matches.values(), default=0)
    quoted: list[Quoted] = []
    sources: list[str] = []
    seen: set[tuple[str, str]] = set()
    for table in (table for table in tables if matches[table.name] == most):
        rows = _rows(table, summary.columns, len(sources))
        new = [row for row in rows if (table.paper, row.label) not in seen]
        if new:
            sources.append(table.source + (f". {table.remark}" if table.remark else "."))
            quoted += new
            seen |= {(table.paper, row.label) for row in new}
    return replace(summary, quoted=tuple(quoted), sources=tuple(sources))


def _rows(table: PublishedTable, columns: Sequence[Column], source: int) -> list[Quoted]:
    rows = []
    for label in table.rows:
        found = {column.key: table.value(label, *column.key) for column in columns}
        average, delta_m = (table.value(label, "", name) for name in ("average", "Δm"))
        metrics = {key: str(value) for key, value in found.items() if value is not None}
        if metrics or average is not None or delta_m is not None:
            parts = (None if value is None else str(value) for value in (average, delta_m))
            rows.append(Quoted(label, source, metrics, *parts))
    return rows
