"""The searches of sweeps."""

from __future__ import annotations

import csv
from collections.abc import Iterator

from ...records.foreign import UnusableError, plain, read_text
from ...records.scan import Findings
from ._blocks import NONE, Block, Cell, Section, Table, Words
from ._run_tables import counted

_MOST_ROWS, _MOST_COLUMNS = 2000, 40
_ABOUT = "Every setting that a sweep has tried, with its score on validation data."


def searches(found: Findings) -> Iterator[Section]:
    """Shows what each sweep has tried.

    Args:
        found: What was found.

    Yields:
        A section a sweep.
    """
    files = {
        directory: found.root / directory / "trials.csv"
        for directory in [*found.comparisons, *found.trials]
    }
    for i, (directory, file) in enumerate(files.items()):
        blocks: list[Block] = []
        if runs := found.trials.get(directory):
            blocks.append(Words([f"Runs of trials that are not compared: {counted(runs)}."]))
        if file.exists():
            try:
                blocks.append(_trials(read_text(file, found.root), f"trials-{i + 1}"))
            except (UnusableError, csv.Error) as error:
                found.left_out(file, error)
        elif runs:
            line = "The search is not over: there is no trials.csv yet."
            blocks.append(Words([line], "warning"))
        if blocks:
            where = "" if directory == "." else f": {directory}"
            yield Section(f"search-{i + 1}", f"Search{where}", blocks)


def _trials(text: str, name: str) -> Table:
    lines = list(csv.reader(text.splitlines()))
    if not lines:
        raise UnusableError("it is empty")
    heads = [plain(head, 60) for head in lines[0][:_MOST_COLUMNS]]
    rows = []
    for line in lines[1 : _MOST_ROWS + 1]:
        cells = [_cell(text) for text in line[: len(heads)]]
        rows.append(cells + [Cell(NONE)] * (len(heads) - len(cells)))
    more = len(lines) - 1 - len(rows)
    notes = [_ABOUT] + ([f"{more} more are not listed."] if more > 0 else [])
    return Table(name, "Trials", heads, rows, notes=notes)


def _cell(text: str) -> Cell:
    try:
        value = float(text)
    except ValueError:
        return Cell(plain(text) or NONE)
    return Cell(f"{value:.5g}", value)
