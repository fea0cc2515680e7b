"""A comparison in numbers: its rows, the differences between presets, published results."""

from ._differences import by_seed
from ._published import with_published
from ._rows import Column, Difference, Entry, Quoted, Row, Score, Spread, Summary, first_metrics
from ._summarize import chosen_by_sweep, format_choices, read, summarize

__all__ = [
    "Column",
    "Difference",
    "Entry",
    "Quoted",
    "Row",
    "Score",
    "Spread",
    "Summary",
    "by_seed",
    "chosen_by_sweep",
    "first_metrics",
    "format_choices",
    "read",
    "summarize",
    "with_published",
]
