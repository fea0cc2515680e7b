"""``samo report``: one HTML page of all that lies in a directory."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ..records import write_atomically
from ..training import RunError
from ._arguments import Published, told


def report_(
    directory: Annotated[
        Path,
        typer.Argument(help="What `samo compare`, `sweep` or `train` wrote to: their --out."),
    ],
    out: Annotated[
        Path | None, typer.Option(help="The page. Default: report.html in the directory.")
    ] = None,
    published: Published = False,
) -> None:
    """Write one self-contained HTML page: tables, plots, and what every run was made with.

    Unfinished, failed and missing runs are shown as such, so it can be called at any time. The page
    makes no request, and can be sent to a colleague as it is.
    """  # noqa: DOC501 - this is the help
    # Matplotlib is for this only.
    from ..report.html import html_page

    console, errors = Console(), Console(stderr=True)
    with told(errors):
        page = html_page(directory, published=published)
        file = directory / "report.html" if out is None else out
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, partial(_write, page.html))
        except OSError as error:
            reason = f"{file} cannot be written ({error.strerror}); name another place by --out."
            raise RunError(reason) from error
        console.print(f"Runs: {page.runs or 'none'}.", highlight=False)
        for fault in page.faults:
            errors.print(f"samo: {fault}", style="yellow", markup=False, soft_wrap=True)
        console.print(f"written to {file}", highlight=False, markup=False, soft_wrap=True)


def _write(html: str, file: Path) -> None:
    # Whoever made the directory may have put a link there, to a file that is not to be lost.
    file.unlink(missing_ok=True)
    file.write_text(html, encoding="utf-8")
