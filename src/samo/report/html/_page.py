"""The page: its sections, and how they become HTML."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ..._version import __version__
from ...records.foreign import plain
from ...records.scan import Findings, scan
from ...training import RunError
from ._blocks import Section, Words
from ._citations import citations
from ._comparison import comparison
from ._groups import groups
from ._run_tables import (
    counted,
    environment,
    environment_table,
    problem_table,
    run_table,
    shared_table,
)
from ._searches import searches


@dataclass(frozen=True)
class Page:
    """A report.

    Attributes:
        html: The page, whole.
        runs: How many runs it shows, by state, in words.
        faults: What could not be shown, in words.
    """

    html: str
    runs: str
    faults: tuple[str, ...]


def html_page(directory: Path | str, *, published: bool = False) -> Page:
    """Makes a page of a comparison, a sweep, a run, or a directory with several of these.

    What is unfinished, failed or missing is shown as such; files that are not what they should be
    are named and left out. Everything there is data: no code of the directory is run, nothing
    outside of it is read, and all text is escaped. The page makes no request.

    Args:
        directory: The directory.
        published: Whether to show the papers' results beside.

    Returns:
        The page.

    Raises:
        RunError: If there is no such directory, or nothing of this package in it.
    """
    root = Path(directory)
    if not root.is_dir():
        raise RunError(f"{directory} is not a directory: name one that holds runs.")
    found = scan(root)
    if not found.runs and not found.problems:
        raise RunError(
            f"{directory} holds no run: name the --out of `samo train`, `compare` or `sweep`."
        )
    faults: list[str] = []
    sections = list(_sections(found, faults, published=published))
    title = plain(root.resolve().name, 80) or "runs"
    return Page(_render(title, found, sections), counted(found.runs), tuple(faults))


def _sections(found: Findings, faults: list[str], *, published: bool) -> Iterator[Section]:
    """All sections. One that cannot be made of what was found says so, and the others go on."""

    def guarded(title: str, build: Callable[[], Iterator[Section]]) -> Iterator[Section]:
        try:
            yield from build()
        except Exception as error:  # somebody else's data; whatever it is, the others are shown
            reason = plain(f"{title} cannot be shown: {type(error).__name__}: {error}")
            faults.append(reason)
            yield Section(f"fault-{len(faults)}", title, [Words([reason], "warning")])

    parts = groups(found)
    for i, group in enumerate(parts):
        prefix = f"c{i + 1}"
        build = partial(comparison, group, found, prefix, published=published)
        yield from guarded(group.title, build)
    yield from guarded("Searches", partial(searches, found))
    yield from guarded("Runs", partial(_runs, found))
    yield from guarded("Citation", partial(citations, found, parts))
    yield from guarded("Left out", partial(_left_out, found))


def _runs(found: Findings) -> Iterator[Section]:
    runs = found.runs
    if not runs:
        return
    environments = [environment(run) for run in runs]
    yield Section(
        "runs",
        "Runs, configuration and environment",
        [
            run_table(runs, environments),
            shared_table(runs),
            *([environment_table(environments)] if any(environments) else []),
        ],
    )


def _left_out(found: Findings) -> Iterator[Section]:
    if found.problems:
        yield Section("problems", "Left out", [problem_table(found)])


def _render(title: str, found: Findings, sections: list[Section]) -> str:
    here = files(__package__)
    script = here.joinpath("script.js").read_text(encoding="utf-8")
    style = here.joinpath("style.css").read_text(encoding="utf-8")
    jinja = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    states = counted(found.runs)
    return jinja.from_string(here.joinpath("page.html").read_text(encoding="utf-8")).render(
        title=title,
        sections=sections,
        states=states or "no run",
        whole=all(run.state == "finished" for run in found.runs) and bool(found.runs),
        problems=len(found.problems),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
        # Both are this package's own. Only the script with this digest runs on the page.
        script=Markup(script),
        style=Markup(style),
        digest=digest,
    )
