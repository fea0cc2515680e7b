"""Tables and figures from the runs on disk."""

from ._plots import delta_m, learning_curves, rho_grid
from ._predictions import DensePictures, predictions
from ._rows import Column, Entry, Row, Spread, Summary
from ._summary import read, summarize
from ._tables import markdown, rich_table, write_csv
from ._toy import landscape, loss_space
from ._toy_tables import toy_table, write_toy
from ._write import write

__all__ = [
    "Column",
    "DensePictures",
    "Entry",
    "Row",
    "Spread",
    "Summary",
    "delta_m",
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
