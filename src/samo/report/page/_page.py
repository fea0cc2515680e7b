"""The page: its sections, rendered as HTML."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ..._version import __version__
from ...records import RunError
from ...records.foreign import plain
from ...records.scan import Findings, scan
from ...records.schema import sides
from ..tables import count_states, problems_table, run_tables
from ._blocks import Section, Words
from ._citations import citations
from ._comparison import comparison
from ._groups import groups
from ._searches import searches


@dataclass(frozen=True)
class Page:
    """A report.

    Attributes:
        html: The whole page.
        runs: The number of runs in each state, as text.
        faults: The parts that could not be shown, with reasons.
    """

    html: str
    runs: str
    faults: tuple[str, ...]


def html_page(
    directory: Path | str, *, published: bool = False, contrasts: Sequence[str] = ()
) -> Page:
    """Creates a page of a comparison, a sweep, a run, or a directory with several of these.

    Unfinished, failed and missing runs are shown as such; invalid files are left out and listed.
    The directory is untrusted: none of its code is run, nothing outside it is read, and all text is
    escaped. The page makes no network requests.

    Args:
        directory: The directory.
        published: Whether to show published results.
        contrasts: Contrasts to show, besides those that the comparisons name.

    Returns:
        The page.

    Raises:
        RunError: If there is no such directory, it holds no run, or a contrast is malformed.
    """
    for contrast in contrasts:
        sides(contrast)
    root = Path(directory)
    try:
        there = root.is_dir()
    except OSError as error:  # for instance, the name is too long
        shown = plain(str(directory), 80)
        raise RunError(f"{shown} cannot be read: {error.strerror}.") from error
    if not there:
        raise RunError(f"{directory} is not a directory: give one that holds runs.")
    found = scan(root)
    if not found.runs and not found.problems:
        raise RunError(
            f"{directory} holds no run: give the --out of `samo train`, `compare` or `sweep`."
        )
    faults: list[str] = []
    sections = list(_sections(found, faults, contrasts, published=published))
    title = plain(root.resolve().name, 80) or "runs"
    return Page(_render(title, found, sections), count_states(found.runs), tuple(faults))


def _sections(
    found: Findings, faults: list[str], contrasts: Sequence[str], *, published: bool
) -> Iterator[Section]:
    """Creates all sections. One that cannot be made is replaced by a warning."""

    def guarded(title: str, build: Callable[[], Iterator[Section]]) -> Iterator[Section]:
        try:
            yield from build()
        except Exception as error:  # untrusted data: the other sections must be shown
            reason = plain(f"{title} cannot be shown: {type(error).__name__}: {error}")
            faults.append(reason)
            yield Section(f"fault-{len(faults)}", title, [Words([reason], "warning")])

    parts = groups(found, contrasts)
    for i, group in enumerate(parts):
        prefix = f"c{i + 1}"
        build = partial(comparison, group, found, prefix, published=published)
        yield from guarded(group.title, build)
    yield from guarded("Searches", partial(searches, found))
    yield from guarded("Runs", partial(_runs, found))
    yield from guarded("Citation", partial(citations, found, parts))
    yield from guarded("Left out", partial(_left_out, found))


def _runs(found: Findings) -> Iterator[Section]:
    if found.runs:
        yield Section("runs", "Runs, configuration and environment", [*run_tables(found.runs)])


def _left_out(found: Findings) -> Iterator[Section]:
    if found.problems:
        yield Section("problems", "Left out", [problems_table(found.problems)])


def _render(title: str, found: Findings, sections: list[Section]) -> str:
    here = files(__package__)
    script = here.joinpath("script.js").read_text(encoding="utf-8")
    style = here.joinpath("style.css").read_text(encoding="utf-8")
    jinja = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    states = count_states(found.runs)
    return jinja.from_string(here.joinpath("page.html").read_text(encoding="utf-8")).render(
        title=title,
        sections=sections,
        states=states or "no run",
        whole=all(run.state == "finished" for run in found.runs) and bool(found.runs),
        problems=len(found.problems),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
        # Both are part of this package. The page runs only the script with this digest.
        script=Markup(script),
        style=Markup(style),
        digest=digest,
    )
