"""The table: one class for every output."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

NONE = "–"


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: The text that is shown.
        value: The value to sort by and to write to CSV; None if there is only text.
        mark: ``"best"`` for the best of a column, ``"wide"`` for long text, or the state of a run.
    """

    text: str = NONE
    value: Any = None
    mark: str = ""

    @property
    def key(self) -> str:
        """The key to sort by on the page; empty if there is nothing to show."""
        if self.text == NONE:
            return ""
        return self.text if self.value is None else str(self.value)

    @property
    def datum(self) -> Any:
        """The entry for a CSV file."""
        return None if self.text == NONE else self.text if self.value is None else self.value


def cell(value: Any, form: str = "", mark: str = "") -> Cell:
    """Formats a value: text as it is, a number by a format, None as "–"."""
    if value is None or isinstance(value, str):
        return Cell(value or NONE, mark=mark)
    return Cell(f"{value:{form}}", value, mark)


@dataclass(frozen=True)
class Table:
    """A table, to be printed, written to a file or shown on the page.

    Attributes:
        title: The title.
        heads: The titles of the columns.
        rows: The cells.
        quoted: Rows of published results, which stay at the bottom when the page sorts rows.
        notes: Explanations for the reader, in sentences.
        grouped: Whether rows that share their first cell belong together.
        id: The id on the page.
    """

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    quoted: Sequence[Sequence[Cell]] = ()
    notes: Sequence[str] = ()
    grouped: bool = False
    id: str = ""
    kind: Literal["table"] = "table"

    @classmethod
    def of_columns(cls, columns: Iterable[tuple[str, Iterable[Cell]]], **attributes: Any) -> Self:
        """Creates a table from (title, cells) of each column."""
        heads, cells = zip(*columns, strict=True)
        return cls(heads=heads, rows=list(zip(*cells, strict=True)), **attributes)

    @classmethod
    def of_values(
        cls, heads: Sequence[str], rows: Iterable[Iterable[Any]], title: str = ""
    ) -> Self:
        """Creates a table from plain values."""
        return cls(title, heads, [[cell(value) for value in row] for row in rows])

    @property
    def textual(self) -> list[bool]:
        """Which columns hold text; the others hold numbers."""
        return [
            any(row[i].text != NONE and row[i].value is None for row in self.rows)
            for i in range(len(self.heads))
        ]

    @property
    def texts(self) -> list[list[str]]:
        """The texts of all rows."""
        return [[cell.text for cell in row] for row in (*self.rows, *self.quoted)]
