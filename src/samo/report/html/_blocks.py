"""What sections of the page are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from markupsafe import Markup

NONE = "–"


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: What it shows.
        value: What it is sorted by; the text if left out, and last if there is nothing to show.
        mark: ``"best"`` in its column, or a state of a run.
    """

    text: str
    value: float | str | None = None
    mark: str = ""

    @property
    def key(self) -> str:
        """What it is sorted by, as the page's script reads it."""
        if self.text == NONE:
            return ""
        return str(self.text if self.value is None else self.value)


def number(value: float | None, form: str = ".4g", mark: str = "") -> Cell:
    """Makes a cell of a number.

    Args:
        value: The number, if there is one.
        form: How it is written.
        mark: The cell's mark.

    Returns:
        The cell.
    """
    return Cell(NONE) if value is None else Cell(f"{value:{form}}", value, mark)


@dataclass(frozen=True)
class Table:
    """A table that can be sorted, and filtered where it is long.

    Attributes:
        id: Its name within the page.
        caption: What it shows.
        heads: The titles of its columns.
        rows: Its cells.
        quoted: Rows that stay below the others, whatever these are sorted by.
        notes: What should be known to read it.
    """

    id: str
    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    quoted: Sequence[Sequence[Cell]] = ()
    notes: Sequence[str] = ()
    kind: Literal["table"] = "table"

    @property
    def words(self) -> list[bool]:
        """Which columns hold words, and not numbers."""
        return [
            any(row[i].text != NONE and isinstance(row[i].value, str | None) for row in self.rows)
            for i in range(len(self.heads))
        ]

    @property
    def long(self) -> bool:
        """Whether it is worth a filter."""
        return len(self.rows) > 12


@dataclass(frozen=True)
class Picture:
    """A figure."""

    svg: Markup
    caption: str
    themed: bool = True
    kind: Literal["picture"] = "picture"


@dataclass(frozen=True)
class Words:
    """Paragraphs."""

    lines: Sequence[str]
    tone: Literal["", "note", "warning"] = ""
    kind: Literal["words"] = "words"


@dataclass(frozen=True)
class Code:
    """Text to copy."""

    text: str
    label: str
    kind: Literal["code"] = "code"


Block = Table | Picture | Words | Code


@dataclass
class Section:
    """A section of the page.

    Attributes:
        id: Its name within the page.
        title: Its title.
        blocks: What it shows.
        level: 2 for a comparison, or what concerns all of them; 3 for a part of one.
    """

    id: str
    title: str
    blocks: list[Block] = field(default_factory=list)
    level: int = 2
