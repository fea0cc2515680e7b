"""``samo report``: one HTML page of all runs in a directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..records import write_text, writing
from ._console import complain, reporting_errors, say
from ._run_options import Contrasts, Published


def report_(
    directory: Annotated[
        Path,
        typer.Argument(help="The --out of `samo compare`, `sweep` or `train`."),
    ],
    out: Annotated[
        Path | None, typer.Option(help="The page. Default: report.html in the directory.")
    ] = None,
    published: Published = False,
    contrast: Contrasts = [],  # noqa: B006 - typer copies it
) -> None:
    """Write one self-contained HTML page: tables, plots, and the configuration of every run.

    Unfinished, failed and missing runs are marked, so you can call it at any time. The page is a
    single file that makes no network requests, ready to be shared.
    """
    # Matplotlib is needed here only.
    from ..report.page import html_page

    with reporting_errors() as console:
        page = html_page(directory, published=published, contrasts=contrast)
        file = directory / "report.html" if out is None else out
        with writing(file):
            file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, page.html)
        say(console, f"Runs: {page.runs or 'none'}.")
        for fault in page.faults:
            complain(fault, "yellow")
        say(console, f"written to {file}")
