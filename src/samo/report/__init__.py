"""Tables and figures from the runs on disk."""

from ._difference_tables import difference_table
from ._plots import delta_m, learning_curves, rho_grid
from ._predictions import DensePictures, predictions
from ._rows import Column, Difference, Entry, Quoted, Row, Spread, Summary
from ._summary import chosen_by_sweep, read, summarize
from ._tables import markdown, rich_table, write_csv
from ._toy import landscape, loss_space
from ._toy_tables import toy_table, write_toy
from ._write import write

__all__ = [
    "Column",
    "DensePictures",
    "Difference",
    "Entry",
    "Quoted",
    "Row",
    "Spread",
    "Summary",
    "chosen_by_sweep",
    "delta_m",
    "difference_table",
    "landscape",
    "learning_curves",
    "loss_space",
    "markdown",
    "predictions",
    "read",
    "rho_grid",
    "rich_table",
    "summarize",
    "toy_table",
    "write",
    "write_csv",
    "write_toy",
]
