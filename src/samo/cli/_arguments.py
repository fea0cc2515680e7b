"""What all commands do about errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

from .. import NonFiniteError
from ..training import RunError


@contextmanager
def told(console: Console) -> Iterator[None]:
    """Says in one line what the user can put right; errors of the program keep their traceback.

    Args:
        console: Where to.

    Yields:
        Nothing.

    Raises:
        Exit: With a status, after the line.
    """
    try:
        yield
    except RunError as error:
        console.print(f"samo: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error
    except NonFiniteError as error:
        console.print(f"samo: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt as error:
        console.print("samo: interrupted. The same command goes on from here.", style="yellow")
        raise typer.Exit(130) from error
