"""Output of the commands, and their errors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import typer
from rich.console import Console

from .. import NonFiniteError
from ..benchmarks import DataError
from ..records.foreign import plain
from ..training import Arm, RunConfig, RunError


def say(console: Console, *lines: object) -> None:
    """Prints text as it is, without wrapping; further lines are indented."""
    console.print(*lines, sep="\n  ", highlight=False, markup=False, soft_wrap=True)


def say_levels(console: Console, wanted: Iterable[str], arms: Iterable[RunConfig | Arm]) -> None:
    """Names the methods and presets that are at the parameters only, if more was wanted."""
    found: dict[str, set[str]] = {}
    for arm in arms:
        found.setdefault(f"{arm.method}/{arm.sharpness}", set()).add(arm.level)
    if left := [name for name, levels in found.items() if not {*wanted} <= levels]:
        say(console, f"At the parameters only (see `samo list methods`): {', '.join(left)}.")


def complain(message: str, style: str = "red") -> None:
    """Prints a line on standard error."""
    errors = Console(stderr=True)
    errors.print(f"samo: {message}", style=style, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def reporting_errors() -> Iterator[Console]:
    """Reports errors of the user in one line and exits; other errors keep their traceback."""
    try:
        yield Console()
    except (RunError, DataError) as error:
        complain(str(error))
        raise typer.Exit(2) from error
    except OSError as error:  # a full disk, a name that is too long, or missing permission
        complain(plain(str(error)))
        raise typer.Exit(2) from error
    except NonFiniteError as error:
        complain(str(error))
        raise typer.Exit(1) from error
    except KeyboardInterrupt as error:
        complain("interrupted. Run the same command again to resume.", "yellow")
        raise typer.Exit(130) from error


def fail(failures: Mapping[str, str]) -> None:
    """Reports failed runs with their reasons and exits with status 1, if there are any."""
    for path, reason in failures.items():
        complain(f"{path} failed: {reason}")
    if failures:
        raise typer.Exit(1)
