"""Your own table, CSV or Parquet, with any columns as tasks."""

from ._benchmark import Tabular

__all__ = ["Tabular"]
