"""The searches of sweeps."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import zip_longest

from ...records.foreign import UnusableError, plain, read_text
from ...records.scan import Findings
from ..tables import Cell, Table, cell, count_states
from ._blocks import Block, Section, Words

_MOST_ROWS, _MOST_COLUMNS = 2000, 40
_ABOUT = "Every setting that the sweep has tried, with its score on validation data."


def searches(found: Findings) -> Iterator[Section]:
    """Shows the trials of each sweep, a section per sweep."""
    files = {
        directory: found.root / directory / "trials.csv"
        for directory in [*found.comparisons, *found.trials]
    }
    for i, (directory, file) in enumerate(files.items()):
        blocks: list[Block] = []
        if runs := found.trials.get(directory):
            blocks.append(Words([f"Runs of trials that are not compared: {count_states(runs)}."]))
        if file.exists():
            try:
                blocks.append(_trials(read_text(file, found.root), f"trials-{i + 1}"))
            except (UnusableError, csv.Error) as error:
                found.left_out(file, error)
        elif runs:
            line = "The search has not finished: there is no trials.csv yet."
            blocks.append(Words([line], "warning"))
        if blocks:
            where = "" if directory == "." else f": {directory}"
            yield Section(f"search-{i + 1}", f"Search{where}", blocks)


def _trials(text: str, name: str) -> Table:
    lines = list(csv.reader(text.splitlines()))
    if not lines:
        raise UnusableError("it is empty")
    heads = [plain(head, 60) for head in lines[0][:_MOST_COLUMNS]]
    shown = lines[1 : _MOST_ROWS + 1]
    rows = [[_cell(text) for text, _ in zip_longest(line[: len(heads)], heads)] for line in shown]
    more = len(lines) - 1 - len(rows)
    notes = [_ABOUT] + ([f"{more} more are not listed."] if more > 0 else [])
    return Table("Trials", heads, rows, notes=notes, id=name)


def _cell(text: str | None) -> Cell:
    try:
        return cell(float(text or ""), ".5g")
    except ValueError:
        return cell(plain(text or ""))
