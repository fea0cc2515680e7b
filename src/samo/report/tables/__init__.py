"""Tables: one class, rendered for the terminal, as Markdown, as CSV and on the page."""

from ._analyses import analyses_tables, spectra_table
from ._costs import cost_table, costs_markdown, write_costs_csv
from ._differences import (
    contrasts_table,
    difference_table,
    differences_table,
    format_difference,
    write_differences,
)
from ._render import fitting, rich, to_csv, to_markdown, write_lines
from ._results import markdown, results_table, rich_table, timings_table, write_csv
from ._runs import count_states, problems_table, run_tables
from ._table import NONE, Cell, Table, cell
from ._toy import toy_table, write_toy_csv

__all__ = [
    "NONE",
    "Cell",
    "Table",
    "analyses_tables",
    "cell",
    "contrasts_table",
    "cost_table",
    "costs_markdown",
    "count_states",
    "difference_table",
    "differences_table",
    "fitting",
    "format_difference",
    "markdown",
    "problems_table",
    "results_table",
    "rich",
    "rich_table",
    "run_tables",
    "spectra_table",
    "timings_table",
    "to_csv",
    "to_markdown",
    "toy_table",
    "write_costs_csv",
    "write_csv",
    "write_differences",
    "write_lines",
    "write_toy_csv",
]
