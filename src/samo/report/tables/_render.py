"""Tables for the terminal, as Markdown and as CSV. The page renders them by its template."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.box import HEAVY_HEAD, SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table as RichTable

from ...records import write_text
from ._table import Cell, Table

_SHORT = 6  # letters of a head that stay on one line


def rich(table: Table, *, close: bool = False) -> RichTable:
    """Renders a table for the terminal; `close`: compact, with long heads broken and no frame."""
    made = RichTable(
        title=escape(table.title) or None,
        caption=escape(" ".join(table.notes)) or None,
        caption_justify="left",
        box=SIMPLE_HEAD if close else HEAVY_HEAD,
        show_edge=not close,
        padding=(0, 0) if close else (0, 1),
    )
    for head, textual in zip(table.heads, table.textual, strict=True):
        text = head.replace(" ", "\n") if close and len(head) > _SHORT else head
        made.add_column(escape(text), justify="left" if textual else "right", overflow="fold")
    for section in _sections(table):
        for row in section:
            texts = [escape(cell.text) for cell in row]
            made.add_row(*(text.replace(" ± ", "±") for text in texts) if close else texts)
        made.add_section()
    for row in table.quoted:
        label, *texts = [escape(cell.text) for cell in row]
        made.add_row(label.replace(" ", "\n") if close else label, *texts)
    return made


def fitting(tables: Sequence[Table], width: int) -> RichTable:
    """Renders the first table that fits a width, or else the last; all but the first compactly."""
    console = Console(width=10_000)
    for table, close in [(tables[0], False), *((table, True) for table in tables)]:
        made = rich(table, close=close)
        if Measurement.get(console, console.options, made).maximum <= width:
            break
    return made


def _sections(table: Table) -> Iterator[list[Sequence[Cell]]]:
    section: list[Sequence[Cell]] = []
    for row in table.rows:
        if table.grouped and section and section[-1][0] != row[0]:
            yield section
            section = []
        section.append(row)
    yield section


def to_markdown(table: Table) -> str:
    """Renders the cells of a table as Markdown, without title and notes."""
    rules = ["---" if textual else "---:" for textual in table.textual]
    return "\n".join(f"| {' | '.join(line)} |" for line in (table.heads, rules, *table.texts))


def write_lines(
    path: Path, lines: Iterable[Sequence[Any]], *, lineterminator: str = "\r\n"
) -> None:
    """Writes a CSV file atomically."""
    text = io.StringIO()
    csv.writer(text, lineterminator=lineterminator).writerows(lines)
    write_text(path, text.getvalue())


def to_csv(path: Path, table: Table, *, lineterminator: str = "\r\n") -> None:
    """Writes a table as CSV, with values as they are and not as they are shown."""
    lines = [table.heads, *([cell.datum for cell in row] for row in table.rows)]
    write_lines(path, lines, lineterminator=lineterminator)
