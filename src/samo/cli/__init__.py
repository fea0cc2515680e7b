"""The command line: ``samo``."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import final


@final
class _Notes(logging.Handler):
    """Prints the log messages of the package, such as those of a benchmark about its files."""

    def emit(self, record: logging.LogRecord) -> None:
        # Looked up each time: while a progress bar is shown, this stream prints above it.
        print(self.format(record), file=sys.stderr)


def main() -> None:
    """Runs ``samo``; reports which extra to install if it is missing.

    Raises:
        ModuleNotFoundError: If a module of this package itself is missing.
    """
    try:
        from ._app import app
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        if missing == "samo":
            raise
        print(
            f"samo: the command line needs {missing}, which is not installed: "
            f'pip install "torch-samo[train]"',
            file=sys.stderr,
        )
        sys.exit(2)
    notes = logging.getLogger("samo")
    notes.setLevel(logging.INFO)
    notes.addHandler(_Notes())
    # For benchmarks given as `module:Class`. Last, so that it hides no installed module.
    sys.path.append(str(Path.cwd()))
    app(prog_name="samo")
