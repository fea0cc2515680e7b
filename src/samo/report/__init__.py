"""Tables and figures from the runs on disk."""

from ._analysis_plots import cosines, estimators, sharpness, spectrum
from ._cost import memory_figure, time_figure
from ._cost_tables import cost_table, write_costs
from ._difference_tables import difference_table
from ._feature_plots import features
from ._history_plots import conflicts, gradient_norms, task_weights
from ._plane_plots import loss_planes
from ._plots import delta_m, learning_curves, rho_grid
from ._predictions import DensePictures, predictions
from ._rows import Column, Difference, Entry, Quoted, Row, Spread, Summary
from ._summary import chosen_by_sweep, read, summarize
from ._tables import markdown, rich_table, write_csv
from ._toy import landscape, loss_space
from ._toy_tables import toy_table, write_toy
from ._write import save, write

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
    "conflicts",
    "cosines",
    "cost_table",
    "delta_m",
    "difference_table",
    "estimators",
    "features",
    "gradient_norms",
    "landscape",
    "learning_curves",
    "loss_planes",
    "loss_space",
    "markdown",
    "memory_figure",
    "predictions",
    "read",
    "rho_grid",
    "rich_table",
    "save",
    "sharpness",
    "spectrum",
    "summarize",
    "task_weights",
    "time_figure",
    "toy_table",
    "write",
    "write_costs",
    "write_csv",
    "write_toy",
]
